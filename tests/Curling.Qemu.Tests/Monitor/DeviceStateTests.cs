using CsCheck;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Tests.Monitor;

public class DeviceStateTests
{
    private static readonly byte[] Header = [0x51, 0x45, 0x56, 0x4D, 0, 0, 0, 3];

    [Fact]
    public void PutsTheTwoMissingPartsIn()
    {
        byte[] saved = [.. Header, 0x04, 0xAA, 0xBB, 0x00];
        byte[] composed = new byte[DeviceState.ComposedLength(saved.Length, "pc-q35-7.2")];
        Assert.Equal(composed.Length, DeviceState.Compose(saved, "pc-q35-7.2", composed));
        Assert.Equal(
            [.. Header, 0x07, 0, 0, 0, 10, .. "pc-q35-7.2"u8, 0x04, 0xAA, 0xBB, 0x00, 0x06, 0, 0, 0, 0], composed);
    }

    [Fact]
    public void KeepsEveryDeviceByte() => Gen.Byte.Array[0, 500].Sample(devices =>
    {
        byte[] saved = [.. Header, .. devices, 0];
        byte[] composed = new byte[DeviceState.ComposedLength(saved.Length, "pc") + 3];
        int length = DeviceState.Compose(saved, "pc", composed);
        Assert.Equal(saved.Length + 2 + 10, length);
        Assert.Equal(saved[8..], composed[15..(length - 5)]);
        Assert.Equal([0, 0, 0], composed[length..]);
    });

    [Theory]
    [InlineData("")]
    [InlineData("5145564D00000003")] // the header alone
    [InlineData("5145564D0000000400")] // a newer format
    [InlineData("5045564D0000000300")] // another magic
    [InlineData("5145564D0000000304AA")] // cut off before its end
    public void RefusesWhatQemuDidNotWriteWhole(string hex)
    {
        QemuException e = Assert.Throws<QemuException>(
            () => DeviceState.Compose(Convert.FromHexString(hex), "pc-q35-7.2", new byte[200]));
        Assert.Contains("device state", e.Message, StringComparison.Ordinal);
    }
}
