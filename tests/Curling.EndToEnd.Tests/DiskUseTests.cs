using System.Text;
using System.Text.RegularExpressions;
using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>What people do with disks, and what goes wrong: booting, other formats, a standby without room, a file in the replica's place.</summary>
public sealed partial class DiskUseTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData("7.2", "q35")]
    [InlineData("10.0", "pc")]
    public async Task Guest_boots_from_its_disk_and_goes_on_reading_it_at_the_standby(string qemu, string machine)
    {
        await using Lab lab = new(output, TestGuests.Qemu(qemu));
        string image = Path.Combine(lab.Directory, "boot.img");
        await DiskTool.MustAsync("nasm", "-f", "bin", BootSector(), "-o", image);
        byte[] word = Encoding.ASCII.GetBytes("FROMDISK");
        using (FileStream stream = File.OpenWrite(image))
        {
            stream.SetLength(1 << 20);
            stream.Position = 512;
            stream.Write(word);
        }

        string guest = Path.Combine(lab.Directory, "boots.json");
        File.WriteAllText(guest, $"{{ \"name\": \"boots\", \"machine\": \"{machine}\", \"accelerator\": \"tcg\", \"memory\": \"64MiB\", \"disks\": [ {{ \"path\": \"{image}\" }} ] }}");
        Receiver receiver = await lab.StartReceiverAsync("--replica-directory", Path.Combine(lab.Directory, "replicas"), "--replica-sync", "commit");
        Sender sender = lab.StartSender(receiver.Endpoint, guest);
        string primary = Log((await sender.UntilProtectedAsync()).Serial!);
        await receiver.UntilAsync(() => Boots(primary).Count >= 3, "the guest boots and counts");
        int safe = Boots(primary)[^1];
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        SessionStatus promoted = await receiver.UntilPromotedAsync("boots");
        string standby = Log(promoted.Serial!);
        await receiver.UntilAsync(() => Boots(standby).Count >= 3, "the promoted guest counts on, reading its disk");
        IReadOnlyList<int> after = Boots(standby);
        Assert.True(after[0] > safe, $"{safe} was safe, then {after[0]}");
        Assert.Equal(Enumerable.Range(after[0], after.Count), after);
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Image_of_another_format_is_protected_as_a_raw_replica()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string raw = Path.Combine(lab.Directory, "fs.img");
        string image = Path.Combine(lab.Directory, "fs.qcow2");
        await Ext4Image.CreateAsync(raw, 64 << 20);
        await DiskTool.MustAsync("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image);
        string guest = TestGuests.WriteWithDisk(lab.Directory, "other", image, "curling.disk=log disklog.check=1000");
        File.WriteAllText(guest, File.ReadAllText(guest).Replace("\"format\": \"raw\"", "\"format\": \"qcow2\"", StringComparison.Ordinal));
        Receiver receiver = await lab.StartReceiverAsync("--on-failure", "hold", "--replica-directory", Path.Combine(lab.Directory, "replicas"));
        Sender sender = lab.StartSender(receiver.Endpoint, guest);
        string serial = Log((await sender.UntilProtectedAsync()).Serial!);
        await sender.UntilAsync(() => DiskSerial.Checks(File.ReadAllText(serial)).Count >= 2, "the guest has written and checked");
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        await receiver.UntilAsync("other", s => s.Held, "is held");
        string files = await Ext4Image.ExtractAsync(
            Path.Combine(lab.Directory, "replicas", "other-disk0.img"), Path.Combine(lab.Directory, "extracted"));
        Assert.True(DiskLogCheck.Check(files).Last > 0);
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Standby_without_room_ends_the_protection_and_the_guest_runs_on()
    {
        Skip.If(Environment.UserName != "root", "SKIPPED: a filesystem of its own needs root");
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string small = Path.Combine(lab.Directory, "small");
        Directory.CreateDirectory(small);
        await DiskTool.MustAsync("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small);
        try
        {
            string image = Path.Combine(lab.Directory, "full.img");
            byte[] content = new byte[24 << 20];
            new Random(3).NextBytes(content);
            File.WriteAllBytes(image, content);
            Receiver receiver = await lab.StartReceiverAsync("--replica-directory", small);
            Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteWithDisk(lab.Directory, "full", image, "counter.rate=500"));
            SenderStatus status = await sender.UntilAsync(s => s.State == "unprotected", "the guest is unprotected");
            await receiver.UntilLogAsync("cannot write");
            Assert.Contains(receiver.Log, l => l.Contains("full-disk0.img: cannot write", StringComparison.Ordinal));
            SerialLog serial = new(status.Serial!);
            int lines = serial.Lines().Count;
            SerialLog.AssertOneLife(await serial.UntilAsync(lines + 3));
            Assert.False(sender.HasExited);
            await sender.StopAsync();
            await receiver.StopAsync();
        }
        finally
        {
            await DiskTool.MustAsync("umount", "-l", small);
        }
    }

    [SkippableFact]
    public async Task File_in_the_replicas_place_is_not_touched_unless_that_is_asked_for()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string image = Path.Combine(lab.Directory, "mine.img");
        File.WriteAllBytes(image, new byte[1 << 20]);
        string replicas = Path.Combine(lab.Directory, "replicas");
        string place = Path.Combine(replicas, "mine-disk0.img");
        Directory.CreateDirectory(replicas);
        File.WriteAllText(place, "somebody's");
        string guest = TestGuests.WriteWithDisk(lab.Directory, "mine", image, "counter.rate=500");
        Receiver careful = await lab.StartReceiverAsync("--replica-directory", replicas);
        Sender refused = lab.StartSender(careful.Endpoint, guest);
        Assert.Equal(1, await refused.ExitAsync());
        Assert.Contains(refused.Log, l => l.Contains("is not a replica of Curling", StringComparison.Ordinal) && l.Contains("--replace-replica", StringComparison.Ordinal));
        Assert.Equal("somebody's", File.ReadAllText(place));
        await careful.StopAsync();

        Receiver told = await lab.StartReceiverAsync("--replica-directory", replicas, "--replace-replica");
        Sender sender = lab.StartSender(told.Endpoint, guest);
        await sender.UntilProtectedAsync();
        Assert.Equal(1 << 20, new FileInfo(place).Length);
        await sender.StopAsync();
        await told.StopAsync();

        // The other guest's disk is another history.
        File.Delete(image + ".curling-map");
        Receiver again = await lab.StartReceiverAsync("--replica-directory", replicas);
        Sender other = lab.StartSender(again.Endpoint, guest);
        Assert.Equal(1, await other.ExitAsync());
        Assert.Contains(other.Log, l => l.Contains("another history", StringComparison.Ordinal));
    }

    [SkippableFact]
    public async Task Image_that_cannot_be_used_is_told_before_anything_is_started()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string image = Path.Combine(lab.Directory, "odd.img");
        File.WriteAllBytes(image, new byte[1000]);
        Sender odd = lab.StartSender("tcp:127.0.0.1:1", TestGuests.WriteWithDisk(lab.Directory, "odd", image, ""));
        Assert.Equal(1, await odd.ExitAsync());
        Assert.Contains(odd.Log, l => l.Contains("odd.img", StringComparison.Ordinal) && l.Contains("512", StringComparison.Ordinal));
        Sender missing = lab.StartSender("tcp:127.0.0.1:1", TestGuests.WriteWithDisk(lab.Directory, "missing", image + "x", ""));
        Assert.Equal(1, await missing.ExitAsync());
        Assert.Contains(missing.Log, l => l.Contains("there is no image", StringComparison.Ordinal));
    }

    private static string BootSector()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Curling.sln")))
        {
            directory = directory.Parent;
        }

        return Path.Combine(
            directory?.FullName ?? throw new InvalidOperationException("the tests run outside the repository"),
            "tests", "Curling.TestKit", "Guests", "boot-sector.asm");
    }

    private static string Log(string serialSocket) => serialSocket[..^".sock".Length] + ".log";

    private static IReadOnlyList<int> Boots(string log) => !File.Exists(log)
        ? []
        : [.. Boot().Matches(File.ReadAllText(log)).Select(m => int.Parse(m.Groups[1].ValueSpan, System.Globalization.CultureInfo.InvariantCulture))];

    [GeneratedRegex(@"boot: (\d{5}) FROMDISK")]
    private static partial Regex Boot();
}
