using Curling.Qemu.Memory;

namespace Curling.Qemu.Tests.Memory;

public class RamBlocksTests
{
    [Fact]
    public void ReadsWhatQemu72Prints() => Assert.Equal(
        [
            new RamBlock("ram", 0x4000000, 0x4000000, 0),
            new RamBlock("0000:00:01.0/vga.vram", 0x1000000, 0x1000000, 0),
            new RamBlock("/rom@etc/acpi/tables", 0x20000, 0x200000, 0),
        ],
        RamBlocks.Parse(
            "              Block Name    PSize              Offset               Used              Total\r\n"
            + "                     ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\r\n"
            + "   0000:00:01.0/vga.vram    4 KiB  0x0000000004080000 0x0000000001000000 0x0000000001000000\r\n"
            + "    /rom@etc/acpi/tables    4 KiB  0x00000000050c0000 0x0000000000020000 0x0000000000200000\r\n"));

    [Fact]
    public void ReadsWhatQemu100Prints() => Assert.Equal(
        [
            new RamBlock("ram", 0x4000000, 0x4000000, 0x7f6acffff000),
            new RamBlock("pc.bios", 0x40000, 0x40000, 0x7f6acf600000),
        ],
        RamBlocks.Parse(
            "              Block Name    PSize              Offset               Used              Total                HVA  RO\r\n"
            + "                     ram    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 0x00007f6acffff000  rw\r\n"
            + "                 pc.bios    4 KiB  0x0000000004000000 0x0000000000040000 0x0000000000040000 0x00007f6acf600000  ro\r\n"));

    [Theory]
    [InlineData("")]
    [InlineData("unknown command: 'info ramblock'\r\n")]
    [InlineData("ram 4 KiB 0x0 0x20 0x10")] // more used than there is
    [InlineData("ram 4 KiB 0x0 0x10")]
    [InlineData("ram 4 KiB 0x0 0x0 0xffffffffffffffff")]
    public void SaysWhenThereIsNothingToRead(string text) =>
        Assert.Contains("info ramblock", Assert.Throws<QemuException>(() => RamBlocks.Parse(text)).Message, StringComparison.Ordinal);

    [Theory]
    [InlineData("ram", false)]
    [InlineData("0000:00:01.0/vga.vram", false)]
    [InlineData("0000:00:01.0/vga.rom", true)]
    [InlineData("/rom@etc/acpi/tables", true)]
    [InlineData("pc.bios", true)]
    public void TellsRomsFromMemory(string name, bool rom) => Assert.Equal(rom, new RamBlock(name, 1, 1, 0).IsRom);
}
