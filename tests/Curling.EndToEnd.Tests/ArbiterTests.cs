using System.Diagnostics;
using Curling.Hosting.Control;
using Curling.TestKit.Arbiter;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>One active guest: a real etcd decides, whatever of the two hosts, the link and etcd itself is gone.</summary>
public sealed class ArbiterTests(ITestOutputHelper output)
{
    private const string Guest = "arbited";

    /// <summary>Within which one of the two must be active again: the lease, what etcd takes to notice its end, and a promotion on a busy host.</summary>
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(15);

    [SkippableFact]
    public async Task Killed_primary_is_taken_over_when_its_right_has_run_out()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd);
        sender.Kill();
        SessionStatus session = await receiver.UntilPromotedAsync(Guest);
        Assert.Equal((2, false), (session.Generation, session.Right!.Suspended));
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }

    /// <summary>The right goes along with the guest: the promoted guest's daemon keeps it as its sender, and its next standby vouches while etcd is away.</summary>
    [SkippableFact]
    public async Task Guest_that_is_protected_again_has_its_right_with_it()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver second, Sender first) = await ProtectAsync(lab, etcd);
        first.Kill();
        await first.ExitAsync();
        await second.UntilPromotedAsync(Guest);
        Receiver third = await lab.StartReceiverAsync("--arbiter", etcd.Arbiter);
        ControlReply protect = await second.ProtectAsync(Guest, third.Endpoint);
        Assert.True(protect.Ok, protect.Error);
        SessionStatus again = await second.UntilProtectedAgainAsync(Guest);
        await etcd.KillAsync();
        await second.UntilAsync(Guest, s => s.Right!.Vouched, "its next standby vouches for it");
        await second.UntilProtectedAgainAsync(Guest);
        await etcd.StartAgainAsync();
        await second.UntilAsync(Guest, s => s.Right is { Vouched: false, SilentForMilliseconds: null }, "etcd gives it its right again");
        Daemon.Signal(again.StandbyPid!.Value, 9);
        SessionStatus promoted = await third.UntilPromotedAsync(Guest);
        Assert.Equal((3, false), (promoted.Generation, promoted.Right!.Suspended));
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(3));
    }

    [SkippableFact]
    public async Task Link_that_is_cut_leaves_exactly_the_primary_active()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        Receiver receiver = await lab.StartReceiverAsync("--arbiter", etcd.Arbiter, "--failure-timeout", "500ms");
        await using CuttableLink link = new(receiver.Port);
        Sender sender = StartSender(lab, etcd, link.Endpoint);
        await sender.UntilFreshRoundAsync();
        link.Cut();
        await receiver.UntilLogAsync("NOT TAKEN OVER");
        SenderStatus alone = await sender.StatusAsync();
        Assert.Equal(("unprotected", false), (alone.State, alone.Right!.Suspended));
        Assert.True(alone.Right.ValidForMilliseconds > 0);
        Assert.DoesNotContain(receiver.Log, l => l.Contains("PROMOTING"));
        link.Mend();
        await sender.UntilFreshRoundAsync();
        SerialLog.AssertOneLife(new SerialLog(alone.Serial!).Lines());
    }

    [SkippableFact]
    public async Task Pair_goes_on_without_etcd_and_a_failover_waits_for_it()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd);
        await etcd.KillAsync();
        await sender.UntilAsync(s => s.Right!.Vouched, "the receiver vouches for it");
        long round = (await sender.UntilFreshRoundAsync()).CommittedRound;
        await sender.UntilAsync(s => s.CommittedRound > round + 50 && s.Right is { Vouched: true, ValidForMilliseconds: > 0 }, "it goes on");
        Assert.DoesNotContain(sender.Log, l => l.Contains("SUSPENDED"));
        sender.Kill();
        await receiver.UntilLogAsync("FAILOVER REFUSED");
        SessionStatus held = await receiver.UntilAsync(Guest, s => s.Held, "is held");
        Assert.Contains("the arbiter does not answer", held.Reason);
        (int code, _, string error) = await lab.RunAsync("curling-recv", "promote", Guest, "--control", receiver.Control);
        Assert.Equal(1, code);
        Assert.Contains("--without-arbiter", error);
        await etcd.StartAgainAsync();
        SessionStatus session = await receiver.UntilPromotedAsync(Guest);
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Operator_takes_over_without_the_arbiter_which_learns_of_it_afterwards()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd);
        await etcd.KillAsync();
        sender.Kill();
        await receiver.UntilLogAsync("FAILOVER REFUSED");
        (int code, _, string error) = await lab.RunAsync("curling-recv", "promote", Guest, "--without-arbiter", "--control", receiver.Control);
        Assert.True(code == 0, error);
        await receiver.UntilLogAsync("WITHOUT the arbiter's right");
        Receiver next = await lab.StartReceiverAsync("--arbiter", etcd.Arbiter);
        ControlReply early = await receiver.ProtectAsync(Guest, next.Endpoint);
        Assert.Contains("without the arbiter's right", early.Error);
        await etcd.StartAgainAsync();
        SessionStatus session = await receiver.UntilAsync(Guest, s => s.Right is { Holder: not null, ValidForMilliseconds: > 0 }, "has the right");
        Assert.Equal((2, 2), (session.Generation, session.Right!.Generation));

        // With the right it can be protected again, and the next standby vouches for it.
        ControlReply protect = await receiver.ProtectAsync(Guest, next.Endpoint);
        Assert.True(protect.Ok, protect.Error);
        await receiver.UntilProtectedAgainAsync(Guest);
        await etcd.KillAsync();
        await receiver.UntilAsync(Guest, s => s.Right!.Vouched, "its next standby vouches for it");
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        await next.UntilLogAsync("Removed ");
    }

    [SkippableFact]
    public async Task Without_etcd_and_without_a_link_nobody_runs_and_then_exactly_one()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        Receiver receiver = await lab.StartReceiverAsync("--arbiter", etcd.Arbiter, "--failure-timeout", "500ms");
        await using CuttableLink link = new(receiver.Port);
        Sender sender = StartSender(lab, etcd, link.Endpoint);
        await sender.UntilFreshRoundAsync();
        etcd.Silence();
        link.Cut();
        await sender.UntilLogAsync("SUSPENDED");
        await receiver.UntilLogAsync("FAILOVER REFUSED");
        SenderStatus suspended = await sender.StatusAsync();
        Assert.True(suspended.Right!.Suspended);
        int before = new SerialLog(suspended.Serial!).Lines().Count;
        await Task.Delay(300);
        Assert.Equal(before, new SerialLog(suspended.Serial!).Lines().Count);
        long start = Stopwatch.GetTimestamp();
        etcd.Speak();
        bool here = false;
        bool there = false;
        while (!here && !there)
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Bound, "nobody runs the guest");
            here = !sender.HasExited && (await sender.StatusAsync()).Right is { Suspended: false };
            there = (await receiver.SessionAsync(Guest))!.State == "promoted";
            await Task.Delay(10);
        }

        Assert.NotEqual(here, there);
        if (there)
        {
            Assert.Equal(4, await sender.ExitAsync());
        }
        else
        {
            link.Mend();
            await sender.UntilFreshRoundAsync();
            Assert.DoesNotContain(receiver.Log, l => l.Contains("PROMOTING"));
        }
    }

    [SkippableFact]
    public async Task Primary_that_stood_still_for_longer_than_its_right_ends_as_superseded()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd);
        sender.Signal(19); // SIGSTOP
        await receiver.UntilPromotedAsync(Guest);
        sender.Signal(18); // SIGCONT
        Assert.Equal(4, await sender.ExitAsync());
        Assert.Contains(sender.Log, l => l.Contains("SUSPENDED"));
        Assert.Equal("promoted", (await receiver.SessionAsync(Guest))!.State);
    }

    /// <summary>
    /// What the old primary had in its hands, and what its guest, which did not stand still, sent meanwhile: none of it is seen on the network of its
    /// host, although its link is lost and output would leave unprotected.
    /// </summary>
    [SkippableFact]
    public async Task Primary_that_stood_still_for_longer_than_its_right_lets_nothing_out()
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        lab.SenderNamespace = hosts.Primary;
        lab.ReceiverNamespace = hosts.Standby;
        EtcdServer etcd = await EtcdServer.StartAsync(lab, hosts.Standby, NetworkLab.StandbyAddress);
        string[] options = ["--arbiter", etcd.Arbiter, "--arbiter-ttl", "2s", "--failure-timeout", "1s"];
        Receiver receiver = await lab.StartReceiverAsync(["--listen", $"tcp:{NetworkLab.StandbyAddress}:0", .. options]);
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteNetworked(lab.Directory, Guest, "10.77.0.10"), options);
        await sender.UntilProtectedAsync();
        using CancellationTokenSource limit = new(Daemon.Limit);
        using RecordClient client = new(await hosts.ConnectAsync("10.77.0.10", 7, limit.Token), inFlight: 16);
        await client.UntilAnsweredAsync(100);
        sender.Signal(19); // SIGSTOP
        SessionStatus promoted = await receiver.UntilPromotedAsync(Guest);
        await client.UntilAnsweredAsync(100);
        using FrameTap tap = new(hosts.Primary, promoted.Network!.Networks[0].Mac);
        sender.Signal(18); // SIGCONT
        Assert.Equal(4, await sender.ExitAsync());
        Assert.Equal(0, tap.Seen);
        await client.UntilAnsweredAsync(100);
        await client.StopAsync();
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Primary_whose_guest_has_ended_gives_its_right_back_at_once(bool crash)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);

        // A right that had to run out would be waited for longer than the test lasts.
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd, "--arbiter-ttl", "60s");
        if (crash)
        {
            Daemon.Signal((await sender.UntilFreshRoundAsync()).GuestPid!.Value, 9);
        }
        else
        {
            ControlReply reply = await sender.SwitchoverAsync();
            Assert.True(reply.Ok, reply.Error);
        }

        SessionStatus session = await receiver.UntilPromotedAsync(Guest);
        Assert.Equal(crash ? 3 : 0, await sender.ExitAsync());
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
    }

    [SkippableFact]
    public async Task Two_who_do_not_both_have_an_arbiter_are_told()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        Receiver without = await lab.StartReceiverAsync();
        Sender with = StartSender(lab, etcd, without.Endpoint);
        Assert.Equal(1, await with.ExitAsync());
        await with.UntilLogAsync("start curling-recv with the same --arbiter");
        Receiver other = await lab.StartReceiverAsync("--arbiter", etcd.Arbiter);
        Sender none = lab.StartSender(other.Endpoint, TestGuests.WriteBuiltin(lab.Directory, Guest));
        Assert.Equal(1, await none.ExitAsync());
        await none.UntilLogAsync("start curling-send with the same --arbiter");
    }

    [SkippableFact]
    public async Task Guest_that_runs_elsewhere_or_that_nobody_decides_about_is_not_started()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (_, Sender first) = await ProtectAsync(lab, etcd);
        Sender second = StartSender(lab, etcd, "tcp:127.0.0.1:1", "--arbiter-ttl", "2s");
        Assert.Equal(1, await second.ExitAsync());
        await second.UntilLogAsync("runs it, says etcd:");
        Assert.Equal("protected", (await first.StatusAsync()).State);
        Sender third = lab.StartSender("tcp:127.0.0.1:1", null, "--arbiter", "etcd:http://127.0.0.1:1");
        Assert.Equal(1, await third.ExitAsync());
        await third.UntilLogAsync("is not started");
    }

    /// <summary>As when a service manager starts it anew: it would start the guest from nothing, and the standby has it as it was.</summary>
    [SkippableFact]
    public async Task Sender_that_is_started_again_lets_the_standby_go_first()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, etcd, "--arbiter-ttl", "2s");

        // The receiver is late, or the two would race.
        receiver.Signal(19); // SIGSTOP
        sender.Kill();
        Sender again = StartSender(lab, etcd, receiver.Endpoint, "--arbiter-ttl", "2s");
        await again.UntilLogAsync("so it goes first");
        receiver.Signal(18); // SIGCONT
        SessionStatus session = await receiver.UntilPromotedAsync(Guest);
        Assert.Equal(2, session.Generation);
        Assert.Equal(1, await again.ExitAsync());
        await again.UntilLogAsync("runs it, says etcd:");
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
    }

    [SkippableFact]
    public async Task Guest_is_started_though_etcd_answers_late()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        etcd.Silence();
        Sender sender = StartSender(lab, etcd, "tcp:127.0.0.1:1");
        await sender.UntilLogAsync("the arbiter does not answer");
        etcd.Speak();
        await sender.UntilAsync(s => s.GuestPid is not null, "the guest is started");
    }

    private static async Task<(Receiver Receiver, Sender Sender)> ProtectAsync(Lab lab, EtcdServer etcd, params string[] options)
    {
        Receiver receiver = await lab.StartReceiverAsync(["--arbiter", etcd.Arbiter, "--failure-timeout", "500ms", .. options]);
        Sender sender = StartSender(lab, etcd, receiver.Endpoint, options);
        await sender.UntilFreshRoundAsync();
        return (receiver, sender);
    }

    private static Sender StartSender(Lab lab, EtcdServer etcd, string target, params string[] options) => lab.StartSender(
        target, TestGuests.WriteBuiltin(lab.Directory, Guest), ["--arbiter", etcd.Arbiter, "--failure-timeout", "500ms", .. options]);
}
