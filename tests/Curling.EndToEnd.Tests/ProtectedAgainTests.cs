using System.Globalization;
using Curling.Hosting.Control;
using Curling.Qemu.BuiltinGuest;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>A guest that was promoted is given a new standby while it runs, and fails over again, forth and back.</summary>
/// <remarks><c>CURLING_FAILOVERS</c> sets how often; the default keeps the whole run short.</remarks>
public sealed class ProtectedAgainTests(ITestOutputHelper output)
{
    private const string Guest = "10.77.0.100";
    private const long MemorySlack = 48L << 20; // what a garbage collector may not have given back

    private static int Failovers(int standard) => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_FAILOVERS"), CultureInfo.InvariantCulture, out int count) ? count : standard;

    [SkippableTheory]
    [InlineData("7.2", 6, false)]
    [InlineData("10.0", 2, true)]
    public async Task Guest_goes_forth_and_back_between_two_daemons_and_leaves_nothing_behind(string qemu, int standard, bool large)
    {
        using LargePages? pages = large ? LargePages.MountOrSkip() : null;
        await using Lab lab = new(output, TestGuests.Qemu(qemu), pages?.Path);
        Receiver[] hosts = [await lab.StartReceiverAsync(), await lab.StartReceiverAsync()];
        Sender first = lab.StartSender(hosts[0].Endpoint, TestGuests.WriteLinux(lab.Directory, "linux"));
        SerialLog serial = new((await first.UntilProtectedAsync()).Serial!);
        await serial.UntilAsync(2);
        await first.UntilFreshRoundAsync();
        first.Kill();
        await first.ExitAsync();
        int failovers = Failovers(standard);
        int here = 0;
        long last = serial.Lines()[^1].Count;
        (int Descriptors, int Threads, int Children, long Bytes)[]? before = null;
        for (int i = 0; i < failovers; i++)
        {
            SessionStatus promoted = await hosts[here].UntilPromotedAsync("linux");
            Assert.Equal(i + 2, promoted.Generation);
            SerialLog now = new(promoted.Serial!);
            IReadOnlyList<GuestLine> lines = await now.UntilAsync(2);
            Assert.InRange(lines[0].Count, 1, last + 2);
            ControlReply protect = await hosts[here].ProtectAsync("linux", hosts[1 - here].Endpoint);
            Assert.True(protect.Ok, protect.Error);
            await hosts[here].UntilProtectedAgainAsync("linux");
            long safe = now.Lines()[^1].Count;
            SessionStatus fresh = await hosts[here].UntilProtectedAgainAsync("linux");
            if (i == 2)
            {
                before = [.. hosts.Select(h => h.Resources())];
            }

            if (i % 2 == 0)
            {
                Daemon.Signal(fresh.StandbyPid!.Value, 9);
            }
            else
            {
                ControlReply moved = await hosts[here].SwitchoverAsync("linux");
                Assert.True(moved.Ok, moved.Error);
            }

            await hosts[here].UntilAsync("linux", s => s.State == "ended", "has ended where it was");
            here = 1 - here;
            SessionStatus next = await hosts[here].UntilPromotedAsync("linux");
            lines = now.Lines();
            SerialLog.AssertOneLife(lines);
            last = lines[^1].Count;
            GuestLine continued = (await new SerialLog(next.Serial!).UntilAsync(1))[0];
            Assert.True(continued.Consistent && continued.Count > safe && continued.Count <= last + 2, $"{safe} was safe, {last} printed, then {continued}");
        }

        if (before is not null)
        {
            // Compared where the guest is at the same host and in the same state as then.
            await hosts[here].ProtectAsync("linux", hosts[1 - here].Endpoint);
            await hosts[here].UntilProtectedAgainAsync("linux");
            for (int h = 0; h < 2; h++)
            {
                (int Descriptors, int Threads, int Children, long Bytes) after = hosts[h].Resources();
                output.WriteLine($"host {h}: {before[h]} after 3 failovers, {after} after {failovers}");

                // As large as the larger of the two then: it has the guest or its standby.
                Assert.InRange(after.Descriptors, 0, Math.Max(before[0].Descriptors, before[1].Descriptors) + 6);
                Assert.InRange(after.Children, 0, 1);
                Assert.InRange(after.Bytes, 0, Math.Max(before[0].Bytes, before[1].Bytes) + MemorySlack);
                Assert.InRange(after.Threads, 0, Math.Max(before[0].Threads, before[1].Threads) + 16);
            }

            Assert.Equal(4, Directory.GetDirectories(lab.Memory).Length - LeftOfKilled(lab, first));
        }

        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Connection_goes_on_over_two_hosts_that_die_one_after_the_other()
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        lab.SenderNamespace = hosts.Primary;
        lab.ReceiverNamespace = hosts.Standby;
        Receiver second = await lab.StartReceiverAsync("--listen", $"tcp:{NetworkLab.StandbyAddress}:0");
        Sender first = lab.StartSender(second.Endpoint, TestGuests.WriteNetworked(lab.Directory, "web", Guest));
        await first.UntilProtectedAsync();
        using CancellationTokenSource limit = new(Daemon.Limit);
        using RecordClient client = new(await hosts.ConnectAsync(Guest, 7, limit.Token), inFlight: 1);
        await client.UntilAnsweredAsync(50);
        first.Kill();
        await second.UntilPromotedAsync("web");
        await client.UntilAnsweredAsync(50);

        lab.ReceiverNamespace = hosts.Primary;
        Receiver third = await lab.StartReceiverAsync("--listen", $"tcp:{NetworkLab.PrimaryAddress}:0");
        ControlReply protect = await second.ProtectAsync("web", third.Endpoint);
        Assert.True(protect.Ok, protect.Error);
        SessionStatus again = await second.UntilProtectedAgainAsync("web");
        Assert.True(again.Next!.Output!.Held, "output is held again");
        await client.UntilAnsweredAsync(50);
        second.Kill();
        await third.UntilPromotedAsync("web");
        await client.UntilAnsweredAsync(50);
        await client.StopAsync();
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Killed_host_takes_part_again_when_its_receiver_is_started()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver one = await lab.StartReceiverAsync();
        Receiver two = await lab.StartReceiverAsync("--then-target", one.Endpoint);
        string guest = TestGuests.WriteBuiltin(lab.Directory, "counter");
        Sender first = lab.StartSender(two.Endpoint, guest);
        await first.UntilFreshRoundAsync();
        first.Kill();

        // With --then-target nobody has to type anything.
        await two.UntilPromotedAsync("counter");
        await two.UntilProtectedAgainAsync("counter");
        two.Kill();
        await two.ExitAsync();
        Assert.Equal(3, (await one.UntilPromotedAsync("counter")).Generation);

        Receiver back = await lab.StartReceiverAsync("--listen", two.Endpoint);
        Assert.True((await one.ProtectAsync("counter", back.Endpoint)).Ok);
        await one.UntilProtectedAgainAsync("counter");

        // What was left behind of an earlier generation must not get in between.
        Sender stale = lab.StartSender(back.Endpoint, guest);
        Assert.Equal(4, await stale.ExitAsync());
        Assert.Contains(stale.Log, l => l.Contains("has been promoted since, to generation 3", StringComparison.Ordinal));
        await back.StopAsync();
        Receiver anew = await lab.StartReceiverAsync("--listen", two.Endpoint);
        await one.UntilProtectedAgainAsync("counter");
        one.Kill();
        SessionStatus promoted = await anew.UntilPromotedAsync("counter");
        Assert.Equal(4, promoted.Generation);
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task What_cannot_be_protected_again_is_refused_and_the_guest_runs_on()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver here = await lab.StartReceiverAsync();
        Receiver there = await lab.StartReceiverAsync("--max-guest-memory", "16MiB");
        Sender first = lab.StartSender(here.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "counter"));
        await first.UntilFreshRoundAsync();
        Assert.Contains("only a promoted guest", (await here.ProtectAsync("counter", there.Endpoint)).Error);
        first.Kill();
        SessionStatus promoted = await here.UntilPromotedAsync("counter");
        Assert.Contains("nowhere", (await here.ProtectAsync("counter", "nowhere")).Error);
        Assert.Contains("no standby", (await here.SwitchoverAsync("counter")).Error);
        Assert.True((await here.ProtectAsync("counter", here.Endpoint)).Ok);
        await here.UntilLogAsync("its standby belongs on another host");
        Assert.True((await here.ProtectAsync("counter", there.Endpoint)).Ok);
        await here.UntilLogAsync("more than the receiver allows");
        SerialLog serial = new(promoted.Serial!);
        int lines = serial.Lines().Count;
        SerialLog.AssertOneLife(await serial.UntilAsync(lines + 3));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Standby_that_is_replaced_gives_the_guest_up_and_one_that_cannot_be_told_is_not_replaced_unasked()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver here = await lab.StartReceiverAsync();
        Receiver old = await lab.StartReceiverAsync();
        Receiver next = await lab.StartReceiverAsync();
        Sender first = lab.StartSender(here.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "counter"));
        await first.UntilFreshRoundAsync();
        first.Kill();
        await here.UntilPromotedAsync("counter");
        Assert.True((await here.ProtectAsync("counter", old.Endpoint)).Ok);
        await here.UntilProtectedAgainAsync("counter");
        ControlReply moved = await here.ProtectAsync("counter", next.Endpoint);
        Assert.True(moved.Ok, moved.Error);
        await old.UntilAsync("counter", s => s.State == "ended", "has given its standby up");
        await here.UntilProtectedAgainAsync("counter");

        // A standby that is gone with a round of the guest might come back with it.
        next.Kill();
        await next.ExitAsync();
        await here.UntilAsync("counter", s => s.Next?.State == "unprotected", "runs unprotected");
        ControlReply refused = await here.ProtectAsync("counter", old.Endpoint);
        Assert.Contains("curling-recv discard counter", refused.Error);
        ControlReply forced = await here.ProtectAsync("counter", old.Endpoint, replace: true);
        Assert.True(forced.Ok, forced.Error);
        await here.UntilProtectedAgainAsync("counter");
        here.Kill();
        SessionStatus promoted = await old.UntilPromotedAsync("counter");
        Assert.Equal(3, promoted.Generation);
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }

    private static int LeftOfKilled(Lab lab, Sender killed) =>
        Directory.GetDirectories(lab.Memory, $"curling-send-{killed.Pid}-*").Length;
}
