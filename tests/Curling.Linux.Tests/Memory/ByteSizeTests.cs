using Curling.Linux.Memory;

namespace Curling.Linux.Tests.Memory;

public sealed class ByteSizeTests
{
    [Theory]
    [InlineData("0", 0)]
    [InlineData("1048576", 1048576)]
    [InlineData("512MiB", 512L << 20)]
    [InlineData("512 mib", 512L << 20)]
    [InlineData("4G", 4L << 30)]
    [InlineData("1.5GiB", 3L << 29)]
    [InlineData("64k", 65536)]
    [InlineData("2MB", 2_000_000)]
    [InlineData("100b", 100)]
    [InlineData("1024PiB", -1)]
    [InlineData("1048576T", 1L << 60)]
    [InlineData("1048577T", -1)]
    [InlineData("", -1)]
    [InlineData(null, -1)]
    [InlineData("G", -1)]
    [InlineData("-1", -1)]
    [InlineData("+1", -1)]
    [InlineData("1e3", -1)]
    [InlineData("1,5G", -1)]
    [InlineData("0x10", -1)]
    [InlineData("NaN", -1)]
    [InlineData("NaNG", -1)]
    [InlineData("Infinity", -1)]
    [InlineData("1 2", -1)]
    public void Sizes_are_read_as_people_write_them(string? text, long expected)
    {
        bool ok = ByteSize.TryParse(text, out long bytes);
        Assert.Equal(expected, ok ? bytes : -1);
    }

    [Theory]
    [InlineData(0, "0 B")]
    [InlineData(1023, "1023 B")]
    [InlineData(1024, "1 KiB")]
    [InlineData(1536 * 1024, "1.5 MiB")]
    [InlineData(4.0 * (1L << 30), "4 GiB")]
    [InlineData(2.0 * (1L << 40), "2 TiB")]
    public void Sizes_are_written_short(double bytes, string expected) => Assert.Equal(expected, ByteSize.Format(bytes));
}
