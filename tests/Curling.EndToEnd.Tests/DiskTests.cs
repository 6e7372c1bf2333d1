using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>
/// Disks travel with the rounds: when a host dies, the standby's replica stands at the round that its memory stands at. A Linux guest
/// keeps a log on ext4, or a database, or writes numbered blocks; a client remembers what it was told to be durable.
/// </summary>
/// <remarks><c>CURLING_KILLS</c> sets the kills of each case; the default keeps the whole run short.</remarks>
public sealed partial class DiskTests(ITestOutputHelper output)
{
    private const string Guest = "10.77.0.10";
    private const long ImageBytes = 64 << 20;
    private const string Log = "curling.disk=log disklog.check=1000";
    private const string Sql = "curling.disk=sqlite disksql.check=1000";

    private static int Kills(int standard) => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_KILLS"), CultureInfo.InvariantCulture, out int kills) ? kills : standard;

    /// <summary>
    /// The replica is looked at while the standby is held at its round: a clean filesystem, and all that was acknowledged. Then the guest goes
    /// on, with its client's connection, and finds its page cache and its disk to agree.
    /// </summary>
    [SkippableTheory]
    [InlineData("7.2", "incremental", Log, DiskClient.LogPort)]
    [InlineData("10.0", "incremental", Sql, DiskClient.SqlPort)]
    [LongFormData("10.0", "full", Log, DiskClient.LogPort)]
    [LongFormData("7.2", "incremental", Sql + " disksql.wal=0", DiskClient.SqlPort)]
    public async Task Disk_stands_at_the_round_of_the_memory_when_the_primary_is_killed(string qemu, string rounds, string program, int service)
    {
        Random random = new(qemu.Length + rounds.Length + program.Length);
        for (int i = 0; i < Kills(1); i++)
        {
            using NetworkLab hosts = new();
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            Receiver receiver = await StartReceiverAsync(lab, hosts);
            Sender sender = await StartSenderAsync(lab, receiver.Endpoint, program, "--rounds", rounds);
            using CancellationTokenSource limit = new(Daemon.Limit);
            using DiskClient client = new(await hosts.ConnectAsync(Guest, service, limit.Token));
            await client.UntilAnsweredAsync(60);
            await Task.Delay(random.Next(0, 400));
            await KillAsync(sender);
            SessionStatus held = await receiver.UntilAsync("disk", s => s.Held, "is held");
            IReadOnlyList<Acknowledged> told = client.Acknowledged;
            DiskContent atRound = await CheckAsync(lab, Replica(lab), service);
            atRound.MustHold(told);
            output.WriteLine($"kill {i}: round {held.CommittedRound} holds {atRound.First} to {atRound.Last}, {told.Count} acknowledged");

            await GoOnAsync(receiver, client);
            await receiver.StopAsync();
            DiskContent after = await CheckAsync(lab, Replica(lab), service);
            after.MustHold(client.Acknowledged);
            Assert.True(after.Last >= atRound.Last);
            await lab.ClearAwayAsync();
        }
    }

    /// <summary>
    /// The strict form: the replica is the primary's disk after one write, and none of the next is on it. The guest rewrites few blocks as
    /// fast as it can over a slow link, so that it writes to those that a round carries before they are read.
    /// </summary>
    [SkippableTheory]
    [InlineData("7.2", "incremental", "diskraw.flush=100", "24MiB/s")]
    [InlineData("10.0", "full", "diskraw.flush=0", "96MiB/s")]
    public async Task Replica_is_the_primarys_disk_at_one_moment(string qemu, string rounds, string program, string bandwidth)
    {
        const long Region = 8 << 20;
        const int Block = 64 * 1024;
        Random random = new(program.Length);
        for (int i = 0; i < Kills(1); i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            Receiver receiver = await StartReceiverAsync(lab, hosts: null, "tcp:127.0.0.1:0");
            Sender sender = await StartSenderAsync(
                lab, receiver.Endpoint, "curling.disk=raw diskraw.rate=0 diskraw.block=64 diskraw.at=8 diskraw.region=8 " + program,
                "--rounds", rounds, "--bandwidth", bandwidth);
            SerialText serial = new((await sender.StatusAsync()).Serial!);
            await serial.UntilWrittenAsync(200);
            await sender.UntilFreshRoundAsync();
            await sender.UntilFreshRoundAsync();
            await Task.Delay(random.Next(0, 300));
            await KillAsync(sender);
            SessionStatus held = await receiver.UntilAsync("disk", s => s.Held, "is held");
            long here = RawPatternCheck.Check(Image(lab), 8 << 20, Region, Block);
            long there = RawPatternCheck.Check(Replica(lab), 8 << 20, Region, Block);
            output.WriteLine($"kill {i}: the primary's disk ends at write {here}, the replica at {there}");
            Assert.InRange(there, 1, here);

            Assert.True((await receiver.PromoteAsync("disk")).Ok);
            await receiver.UntilPromotedAsync("disk");
            await new SerialText(held.Serial!).UntilWrittenAsync(there + 1);
            await receiver.StopAsync();
            Assert.True(RawPatternCheck.Check(Replica(lab), 8 << 20, Region, Block) > there);
            await lab.ClearAwayAsync();
        }
    }

    /// <summary>Wherever the receiver was, also in the middle of applying: the next one finds memory, devices and disk at one round.</summary>
    [SkippableTheory]
    [InlineData("7.2", "incremental", Log, DiskClient.LogPort)]
    [LongFormData("10.0", "full", Sql, DiskClient.SqlPort)]
    public async Task Disk_stands_at_the_round_that_the_next_receiver_finds(string qemu, string rounds, string program, int service)
    {
        Random random = new(qemu.Length + rounds.Length);
        for (int i = 0; i < Kills(1); i++)
        {
            using NetworkLab hosts = new();
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            Receiver receiver = await StartReceiverAsync(lab, hosts);
            Sender sender = await StartSenderAsync(lab, receiver.Endpoint, program, "--rounds", rounds, "--interval", "0");
            using CancellationTokenSource limit = new(Daemon.Limit);
            using DiskClient client = new(await hosts.ConnectAsync(Guest, service, limit.Token));
            await client.UntilAnsweredAsync(60);
            await Task.Delay(random.Next(0, 200));
            receiver.Kill();

            // Nothing is released without the receiver; afterwards nobody is protected any more, so the sender goes too.
            await KillAsync(sender);
            await receiver.ExitAsync();
            Receiver next = await StartReceiverAsync(lab, hosts);
            SessionStatus found = await next.UntilAsync("disk", s => s is { Held: true, StandbyPid: not null }, "is found and held");
            DiskContent atRound = await CheckAsync(lab, Replica(lab), service);
            atRound.MustHold(client.Acknowledged);
            output.WriteLine($"kill {i}: round {found.CommittedRound} holds {atRound.First} to {atRound.Last}");
            await GoOnAsync(next, client);
            await next.StopAsync();
            (await CheckAsync(lab, Replica(lab), service)).MustHold(client.Acknowledged);
        }
    }

    /// <summary>The strict form of the above, with a guest that writes so much that the receiver applies most of the time.</summary>
    [SkippableTheory]
    [LongFormData("7.2", "incremental", "200ms")]
    [InlineData("10.0", "full", "50ms")]
    public async Task Replica_that_was_half_applied_is_brought_to_its_round(string qemu, string rounds, string interval)
    {
        const int Block = 64 * 1024;
        Random random = new(qemu.Length + rounds.Length);
        int halves = 0;
        for (int i = 0; i < Kills(2); i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            string endpoint = $"tcp:127.0.0.1:{PlainGuest.FreePort().ToString(CultureInfo.InvariantCulture)}";
            Receiver receiver = await StartReceiverAsync(lab, hosts: null, endpoint);
            Sender sender = await StartSenderAsync(
                lab, endpoint, "curling.disk=raw diskraw.rate=0 diskraw.block=64 diskraw.at=8 diskraw.region=32 diskraw.flush=0",
                "--rounds", rounds, "--interval", interval);
            await new SerialText((await sender.StatusAsync()).Serial!).UntilWrittenAsync(100);
            await sender.UntilFreshRoundAsync();
            await KillWhenItAppliesAsync(receiver, Replica(lab), random.Next(0, 3));
            await KillAsync(sender);
            await receiver.ExitAsync();
            long here = RawPatternCheck.Check(Image(lab), 8 << 20, 32 << 20, Block);
            halves += IsHalf(Replica(lab)) ? 1 : 0;
            Receiver next = await StartReceiverAsync(lab, hosts: null, endpoint);
            SessionStatus found = await next.UntilAsync("disk", s => s is { Held: true, StandbyPid: not null }, "is found and held");
            long there = RawPatternCheck.Check(Replica(lab), 8 << 20, 32 << 20, Block);
            Assert.InRange(there, 1, here);
            Assert.True((await next.PromoteAsync("disk")).Ok);
            await next.UntilPromotedAsync("disk");
            await new SerialText(found.Serial!).UntilWrittenAsync(there + 1);
            await next.StopAsync();
            Assert.True(RawPatternCheck.Check(Replica(lab), 8 << 20, 32 << 20, Block) > there);
        }

        output.WriteLine($"{halves} of {Kills(2)} replicas were found half applied");

        static bool IsHalf(string replica)
        {
            try
            {
                RawPatternCheck.Check(replica, 8 << 20, 32 << 20, Block);
                return false;
            }
            catch (DiskDamageException)
            {
                return true;
            }
        }
    }

    /// <summary>The disk holds 32 MiB; the guest writes to 4 MiB of it while nobody hears the sender.</summary>
    [SkippableTheory]
    [InlineData("incremental")]
    [LongFormData("full")]
    public async Task Only_what_changed_travels_after_the_link_was_broken(string rounds)
    {
        const long Full = 32 << 20;
        const long Region = 4 << 20;
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await StartReceiverAsync(lab, hosts: null, "tcp:127.0.0.1:0");
        await using CuttableLink link = new(receiver.Port);
        byte[] old = new byte[Full];
        new Random(1).NextBytes(old);
        Ext4Image.CreateEmpty(Image(lab), ImageBytes);
        using (FileStream stream = File.OpenWrite(Image(lab)))
        {
            stream.Write(old.AsSpan((int)Region));
        }

        Sender sender = await StartSenderAsync(
            lab, link.Endpoint, "curling.disk=raw diskraw.rate=512 diskraw.at=60 diskraw.region=4", "--rounds", rounds);
        JsonElement first = await DiskAsync(lab, sender);
        Assert.True(first.GetProperty("bytesTotal").GetInt64() >= Full - Region, $"the first copy: {first}");
        await sender.UntilFreshRoundAsync();
        link.Cut();
        await sender.UntilAsync(s => s.State is not "protected", "the sender notices");
        await Task.Delay(TimeSpan.FromSeconds(10));
        link.Mend();
        await sender.UntilProtectedAsync();
        JsonElement disk = await DiskAsync(lab, sender);
        long again = disk.GetProperty("bytesTotal").GetInt64();
        output.WriteLine($"first copy {first.GetProperty("bytesTotal").GetInt64()} bytes, after the break {again} bytes: {disk}");
        Assert.InRange(again, 1, Region);
        Assert.True(disk.GetProperty("complete").GetBoolean());

        await sender.UntilFreshRoundAsync();
        await KillAsync(sender);
        await receiver.UntilAsync("disk", s => s.Held, "is held");
        long here = RawPatternCheck.Check(Image(lab), 60 << 20, Region);
        Assert.InRange(RawPatternCheck.Check(Replica(lab), 60 << 20, Region), 1, here);
        Assert.True(File.ReadAllBytes(Replica(lab)).AsSpan(0, 60 << 20).SequenceEqual(File.ReadAllBytes(Image(lab)).AsSpan(0, 60 << 20)));
        await receiver.DiscardAsync("disk");
        await receiver.StopAsync();
        await lab.ClearAwayAsync();
    }

    private static string Image(Lab lab) => Path.Combine(lab.Directory, "primary.img");

    private static string Replica(Lab lab) => Path.Combine(lab.Directory, "replicas", "disk-disk0.img");

    /// <summary>Always at the same address of the hosts' network, so that the next one finds what is left of one that was killed.</summary>
    private static Task<Receiver> StartReceiverAsync(Lab lab, NetworkLab? hosts, string endpoint = $"tcp:{NetworkLab.StandbyAddress}:7711")
    {
        lab.SenderNamespace = hosts?.Primary;
        lab.ReceiverNamespace = hosts?.Standby;
        return lab.StartReceiverAsync(["--listen", endpoint, "--on-failure", "hold", "--replica-directory", Path.Combine(lab.Directory, "replicas")]);
    }

    /// <summary>Starts the guest, on a new disk unless there is one, and waits until it is protected with its disk.</summary>
    private static async Task<Sender> StartSenderAsync(Lab lab, string target, string program, params string[] options)
    {
        if (program.Contains("=log") || program.Contains("=sqlite"))
        {
            await Ext4Image.CreateAsync(Image(lab), ImageBytes);
        }
        else if (!File.Exists(Image(lab)))
        {
            Ext4Image.CreateEmpty(Image(lab), ImageBytes);
        }

        string? address = lab.SenderNamespace is null ? null : Guest;
        Sender sender = lab.StartSender(target, TestGuests.WriteWithDisk(lab.Directory, "disk", Image(lab), program, address), options);
        SenderStatus status = await sender.UntilProtectedAsync();
        await new SerialText(status.Serial!).UntilAsync(": ready ");
        return sender;
    }

    /// <summary>Kills the receiver with one of its next writes to a replica.</summary>
    private static async Task KillWhenItAppliesAsync(Receiver receiver, string replica, int writes)
    {
        TaskCompletionSource killed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using FileSystemWatcher watcher = new(Path.GetDirectoryName(replica)!, Path.GetFileName(replica)) { NotifyFilter = NotifyFilters.LastWrite };
        watcher.Changed += (_, _) =>
        {
            if (writes-- == 0)
            {
                receiver.Kill();
                killed.TrySetResult();
            }
        };
        watcher.EnableRaisingEvents = true;
        await killed.Task.WaitAsync(Daemon.Limit);
    }

    /// <summary>Kills the primary's host: the daemon and, with it, its QEMU.</summary>
    private static async Task KillAsync(Sender sender)
    {
        int qemu = (await sender.StatusAsync()).GuestPid!.Value;
        sender.Kill();
        await sender.ExitAsync();
        await sender.UntilAsync(() => !Linux.Processes.ProcessInfo.Exists(qemu), "the primary's QEMU is dead");
    }

    /// <summary>The held guest runs: its client goes on, and it finds its memory and its disk to agree, with caches dropped.</summary>
    private static async Task GoOnAsync(Receiver receiver, DiskClient client)
    {
        Assert.True((await receiver.PromoteAsync("disk")).Ok);
        SessionStatus promoted = await receiver.UntilPromotedAsync("disk");
        await client.UntilAnsweredAsync(30);
        SerialText serial = new(promoted.Serial!);
        await serial.UntilAsync("dropped consistent");
        await client.StopAsync();
        Assert.NotEmpty(DiskSerial.Checks(serial.Read()));
    }

    private static async Task<DiskContent> CheckAsync(Lab lab, string image, int service)
    {
        string files = await Ext4Image.ExtractAsync(image, Path.Combine(lab.Directory, Guid.NewGuid().ToString("N")));
        return service == DiskClient.LogPort ? DiskLogCheck.Check(files) : await DiskSqlCheck.CheckAsync(files);
    }

    /// <summary>The guest's disk, as <c>curling-send status --json</c> has it.</summary>
    private static async Task<JsonElement> DiskAsync(Lab lab, Sender sender)
    {
        (int code, string text, string error) = await lab.RunAsync("curling-send", "status", "--control", sender.Control, "--json");
        Assert.True(code == 0, error);
        return JsonDocument.Parse(text).RootElement.GetProperty("disks")[0];
    }

    /// <summary>What a guest prints besides the counting program's lines.</summary>
    private sealed partial class SerialText(string socket)
    {
        private readonly string _path = socket[..^".sock".Length] + ".log";

        public string Read()
        {
            if (!File.Exists(_path))
            {
                return "";
            }

            using FileStream stream = new(_path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
            using StreamReader reader = new(stream);
            return reader.ReadToEnd();
        }

        public Task UntilAsync(string text) => UntilAsync(serial => serial.Contains(text, StringComparison.Ordinal), $"\"{text}\"");

        public Task UntilWrittenAsync(long writes) => UntilAsync(
            serial => Written().Matches(serial).Any(m => long.Parse(m.Groups[1].ValueSpan, CultureInfo.InvariantCulture) >= writes),
            $"that it made write {writes}");

        private async Task UntilAsync(Func<string, bool> holds, string what)
        {
            long start = Environment.TickCount64;
            while (!holds(Read()))
            {
                _ = DiskSerial.Checks(Read());
                if (Environment.TickCount64 - start > Daemon.Limit.TotalMilliseconds)
                {
                    throw new TimeoutException($"the guest does not say {what}: {Read()}");
                }

                await Task.Delay(20);
            }
        }

        [GeneratedRegex(@"disk-raw: written=(\d+)\r?\n")]
        private static partial Regex Written();
    }
}
