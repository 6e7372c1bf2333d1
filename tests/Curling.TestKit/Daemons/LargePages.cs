using Curling.Linux.Memory;
using Xunit;

namespace Curling.TestKit.Daemons;

/// <summary>A memory filesystem with large pages, for tests of what daemons do on hosts where they mount one themselves.</summary>
public sealed class LargePages : IDisposable
{
    private LargePages(string path) => Path = path;

    /// <summary>Where it is mounted.</summary>
    public string Path { get; }

    /// <summary>Mounts one; null where this user may not, or the kernel has no large pages.</summary>
    public static LargePages? TryMount()
    {
        string path = Directory.CreateTempSubdirectory("cl").FullName;
        try
        {
            MemoryFilesystem.Mount(path, new DriveInfo("/dev/shm").TotalSize);
            return new LargePages(path);
        }
        catch (MemoryFileException)
        {
            Directory.Delete(path);
            return null;
        }
    }

    /// <summary>Mounts one, or skips the test.</summary>
    public static LargePages MountOrSkip()
    {
        LargePages? pages = TryMount();
        Skip.If(pages is null, "SKIPPED: a memory filesystem with large pages cannot be mounted here");
        return pages!;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Assert.True(MemoryFilesystem.Unmount(Path), $"{Path} is still in use");
        Directory.Delete(Path);
    }
}
