using System.Diagnostics;
using System.Globalization;
using Curling.Hosting.Control;
using Curling.Hosting.Faults;
using Curling.Linux.Processes;
using Curling.TestKit.Arbiter;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests.Matrix;

/// <summary>Runs one cell: a pair with an arbiter, held by a fault point at the moment, then the deed, then what has become of it.</summary>
internal sealed class MatrixRun
{
    private const string Guest = "cell";
    private const int SigStop = 19;
    private const int SigCont = 18;
    private static readonly TimeSpan Lasts = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan Settles = TimeSpan.FromMilliseconds(700);
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(45);
    private readonly MatrixCell _cell;
    private readonly EtcdServer _etcd;
    private readonly CuttableLink _link;
    private readonly CuttableLink _toArbiter;
    private readonly Sender _sender;
    private readonly Receiver _receiver;
    private readonly LifeWatch _watch;
    private Task _switchover = Task.CompletedTask;

    private MatrixRun(
        MatrixCell cell, EtcdServer etcd, CuttableLink link, CuttableLink toArbiter, Sender sender, Receiver receiver, LifeWatch watch)
    {
        _cell = cell;
        _etcd = etcd;
        _link = link;
        _toArbiter = toArbiter;
        _sender = sender;
        _receiver = receiver;
        _watch = watch;
    }

    /// <summary>Runs a cell and fails unless all of it came about.</summary>
    public static async Task RunAsync(MatrixCell cell, ITestOutputHelper output)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));

        // Killed daemons leave their files to the next one that is started, and here is none.
        lab.ExpectLeftovers();
        EtcdServer etcd = await EtcdServer.StartAsync(lab);
        CuttableLink toArbiter = new(new Uri(etcd.Url).Port);
        lab.Own(toArbiter);
        string[] options =
        [
            "--arbiter", string.Create(CultureInfo.InvariantCulture, $"etcd:http://127.0.0.1:{toArbiter.Port}"), "--arbiter-ttl", "3s",
            "--failure-timeout", "1s",
        ];
        Receiver receiver = await lab.StartReceiverAsync([.. options, .. FaultOf(cell.Moment, "recv-", "promote-")]);
        CuttableLink link = new(receiver.Port);
        lab.Own(link);
        Sender sender = lab.StartSender(
            link.Endpoint, TestGuests.WriteBuiltin(lab.Directory, Guest),
            [.. options, "--rounds", "incremental", "--interval", "300ms", .. FaultOf(cell.Moment, "send-")]);
        await using LifeWatch watch = new(sender, receiver, Guest);
        await new MatrixRun(cell, etcd, link, toArbiter, sender, receiver, watch).RunAsync();
        foreach (int pid in new[] { watch.Sender?.GuestPid, watch.Session?.StandbyPid }.OfType<int>())
        {
            // The end of the lab would be held up by a process that stands still.
            if (ProcessInfo.State(pid) == "T")
            {
                Daemon.Signal(pid, SigCont);
            }
        }
    }

    private static string[] FaultOf(Moment moment, params string[] prefixes)
    {
        string fault = moment switch
        {
            Moment.BaseRound => $"{FaultPoint.SendBasePart}:stall:1500",
            Moment.BetweenRounds => $"{FaultPoint.SendOnCommitted}:stall:1@6",
            Moment.PreCopy => $"{FaultPoint.SendPreCopy}:stall:1500@6",
            Moment.Cut => $"{FaultPoint.SendInCut}:stall:1500@6",
            Moment.Sending => $"{FaultPoint.SendBeforeEnd}:stall:1500@6",
            Moment.Committing => $"{FaultPoint.RecvHalfApplied}:stall:1500@6",
            _ => $"{FaultPoint.PromoteHalfLoaded}:stall:1500",
        };
        return prefixes.Any(p => fault.StartsWith(p, StringComparison.Ordinal)) ? ["--fault", fault] : [];
    }

    private async Task RunAsync()
    {
        Daemon held = _cell.Moment is Moment.Committing or Moment.Promotion ? _receiver : _sender;
        if (_cell.Moment == Moment.Promotion)
        {
            await _sender.UntilFreshRoundAsync();
            await UntilAsync(() => _watch.Printed.Primary >= 3 && _watch.Session?.State == "protected", "the guest prints and is protected");
            _switchover = _sender.SwitchoverAsync();
        }

        await held.UntilLogAsync("fault: ");

        // Asked only when the watch does not know yet: a sender that is switching over answers nobody else, and the moment passes.
        int primary = _watch.Sender?.GuestPid ?? (await SafeAsync(async () => (await _sender.StatusAsync()).GuestPid)) ?? 0;
        int standby = _watch.Session?.StandbyPid ?? (await SafeAsync(async () => (await _receiver.SessionAsync(Guest))?.StandbyPid)) ?? 0;
        await DoAsync(primary, standby);
        await _switchover.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        await CheckAsync();
    }

    private async Task DoAsync(int primary, int standby)
    {
        int pid = _cell.Subject switch
        {
            Subject.Sender => _sender.Pid,
            Subject.Primary => primary,
            Subject.Receiver => _receiver.Pid,
            Subject.Standby => standby,
            _ => 0,
        };
        switch (_cell.Subject, _cell.Deed)
        {
            case (Subject.Arbiter, Deed.Kill):
                await _etcd.KillAsync();
                await Task.Delay(Lasts);
                await _etcd.StartAgainAsync();
                break;
            case (Subject.Arbiter, Deed.Stop):
                _etcd.Silence();
                await Task.Delay(Lasts);
                _etcd.Speak();
                break;
            case (_, Deed.Kill):
                Daemon.Signal(pid, 9);
                break;
            case (_, Deed.Stop):
                _watch.SenderStandsStill = _cell.Subject == Subject.Sender;
                Daemon.Signal(pid, SigStop);
                await Task.Delay(Lasts);

                // Meanwhile its daemon may have ended it.
                if (ProcessInfo.Exists(pid))
                {
                    Daemon.Signal(pid, SigCont);
                }

                await Task.Delay(TimeSpan.FromSeconds(1));
                _watch.SenderStandsStill = false;
                break;
            case (_, Deed.Reset):
                Way.Reset();
                break;
            case (_, Deed.Drop):
                Way.Cut();
                await Task.Delay(Lasts);
                Way.Mend();
                break;
        }
    }

    private CuttableLink Way => _cell.Subject == Subject.Link ? _link : _toArbiter;

    private async Task CheckAsync()
    {
        Expected expected = _cell.Expected;
        await CheckExitAsync(_sender, expected.SenderExit);
        await CheckExitAsync(_receiver, expected.ReceiverExit);
        switch (expected.Guest)
        {
            case Place.Primary when expected.Protected:
                // Two rounds from here: the one that was under way may have been cut before the deed.
                long round = _watch.Sender?.Round ?? 0;
                await UntilAsync(
                    () => _watch is { Sender: { State: "protected", Right.Suspended: false } sender, Session.State: "protected" } && sender.CommittedRound > round,
                    "it is protected again");
                break;
            case Place.Primary:
                await UntilAsync(() => _watch.Sender is { State: "unprotected", Right.Suspended: false }, "it runs on, unprotected");
                break;
            case Place.Standby:
                await UntilAsync(() => _watch.Session is { State: "promoted", Right.Suspended: false }, "the standby has taken over");
                break;
        }

        (int primary, int standby) = _watch.Printed;
        if (expected.Guest != Place.Nowhere)
        {
            await UntilAsync(
                () => expected.Guest == Place.Primary ? _watch.Printed.Primary > primary + 2 : _watch.Printed.Standby > standby + 2, "it prints there");
        }

        await Task.Delay(Settles);
        (int primaryNow, int standbyNow) = _watch.Printed;
        Assert.True(expected.Guest == Place.Primary || primaryNow == primary, "the primary's copy runs");
        Assert.True(expected.Guest == Place.Standby || standbyNow == 0, "the standby's copy ran");
        Assert.Equal(expected.SenderExit.Length > 0, _sender.HasExited);
        Assert.Equal(expected.ReceiverExit.Length > 0, _receiver.HasExited);
        _watch.AssertLives();
    }

    private static async Task CheckExitAsync(Daemon daemon, int[] codes)
    {
        if (codes.Length > 0)
        {
            Assert.Contains(await daemon.ExitAsync(), codes);
        }
    }

    private async Task UntilAsync(Func<bool> holds, string what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!holds())
        {
            Assert.True(
                Stopwatch.GetElapsedTime(start) < Limit && _watch.Violation is null,
                $"{what}: {_watch.Violation ?? "no"}; the sender {Tell(_sender)} says {_watch.Sender?.State} ({_watch.Sender?.Reason}), suspended:"
                + $" {_watch.Sender?.Right?.Suspended}; the receiver {Tell(_receiver)} says {_watch.Session?.State} ({_watch.Session?.Reason}), suspended:"
                + $" {_watch.Session?.Right?.Suspended}; printed {_watch.Printed}");
            await Task.Delay(20);
        }
    }

    private static string Tell(Daemon daemon) =>
        daemon.HasExited ? string.Create(CultureInfo.InvariantCulture, $"has ended with {daemon.ExitCode} and last") : "runs and";

    private static async Task<int?> SafeAsync(Func<Task<int?>> ask)
    {
        try
        {
            return await ask();
        }
        catch (Exception e) when (e is Hosting.Options.OperatorException or IOException)
        {
            return null;
        }
    }
}
