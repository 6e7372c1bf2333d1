using Curling.Linux.Tracking;

namespace Curling.Linux.Tests.Tracking;

public sealed class ProcessMapsTests
{
    [Fact]
    public void Every_kind_of_line_is_read()
    {
        const string Text = """
            55a0c0000000-55a0c0001000 r--p 00000000 fe:00 1234                       /usr/bin/some program
            7f0000000000-7f0010000000 rw-s 00003000 00:19 5                          /dev/shm/curling/g1/ram (deleted)
            7f0010000000-7f0010001000 rw-p 00000000 00:00 0 
            7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
            """;
        Assert.Equal(
            [
                new(0x55a0c0000000, 0x55a0c0001000, "r--p", 0, "/usr/bin/some program"),
                new(0x7f0000000000, 0x7f0010000000, "rw-s", 0x3000, "/dev/shm/curling/g1/ram (deleted)"),
                new(0x7f0010000000, 0x7f0010001000, "rw-p", 0, ""),
                new(0x7ffd00000000, 0x7ffd00021000, "rw-p", 0, "[stack]"),
                new(0xffffffffff600000, 0xffffffffff601000, "--xp", 0, "[vsyscall]"),
            ],
            ProcessMaps.Parse(Text));
    }

    [Theory]
    [InlineData("")]
    [InlineData("\n\n")]
    [InlineData("no line of maps at all")]
    [InlineData("7f00 rw-p 00000000 00:00 0")]
    [InlineData("-7f00 rw-p 00000000 00:00 0")]
    [InlineData("7f00- rw-p 00000000 00:00 0")]
    [InlineData("7g00-7h00 rw-p 00000000 00:00 0")]
    [InlineData("11112222333344445-2 rw-p 00000000 00:00 0")]
    public void Lines_of_another_shape_are_left_out(string text) => Assert.Empty(ProcessMaps.Parse(text));

    [Fact]
    public void This_process_has_its_stack_and_its_code()
    {
        IReadOnlyList<MapEntry> maps = ProcessMaps.Read(Environment.ProcessId);
        Assert.Contains(maps, m => m.Path == "[stack]" && m.Permissions.StartsWith("rw", StringComparison.Ordinal));
        Assert.Contains(maps, m => m.Permissions.Contains('x') && m.Path.Contains("libc", StringComparison.Ordinal));
        Assert.All(maps, m => Assert.True(m.End > m.Start));
    }

    [Fact]
    public void A_process_that_is_not_there_is_an_error() => Assert.ThrowsAny<IOException>(() => ProcessMaps.Read(int.MaxValue));
}
