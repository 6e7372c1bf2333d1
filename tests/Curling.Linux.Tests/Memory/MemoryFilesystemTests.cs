using Curling.Linux.Memory;

namespace Curling.Linux.Tests.Memory;

/// <summary>Finding and making memory filesystems with large pages.</summary>
public sealed class MemoryFilesystemTests
{
    [Theory]
    [InlineData("36 30 0:32 / /x rw,nosuid,nodev shared:5 - tmpfs tmpfs rw,size=1024k,huge=within_size", true)]
    [InlineData("36 30 0:32 / /x rw shared:5 master:7 - tmpfs tmpfs rw,huge=always", true)]
    [InlineData("36 30 0:32 / /x rw - tmpfs tmpfs rw,huge=within_size", true)]
    [InlineData("36 30 0:32 / /x rw - tmpfs tmpfs rw,huge=advise", false)]
    [InlineData("36 30 0:32 / /x rw - tmpfs tmpfs rw", false)]
    [InlineData("36 30 0:32 / /x rw - ext4 /dev/vda rw,huge=always", false)]
    [InlineData("36 30 0:32 / /x/y rw - tmpfs tmpfs rw,huge=always", false)]
    [InlineData("36 30 0:32 / /x rw huge=always", false)]
    [InlineData("36 30", false)]
    [InlineData("", false)]
    public void Large_pages_are_read_from_the_mounts(string line, bool large) =>
        Assert.Equal(large, MemoryFilesystem.LargePagesSource([line], "/x") is not null);

    [Fact]
    public void Of_two_mounts_at_one_place_the_last_is_seen()
    {
        const string Large = "36 30 0:32 / /x rw - tmpfs tmpfs rw,huge=always";
        const string Small = "37 36 0:33 / /x rw - tmpfs tmpfs rw";
        Assert.Null(MemoryFilesystem.LargePagesSource([Large, Small], "/x"));
        Assert.Equal("tmpfs", MemoryFilesystem.LargePagesSource([Small, Large], "/x"));
    }

    [SkippableFact]
    public void One_is_mounted_holds_a_file_and_is_not_unmounted_while_it_is_in_use()
    {
        using TemporaryDirectory directory = new();
        Assert.False(MemoryFilesystem.HasLargePages(directory.Path));
        MountOrSkip(directory.Path, 8 << 20);
        try
        {
            Assert.True(MemoryFilesystem.HasLargePages(directory.Path));
            Assert.True(MemoryFilesystem.IsOurs(directory.Path));
            Assert.Equal(8 << 20, new DriveInfo(directory.Path).TotalSize);
            using (SharedMapping.Create(directory.File("ram"), 4096))
            {
                Assert.False(MemoryFilesystem.Unmount(directory.Path));
            }
        }
        finally
        {
            Assert.True(MemoryFilesystem.Unmount(directory.Path));
        }

        Assert.False(MemoryFilesystem.HasLargePages(directory.Path));
        Assert.False(MemoryFilesystem.Unmount(directory.Path));
    }

    [Fact]
    public void A_place_that_is_not_there_is_named()
    {
        MemoryFileException e = Assert.Throws<MemoryFileException>(() => MemoryFilesystem.Mount("/dev/shm/there-is-no-such-place", 4096));
        Assert.Contains("/dev/shm/there-is-no-such-place", e.Message, StringComparison.Ordinal);
    }

    /// <summary>Skips the test where this user may not mount, or the kernel has no large pages.</summary>
    internal static void MountOrSkip(string path, long bytes)
    {
        try
        {
            MemoryFilesystem.Mount(path, bytes);
        }
        catch (MemoryFileException e)
        {
            Skip.If(true, $"SKIPPED: {e.Message}");
        }
    }
}
