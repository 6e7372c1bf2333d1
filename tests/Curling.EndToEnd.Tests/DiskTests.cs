using System.Globalization;
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
/// <remarks>
/// <para><c>CURLING_KILLS</c> sets the kills of each case and adds cases, <c>CURLING_SEED</c> changes their moments; the default keeps the whole run
/// short. All of it, 30 kills each: <c>eng/kills</c>; a case takes some minutes.</para>
/// <para>At every commit and at each promotion the replica's digest is held against that of the primary's disk at the round's cut
/// (<see cref="DiskDigests"/>), besides what the programs of the guest can tell.</para>
/// </remarks>
public sealed class DiskTests(ITestOutputHelper output)
{
    private const string Log = "curling.disk=log disklog.check=1000";
    private const string Sql = "curling.disk=sqlite disksql.check=1000";

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
        Random random = DiskPair.Chance(qemu.Length + rounds.Length + program.Length);
        for (int i = 0; i < DiskPair.Kills(1); i++)
        {
            using NetworkLab hosts = new();
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            DiskPair pair = new(lab);
            Receiver receiver = await pair.StartReceiverAsync(hosts);
            Sender sender = await pair.StartSenderAsync(receiver.Endpoint, program, "--rounds", rounds);
            using CancellationTokenSource limit = new(Daemon.Limit);
            using DiskClient client = new(await hosts.ConnectAsync(DiskPair.Address, service, limit.Token));
            await client.UntilAnsweredAsync(60);
            await Task.Delay(random.Next(0, 400));
            await DiskPair.KillAsync(sender);
            SessionStatus held = await receiver.UntilAsync("disk", s => s.Held, "is held");
            IReadOnlyList<Acknowledged> told = client.Acknowledged;
            DiskContent atRound = await pair.CheckAsync(pair.Replica, service);
            atRound.MustHold(told);

            await GoOnAsync(receiver, client);
            int compared = pair.Digests.MustAgree(held.CommittedRound);
            output.WriteLine(
                $"kill {i}: round {held.CommittedRound} holds {atRound.First} to {atRound.Last}, {told.Count} acknowledged; {compared} rounds compared");
            await receiver.StopAsync();
            DiskContent after = await pair.CheckAsync(pair.Replica, service);
            after.MustHold(client.Acknowledged);
            Assert.True(after.Last >= atRound.Last);
            await pair.EndAsync();
        }
    }

    /// <summary>What the above looks for can be missing: with output that leaves early, a client was told what the replica does not hold.</summary>
    [SkippableFact]
    public async Task Replica_lacks_what_a_client_was_told_when_output_leaves_early()
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        DiskPair pair = new(lab);
        Receiver receiver = await pair.StartReceiverAsync(hosts);
        Sender sender = await pair.StartSenderAsync(
            receiver.Endpoint, Log, "--test-release-output-early", "--sync", "periodic", "--interval", "1500ms");
        using CancellationTokenSource limit = new(Daemon.Limit);
        using DiskClient client = new(await hosts.ConnectAsync(DiskPair.Address, DiskClient.LogPort, limit.Token));
        await sender.UntilFreshRoundAsync();
        await client.UntilAnsweredAsync(20);
        await DiskPair.KillAsync(sender);
        await receiver.UntilAsync("disk", s => s.Held, "is held");
        DiskContent atRound = await pair.CheckAsync(pair.Replica, DiskClient.LogPort);
        DiskDamageException missing = Assert.Throws<DiskDamageException>(() => atRound.MustHold(client.Acknowledged));
        Assert.Contains("was acknowledged", missing.Message, StringComparison.Ordinal);
        await receiver.DiscardAsync("disk");
        await receiver.StopAsync();
        await pair.EndAsync();
    }

    /// <summary>
    /// The strict form: the replica is the primary's disk after one write, and none of the next is on it. The guest rewrites few blocks as
    /// fast as it can over a slow link, so that it writes to those that a round carries before they are read.
    /// </summary>
    [SkippableTheory]
    [InlineData("7.2", "incremental", "diskraw.flush=100", "24MiB/s")]
    [LongFormData("10.0", "full", "diskraw.flush=0", "96MiB/s")]
    public async Task Replica_is_the_primarys_disk_at_one_moment(string qemu, string rounds, string program, string bandwidth)
    {
        const long Region = 8 << 20;
        const int Block = 64 * 1024;
        Random random = DiskPair.Chance(program.Length);
        for (int i = 0; i < DiskPair.Kills(1); i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            DiskPair pair = new(lab);
            Receiver receiver = await pair.StartReceiverAsync("tcp:127.0.0.1:0");
            Sender sender = await pair.StartSenderAsync(
                receiver.Endpoint, "curling.disk=raw diskraw.rate=0 diskraw.block=64 diskraw.at=8 diskraw.region=8 " + program,
                "--rounds", rounds, "--bandwidth", bandwidth);
            SerialText serial = new((await sender.StatusAsync()).Serial!);
            await serial.UntilWrittenAsync(200);
            await sender.UntilFreshRoundAsync();
            await sender.UntilFreshRoundAsync();
            await Task.Delay(random.Next(0, 300));
            await DiskPair.KillAsync(sender);
            SessionStatus held = await receiver.UntilAsync("disk", s => s.Held, "is held");
            long here = RawPatternCheck.Check(pair.Image, 8 << 20, Region, Block);
            long there = RawPatternCheck.Check(pair.Replica, 8 << 20, Region, Block);
            Assert.InRange(there, 1, here);

            Assert.True((await receiver.PromoteAsync("disk")).Ok);
            await receiver.UntilPromotedAsync("disk");
            int compared = pair.Digests.MustAgree(held.CommittedRound);
            output.WriteLine($"kill {i}: the primary's disk ends at write {here}, the replica at {there}; {compared} rounds compared");
            await new SerialText(held.Serial!).UntilWrittenAsync(there + 1);
            await receiver.StopAsync();
            Assert.True(RawPatternCheck.Check(pair.Replica, 8 << 20, Region, Block) > there);
            await pair.EndAsync();
        }
    }

    /// <summary>Wherever the receiver was, also in the middle of applying: the next one finds memory, devices and disk at one round.</summary>
    [SkippableTheory]
    [InlineData("7.2", "incremental", Log, DiskClient.LogPort)]
    [LongFormData("10.0", "full", Sql, DiskClient.SqlPort)]
    public async Task Disk_stands_at_the_round_that_the_next_receiver_finds(string qemu, string rounds, string program, int service)
    {
        Random random = DiskPair.Chance(qemu.Length + rounds.Length);
        for (int i = 0; i < DiskPair.Kills(1); i++)
        {
            using NetworkLab hosts = new();
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            DiskPair pair = new(lab);
            Receiver receiver = await pair.StartReceiverAsync(hosts);
            Sender sender = await pair.StartSenderAsync(receiver.Endpoint, program, "--rounds", rounds, "--interval", "0");
            using CancellationTokenSource limit = new(Daemon.Limit);
            using DiskClient client = new(await hosts.ConnectAsync(DiskPair.Address, service, limit.Token));
            await client.UntilAnsweredAsync(60);
            await Task.Delay(random.Next(0, 200));
            receiver.Kill();

            // Nothing is released without the receiver; afterwards nobody is protected any more, so the sender goes too.
            await DiskPair.KillAsync(sender);
            await receiver.ExitAsync();
            Receiver next = await pair.StartReceiverAsync(hosts);
            SessionStatus found = await next.UntilAsync("disk", s => s is { Held: true, StandbyPid: not null }, "is found and held");
            DiskContent atRound = await pair.CheckAsync(pair.Replica, service);
            atRound.MustHold(client.Acknowledged);
            await GoOnAsync(next, client);
            int compared = pair.Digests.MustAgree(found.CommittedRound);
            output.WriteLine($"kill {i}: round {found.CommittedRound} holds {atRound.First} to {atRound.Last}; {compared} rounds compared");
            await next.StopAsync();
            (await pair.CheckAsync(pair.Replica, service)).MustHold(client.Acknowledged);
            await pair.EndAsync(clearAway: false);
        }
    }

    /// <summary>
    /// The strict form of the above, with a guest that writes so much that the receiver applies most of the time; every other receiver, and the
    /// one after it, makes each round safe from a loss of power.
    /// </summary>
    [SkippableTheory]
    [LongFormData("7.2", "incremental", "200ms")]
    [InlineData("10.0", "full", "50ms")]
    public async Task Replica_that_was_half_applied_is_brought_to_its_round(string qemu, string rounds, string interval)
    {
        const int Block = 64 * 1024;
        Random random = DiskPair.Chance(qemu.Length + rounds.Length);
        int halves = 0;
        for (int i = 0; i < DiskPair.Kills(2); i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            DiskPair pair = new(lab);
            string[] policy = ["--replica-sync", i % 2 == 0 ? "none" : "commit"];
            string endpoint = $"tcp:127.0.0.1:{PlainGuest.FreePort().ToString(CultureInfo.InvariantCulture)}";
            Receiver receiver = await pair.StartReceiverAsync(endpoint, policy);
            Sender sender = await pair.StartSenderAsync(
                endpoint, "curling.disk=raw diskraw.rate=0 diskraw.block=64 diskraw.at=8 diskraw.region=32 diskraw.flush=0",
                "--rounds", rounds, "--interval", interval);
            await new SerialText((await sender.StatusAsync()).Serial!).UntilWrittenAsync(100);
            await sender.UntilFreshRoundAsync();
            await KillWhenItAppliesAsync(receiver, pair.Replica, random.Next(0, 3));
            await DiskPair.KillAsync(sender);
            await receiver.ExitAsync();
            long here = RawPatternCheck.Check(pair.Image, 8 << 20, 32 << 20, Block);
            bool half = IsHalf(pair.Replica);
            halves += half ? 1 : 0;
            Receiver next = await pair.StartReceiverAsync(endpoint, policy);
            SessionStatus found = await next.UntilAsync("disk", s => s is { Held: true, StandbyPid: not null }, "is found and held");
            long there = RawPatternCheck.Check(pair.Replica, 8 << 20, 32 << 20, Block);
            Assert.InRange(there, 1, here);
            Assert.True((await next.PromoteAsync("disk")).Ok);
            await next.UntilPromotedAsync("disk");
            int compared = pair.Digests.MustAgree(found.CommittedRound);
            output.WriteLine(
                $"kill {i}: {(half ? "half applied" : "whole")}, sync {policy[1]}: round {found.CommittedRound} is write {there}; {compared} rounds compared");
            await new SerialText(found.Serial!).UntilWrittenAsync(there + 1);
            await next.StopAsync();
            Assert.True(RawPatternCheck.Check(pair.Replica, 8 << 20, 32 << 20, Block) > there);
            await pair.EndAsync(clearAway: false);
        }

        output.WriteLine($"{halves} of {DiskPair.Kills(2)} replicas were found half applied");

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
}
