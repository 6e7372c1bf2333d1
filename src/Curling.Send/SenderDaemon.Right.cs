using System.Diagnostics;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Options;
using Curling.Linux.Time;
using Curling.Qemu;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Replication.Rights;
using Curling.Replication.Sender;
using Curling.Send.Guest;
using Microsoft.Extensions.Logging;

namespace Curling.Send;

/// <summary>The right to run the guest, where an arbiter decides.</summary>
internal sealed partial class SenderDaemon : IRightEvents
{
    private static readonly TimeSpan TakeAgain = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan Slack = TimeSpan.FromSeconds(3);
    private static readonly TimeSpan SuspendLimit = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan LastFrames = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan ReleaseLimit = TimeSpan.FromSeconds(2);
    private RightKeeper? _right;
    private volatile bool _givenBack;
    private Task _releasing = Task.CompletedTask;

    /// <inheritdoc/>
    void IRightEvents.RightLost(string reason)
    {
        if (_guest is { } guest)
        {
            Suspend(guest, reason);
        }

        Post(null, new SenderInput.RightLost(reason));
    }

    /// <inheritdoc/>
    void IRightEvents.RightBack()
    {
        _guest?.Network.Wake();
        Post(null, new SenderInput.RightBack());
    }

    /// <inheritdoc/>
    void IRightEvents.Superseded(string reason) =>
        Post(null, new SenderInput.Refused(Protocol.RefusalCode.Superseded, $"{reason}; this copy must not run"));

    /// <inheritdoc/>
    void IRightEvents.AskVouch(long sequence, TimeSpan time) => _link?.AskVouch(sequence, time);

    /// <summary>Takes the right to start the guest; waits for that of an earlier run to run out, and whether its standby takes the guest over.</summary>
    /// <exception cref="OperatorException">Another host runs the guest, or the arbiter does not answer.</exception>
    private async Task<RightKeeper?> TakeRightAsync(CancellationToken cancellation)
    {
        if (_options.Arbiter is not { } options)
        {
            return null;
        }

        string name = _options.GuestFile is { } file ? GuestDefinitionReader.Load(file).Name : BuiltinGuestImage.Name;
        _arbiter = new EtcdArbiter(options);
        RightKeeper keeper = new(_arbiter, name, "sender", this, _log);
        try
        {
            AwaitedRight awaited = new(options.Ttl);
            TimeSpan start = BootClock.Now;
            TimeSpan answeredAt = start;
            bool told = false;
            bool toldFree = false;
            while (true)
            {
                bool isFree = false;
                Holder? other = null;
                try
                {
                    if (awaited.MayTake)
                    {
                        TakeAnswer answer = await keeper.TakeAsync(expected: null, cancellation);
                        if (answer.How == TakeResult.Taken)
                        {
                            return keeper;
                        }

                        other = answer.Other;
                        awaited.Held();
                    }
                    else
                    {
                        other = await keeper.LookAsync(cancellation);
                        isFree = other is null;
                        if (isFree)
                        {
                            awaited.Free(BootClock.Now);
                        }
                        else
                        {
                            awaited.Held();
                        }
                    }

                    answeredAt = BootClock.Now;
                }
                catch (ArbiterException) when (BootClock.Now - answeredAt < Slack)
                {
                    // A busy host takes its time for the first call, and nothing runs yet that could be in danger.
                    awaited.Unanswered();
                    await Task.Delay(TakeAgain, _time, cancellation);
                    continue;
                }

                if (!isFree && BootClock.Now - start > options.Ttl + Slack)
                {
                    throw new OperatorException(
                        $"guest {name} is not started: {other?.ToString() ?? "another host"} runs it, says {options.Name}. Stop it there first, or"
                        + " give this guest another name");
                }

                if (!told)
                {
                    told = true;
                    Log.AwaitingRight(_log, name, other?.ToString() ?? "another host", options.Ttl.TotalSeconds);
                }
                else if (isFree && !toldFree)
                {
                    toldFree = true;
                    Log.AwaitingStandby(_log, name, awaited.Wait.TotalSeconds);
                }

                await Task.Delay(TakeAgain, _time, cancellation);
            }
        }
        catch (ArbiterException e)
        {
            await keeper.DisposeAsync();
            throw new OperatorException($"guest {name} is not started, for the arbiter does not say that it may run here: {e.Message}");
        }
        catch
        {
            await keeper.DisposeAsync();
            throw;
        }
    }

    /// <summary>The guest runs: if the right to it was lost while it was being started, not any more.</summary>
    private void CheckRight(PrimaryGuest guest)
    {
        if (_right is { IsValid: false })
        {
            Suspend(guest, "the arbiter's lease was not renewed in time");
            if (_right.IsValid)
            {
                // It came back before anybody knew of the guest.
                Post(null, new SenderInput.RightBack());
            }
        }
    }

    /// <summary>Stops the guest and waits for that, but not for ever: a cut may wait for a slow link, with the guest standing still.</summary>
    private void Suspend(PrimaryGuest guest, string reason)
    {
        Task suspending = SuspendAsync(guest, reason);
        Task.WaitAny([suspending], SuspendLimit);
    }

    private async Task SuspendAsync(PrimaryGuest guest, string reason)
    {
        string name = guest.Definition.Name;
        try
        {
            // QEMU stops only when the writes under way have ended, and no cut comes that they could wait for.
            await guest.Run.SuspendAsync(guest.Disks.OpenGate);
            if (!_givenBack)
            {
                Log.Suspended(_log, name, reason);
            }
        }
        catch (QemuException e)
        {
            if (!guest.Ended.IsCompleted)
            {
                Log.NotSuspended(_log, name, reason, e.Message);
            }
        }
    }

    private async Task AllowGuestAsync()
    {
        try
        {
            if (await _guest!.Run.AllowAsync(() => _right is { IsValid: true }, _work.Token))
            {
                Log.RunsAgain(_log, _guest.Definition.Name);
            }
        }
        catch (Exception e) when (e is QemuException or OperationCanceledException)
        {
            Log.CaptureFailed(_log, _guest!.Definition.Name, _machine.Round, e.Message);
        }
    }

    /// <summary>The guest stands still after its last round here; what it had sent before may still leave.</summary>
    private async Task ReleaseRightAsync(Task before)
    {
        await before;
        long start = Stopwatch.GetTimestamp();
        while (_guest!.Network.Gate.Held > 0 && Stopwatch.GetElapsedTime(start) < LastFrames)
        {
            await Task.Delay(1);
        }

        await _right!.ReleaseAsync(ReleaseLimit);
    }

    /// <summary>The guest goes on here after all; what is being given back is given back first, or it would be for good.</summary>
    private async Task WantRightAsync(Task before)
    {
        await before;
        _right!.Want();
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "AwaitingRight", Level = LogLevel.Information,
            Message = "{Guest}: {Other} has the right to run the guest; waiting whether it runs out within {Seconds:0} s")]
        public static partial void AwaitingRight(ILogger log, string guest, string other, double seconds);

        [LoggerMessage(EventName = "AwaitingStandby", Level = LogLevel.Information,
            Message = "{Guest}: the right to run the guest has run out. A standby of the run before would go on where the guest was, so it goes first:"
                + " waiting {Seconds:0} s whether it takes over, before the guest is started anew")]
        public static partial void AwaitingStandby(ILogger log, string guest, double seconds);

        [LoggerMessage(EventName = "Suspended", Level = LogLevel.Error,
            Message = "{Guest}: SUSPENDED: the right to run the guest has run out ({Reason}) and no receiver vouches for it: the guest is stopped, and"
                + " nothing it sends leaves. It runs on by itself when etcd or the receiver answers again, unless the standby has taken over; look"
                + " after etcd and the link")]
        public static partial void Suspended(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "NotSuspended", Level = LogLevel.Error,
            Message = "{Guest}: the right to run the guest has run out ({Reason}), and QEMU does not stop it: {Problem}. Nothing it sends leaves; end"
                + " QEMU if it hangs")]
        public static partial void NotSuspended(ILogger log, string guest, string reason, string problem);

        [LoggerMessage(EventName = "RunsAgain", Level = LogLevel.Warning, Message = "{Guest}: the right to run the guest is back: it runs on")]
        public static partial void RunsAgain(ILogger log, string guest);
    }
}
