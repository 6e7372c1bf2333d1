using System.Security.Cryptography;
using Curling.Linux.Processes;
using Curling.Storage.Images;
using Curling.Storage.Nbd;
using Curling.TestKit.Guests;

namespace Curling.Storage.Tests.Live;

/// <summary>A Linux guest whose disk is an export.</summary>
public sealed class GuestDiskTests
{
    private const int Half = 16 << 20;
    private const int Block = 64 << 10;

    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task A_guest_reads_and_writes_its_disk_and_waits_while_the_export_is_away(string version)
    {
        string binary = TestGuests.Qemu(version);
        string? kernel = Environment.GetEnvironmentVariable("CURLING_LINUX_KERNEL");
        string? initrd = Environment.GetEnvironmentVariable("CURLING_LINUX_INITRD");
        Skip.If(string.IsNullOrEmpty(kernel) || string.IsNullOrEmpty(initrd), "SKIPPED: the Linux guest is not built; run eng/install-deps test");
        using TestDirectory directory = new();
        string path = directory.File("disk.img");
        byte[] disk = new byte[2 * Half];
        new Random(4).NextBytes(disk.AsSpan(0, Half));
        await File.WriteAllBytesAsync(path, disk);
        disk.AsSpan(0, Half).CopyTo(disk.AsSpan(Half));

        Recorded log = new();
        string socket = directory.File("disk.sock");
        string serial = directory.File("serial");
        await using RawImage image = RawImage.Open(path, readOnly: false);
        NbdServer server = NbdServer.Start(socket, "disk0", image, log);
        await using ChildProcess qemu = ChildProcess.Start(new ChildProcessOptions(
            binary,
            [
                "-machine", "q35", "-accel", "tcg", "-m", "192", "-display", "none", "-nodefaults", "-kernel", kernel!, "-initrd", initrd!,
                "-append", $"console=ttyS0 quiet counter.ws=8 counter.rate=500 curling.disk={Half / Block}", "-serial", $"file:{serial}",
                "-blockdev", $"driver=nbd,node-name=disk,server.type=unix,server.path={socket},export=disk0,reconnect-delay=60",
                "-device", "virtio-blk-pci,drive=disk",
            ]));
        await UntilAsync(() => log.Lines.Any(l => l.Contains("DiskClientConnected", StringComparison.Ordinal)), qemu);

        // The guest has not come to its disk yet: what it asks for first waits for the export that comes after this one.
        await server.DisposeAsync();
        await using NbdServer next = NbdServer.Start(socket, "disk0", image, log);
        await UntilAsync(() => Text(serial).Contains("disk ", StringComparison.Ordinal), qemu);
        string sum = Convert.ToHexStringLower(SHA256.HashData(disk));
        await UntilAsync(() => Text(serial).Contains($"disk {sum}", StringComparison.Ordinal), qemu);
        Assert.True(disk.AsSpan().SequenceEqual(ReadShared(path)), "the image is not what the guest says");
        Assert.True(next.Counters is { Errors: 0, Violations: 0, Flushes: > 0 }, $"{next.Counters}");
    }

    private static string Text(string serial) => File.Exists(serial) ? File.ReadAllText(serial) : "";

    private static byte[] ReadShared(string path)
    {
        using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        byte[] data = new byte[file.Length];
        file.ReadExactly(data);
        return data;
    }

    private static async Task UntilAsync(Func<bool> condition, ChildProcess qemu)
    {
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(120));
        while (!condition())
        {
            Assert.False(qemu.HasExited, qemu.ErrorTail);
            await Task.Delay(20, limit.Token);
        }
    }
}
