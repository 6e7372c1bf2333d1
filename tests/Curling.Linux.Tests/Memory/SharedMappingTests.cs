using Curling.Linux.Memory;

namespace Curling.Linux.Tests.Memory;

public sealed class SharedMappingTests : IDisposable
{
    private const int Page = 4096;
    private readonly TemporaryDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [Fact]
    public void A_new_file_is_zero_and_what_one_mapping_writes_the_other_sees()
    {
        using SharedMapping one = SharedMapping.Create(_directory.File("ram"), 64 * Page);
        using SharedMapping two = SharedMapping.Open(_directory.File("ram"), writable: true);
        Assert.Equal(64 * Page, two.Length);
        Assert.True(MemoryCopy.IsZero(two.Span(0, 64 * Page)));

        one.Span(5 * Page, 3).Fill(7);
        two.Span(64 * Page - 1, 1)[0] = 9;

        Assert.Equal([7, 7, 7, 0], two.Span(5 * Page, 4).ToArray());
        Assert.Equal(9, one.Span(64 * Page - 1, 1)[0]);
    }

    [Fact]
    public void What_is_written_through_the_file_is_in_the_mapping()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), 64 * Page);
        byte[] bytes = new byte[20 * Page];
        Array.Fill(bytes, (byte)3);
        mapping.Write(40 * Page, bytes);
        Assert.Equal(bytes, mapping.Span(40 * Page, bytes.Length).ToArray());
        Assert.True(MemoryCopy.IsZero(mapping.Span(0, 40 * Page)));
        Assert.Throws<ArgumentOutOfRangeException>(() => mapping.Write(50 * Page, bytes));
    }

    [Fact]
    public void Only_its_owner_may_read_it()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), Page);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(mapping.Path));
    }

    [Fact]
    public void The_file_stays_when_the_mapping_goes()
    {
        SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), 2 * Page);
        mapping.Span(Page, 1)[0] = 1;
        mapping.Dispose();
        mapping.Dispose();

        Assert.Throws<ObjectDisposedException>(() => mapping.Span(0, 1).Length);
        Assert.Equal(1, File.ReadAllBytes(_directory.File("ram"))[Page]);
    }

    [Fact]
    public void What_is_not_inside_is_refused()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), Page);
        Assert.Equal(0, mapping.Span(Page, 0).Length);
        foreach ((long offset, int length) in ((long, int)[])[(-1, 1), (0, Page + 1), (Page, 1), (0, -1), (long.MaxValue, 1), (long.MinValue, 1)])
        {
            Assert.Throws<ArgumentOutOfRangeException>(() => mapping.Span(offset, length).Length);
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => mapping.Populate(0, Page + 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => mapping.Populate(-1, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => mapping.Populate(0, -1));
    }

    [Fact]
    public void A_file_larger_than_the_room_there_is_is_refused_before_it_is_made()
    {
        MemoryFileException e = Assert.Throws<MemoryFileException>(() => SharedMapping.Create(_directory.File("ram"), 1L << 50));
        Assert.Contains("no room in " + _directory.Path, e.Message, StringComparison.Ordinal);
        Assert.Contains("needs 1073741824 MiB", e.Message, StringComparison.Ordinal);
        Assert.False(File.Exists(_directory.File("ram")));
    }

    [Fact]
    public void A_file_that_exists_is_not_taken_over()
    {
        File.WriteAllText(_directory.File("ram"), "someone else's");
        MemoryFileException e = Assert.Throws<MemoryFileException>(() => SharedMapping.Create(_directory.File("ram"), Page));
        Assert.Contains(_directory.File("ram"), e.Message, StringComparison.Ordinal);
        Assert.Equal("someone else's", File.ReadAllText(_directory.File("ram")));
    }

    [Fact]
    public void A_missing_and_an_empty_file_are_said_to_be_so()
    {
        MemoryFileException missing = Assert.Throws<MemoryFileException>(() => SharedMapping.Open(_directory.File("none"), writable: false));
        Assert.Contains(_directory.File("none"), missing.Message, StringComparison.Ordinal);
        Assert.NotNull(missing.InnerException);

        File.WriteAllText(_directory.File("empty"), "");
        MemoryFileException empty = Assert.Throws<MemoryFileException>(() => SharedMapping.Open(_directory.File("empty"), writable: true));
        Assert.Contains("empty", empty.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_directory_that_is_not_there_is_said_to_be_so()
    {
        string path = Path.Combine(_directory.Path, "missing", "ram");
        MemoryFileException e = Assert.Throws<MemoryFileException>(() => SharedMapping.Create(path, Page));
        Assert.Contains("missing", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_hole_reads_as_zeros_for_everybody_and_gives_its_memory_back()
    {
        using SharedMapping one = SharedMapping.Create(_directory.File("ram"), 16 * Page);
        using SharedMapping two = SharedMapping.Open(_directory.File("ram"), writable: false);
        one.Span(0, 16 * Page).Fill(3);

        one.PunchHole(4 * Page, 8 * Page);

        Assert.True(MemoryCopy.IsZero(two.Span(4 * Page, 8 * Page)));
        Assert.Equal(3, two.Span(4 * Page - 1, 1)[0]);
        Assert.Equal(3, two.Span(12 * Page, 1)[0]);
        Assert.Equal(16 * Page, new FileInfo(one.Path).Length);
    }

    [Fact]
    public void Data_is_found_between_holes()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), 64 * Page);
        Assert.False(mapping.NextData(0, out _, out _));
        mapping.Span(8 * Page, 2 * Page).Fill(1);
        mapping.Span(63 * Page, 1)[0] = 1;

        List<(long, long)> found = [];
        for (long offset = 0; mapping.NextData(offset, out long start, out long end); offset = end)
        {
            found.Add((start / Page, end / Page));
        }

        Assert.Equal([(8, 10), (63, 64)], found);
        Assert.Equal(8, mapping.FirstData(0) / Page);
        Assert.Equal(9 * Page, mapping.FirstData(9 * Page));
        Assert.Equal(63, mapping.FirstData(10 * Page) / Page);
        mapping.PunchHole(63 * Page, Page);
        Assert.Equal(mapping.Length, mapping.FirstData(10 * Page));
    }

    [Fact]
    public void Memory_whose_mapping_was_dropped_holds_what_it_held()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), 64 * Page);
        mapping.Span(3 * Page, Page).Fill(7);
        mapping.Unmap();
        Assert.Equal(7, mapping.Span(4 * Page - 1, 1)[0]);
        Assert.True(MemoryCopy.IsZero(mapping.Span(4 * Page, Page)));
    }

    [Fact]
    public void Populated_memory_is_there_and_still_zero()
    {
        using SharedMapping mapping = SharedMapping.Create(_directory.File("ram"), 32 * Page);
        mapping.Span(0, 1)[0] = 5;
        mapping.Populate(0, 16 * Page);
        Assert.Equal(5, mapping.Span(0, 1)[0]);
        Assert.True(MemoryCopy.IsZero(mapping.Span(1, 32 * Page - 1)));
    }
}
