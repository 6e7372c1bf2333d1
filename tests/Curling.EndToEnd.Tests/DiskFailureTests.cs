using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>An image that fails under a running guest: the guest is told what is wrong, as a disk would, and runs on.</summary>
public sealed class DiskFailureTests(ITestOutputHelper output)
{
    private const string Program = "curling.disk=raw diskraw.rate=16384 diskraw.block=64 diskraw.at=8 diskraw.region=32";

    [SkippableFact]
    public async Task Guest_is_told_that_there_is_no_room_and_stays_protected()
    {
        Skip.If(Environment.UserName != "root", "SKIPPED: a filesystem of its own needs root");
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string small = Path.Combine(lab.Directory, "small");
        Directory.CreateDirectory(small);
        await DiskTool.MustAsync("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small);
        try
        {
            string image = Path.Combine(small, "sparse.img");
            Ext4Image.CreateEmpty(image, 64 << 20);
            Receiver receiver = await lab.StartReceiverAsync("--replica-directory", Path.Combine(lab.Directory, "replicas"));
            Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteWithDisk(lab.Directory, "room", image, Program));
            string socket = (await sender.UntilProtectedAsync()).Serial!;
            await UntilToldAsync(sender, socket);
            Assert.Contains(sender.Log, l => l.Contains("with error 28 ", StringComparison.Ordinal) && l.Contains("sparse.img cannot be written", StringComparison.Ordinal));
            await sender.UntilFreshRoundAsync();
            await sender.StopAsync();
            await receiver.StopAsync();
        }
        finally
        {
            await DiskTool.MustAsync("umount", "-l", small);
        }
    }

    [SkippableFact]
    public async Task Guest_is_told_that_its_disk_cannot_be_written_and_runs_on()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string image = Path.Combine(lab.Directory, "fails.qcow2");
        await DiskTool.MustAsync("qemu-img", "create", "-q", "-f", "qcow2", image, "64M");
        string guest = TestGuests.WriteWithDisk(lab.Directory, "fails", image, Program);
        File.WriteAllText(guest, File.ReadAllText(guest).Replace("\"format\": \"raw\"", "\"format\": \"qcow2\"", StringComparison.Ordinal));
        Receiver receiver = await lab.StartReceiverAsync("--replica-directory", Path.Combine(lab.Directory, "replicas"));
        Sender sender = lab.StartSender(receiver.Endpoint, guest);
        string socket = (await sender.UntilProtectedAsync()).Serial!;
        await new SerialText(socket).UntilWrittenAsync(1);

        // What is between the guest and the image's bytes dies, as a device does.
        int tool = Children(sender.Pid).Single(p => Linux.Processes.ProcessInfo.CommandLine(p)!.Contains("qemu-storage-daemon", StringComparison.Ordinal));
        Daemon.Signal(tool, 9);
        await UntilToldAsync(sender, socket);
        await sender.StopAsync();
        await receiver.StopAsync();
    }

    /// <summary>Waits until the guest's program meets an error, and until the guest prints more than that afterwards.</summary>
    /// <remarks>A virtio-blk device knows one error for all that an image may meet (virtio 1.2, 5.2.6: VIRTIO_BLK_S_IOERR): the guest's kernel says EIO.</remarks>
    private static async Task UntilToldAsync(Sender sender, string socket)
    {
        SerialText text = new(socket);
        await sender.UntilAsync(() => text.Read().Contains("FAILED: write ", StringComparison.Ordinal), "the guest says that a write failed");
        Assert.Contains("Input/output error", text.Read()[text.Read().IndexOf("FAILED", StringComparison.Ordinal)..], StringComparison.Ordinal);
        SerialLog serial = new(socket);
        int lines = serial.Lines().Count;
        SerialLog.AssertOneLife(await serial.UntilAsync(lines + 2));
        SenderStatus status = await sender.StatusAsync();
        Assert.False(sender.HasExited);
        Assert.NotNull(status.GuestPid);
    }

    private static IEnumerable<int> Children(int pid) => Directory.EnumerateDirectories($"/proc/{pid}/task")
        .SelectMany(t => File.ReadAllText(Path.Combine(t, "children")).Split(' ', StringSplitOptions.RemoveEmptyEntries))
        .Select(int.Parse);
}
