using Curling.Hosting.Arbiter;
using Curling.Hosting.Faults;
using Curling.Linux.Time;
using Curling.Qemu;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>The right to run the guest here, where an arbiter decides.</summary>
internal sealed partial class GuestSession : IRightEvents
{
    private static readonly TimeSpan SuspendLimit = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan ReleaseLimit = TimeSpan.FromSeconds(2);
    private const long MaxLeaseSeconds = 600;
    private static readonly TimeSpan AskAfterwards = TimeSpan.FromSeconds(1);
    private readonly RightKeeper? _right;
    private volatile bool _runsHere;
    private TimeSpan? _waitsForRightSince;
    private (RightRefusal Why, bool Long)? _toldRefusal;

    /// <inheritdoc/>
    void IRightEvents.RightLost(string reason)
    {
        if (Protection is { } protection)
        {
            protection.RightLost(reason);
        }
        else if (_runsHere && _standby is { } standby)
        {
            Suspend(standby, reason);
        }
    }

    /// <inheritdoc/>
    void IRightEvents.RightBack()
    {
        _network.Wake();
        if (Protection is { } protection)
        {
            protection.RightBack();
        }
        else if (_runsHere && _standby is { } standby)
        {
            Resume(standby);
        }
    }

    /// <inheritdoc/>
    void IRightEvents.Superseded(string reason)
    {
        Protection?.Superseded(reason);
        Post(null, new ReceiverInput.EndAsked($"{reason}; this copy must not run"));
    }

    /// <inheritdoc/>
    void IRightEvents.AskVouch(long sequence, TimeSpan time)
    {
        // Only a promoted guest that has a standby again has a peer that could.
        Protection?.AskVouch(sequence, time);
    }

    /// <summary>The sender of the guest that was promoted here, which has it in its hands then.</summary>
    private IRightEvents? Protection => Volatile.Read(ref _protection);

    /// <summary>Asks the arbiter once.</summary>
    private async Task TakeRightAsync(ReceiverOutput.TakeRight take)
    {
        RightKeeper right = _right ?? throw new InvalidOperationException("there is no arbiter");
        TimeSpan since = _waitsForRightSince ??= BootClock.Now;
        try
        {
            TakeAnswer answer = await right.TakeAsync(Generation, _cancellation.Token);
            switch (answer.How)
            {
                case TakeResult.Taken:
                    await FaultPoint.HitAsync(FaultPoint.PromoteRightTaken);
                    Generation = right.Generation;
                    right.Guard(_network.Deadline);
                    RememberGeneration();
                    Post(null, new ReceiverInput.RightTaken());
                    break;
                case TakeResult.Held:
                    string other = answer.Other?.ToString() ?? "another host";
                    TimeSpan lives = TimeSpan.FromSeconds(Math.Clamp(answer.Other?.Seconds ?? 0, (long)_options.Arbiter!.Ttl.TotalSeconds, MaxLeaseSeconds));
                    bool isLong = BootClock.Now - since > lives + AskAfterwards + AskAfterwards;
                    Refused(RightRefusal.Held, isLong, $"{other} has the arbiter's right to run it", lives);
                    break;
                case TakeResult.Superseded:
                    Refused(
                        RightRefusal.Superseded, true,
                        $"the arbiter knows the guest as generation {answer.Generation}, and the round here is of generation {Generation}");
                    break;
            }
        }
        catch (ArbiterException e)
        {
            Refused(RightRefusal.Unreachable, true, $"the arbiter does not answer: {e.Message}");
        }
        catch (OperationCanceledException)
        {
            // The session ends.
        }

        void Refused(RightRefusal why, bool isLong, string reason, TimeSpan lives = default)
        {
            _reason = $"{take.Reason}; not taken over: {reason}";
            if (_toldRefusal != (why, isLong))
            {
                _toldRefusal = (why, isLong);
                Tell(why, isLong, take, reason);
            }

            Post(null, new ReceiverInput.RightRefused(why, reason, lives));
        }
    }

    /// <summary>The primary lives and its guest runs on: what stands here is of the moment when it was protected last.</summary>
    private void TellLeftBehind(ReceiverOutput.LeftBehind behind)
    {
        _reason = $"left behind: {behind.Reason}, and its guest has run on without this standby since {_committed.At:u}";
        Log.LeftBehind(_log, Guest.Name, behind.Round, behind.Reason, _committed.At ?? _time.GetUtcNow());
    }

    private void Tell(RightRefusal why, bool isLong, ReceiverOutput.TakeRight take, string reason)
    {
        switch (why)
        {
            case RightRefusal.Held when !isLong:
                Log.AwaitsRight(_log, Guest.Name, take.Reason, reason, _options.Arbiter!.Ttl.TotalSeconds);
                break;
            case RightRefusal.Held:
                Log.RightHeld(_log, Guest.Name, take.Reason, reason);
                break;
            case RightRefusal.Unreachable:
                Log.FailoverRefused(_log, Guest.Name, take.Reason, reason, take.Round);
                break;
            default:
                Log.RoundSuperseded(_log, Guest.Name, take.Round, reason);
                break;
        }
    }

    /// <summary>
    /// The operator had the guest taken over without the arbiter: as soon as it answers it must know, or it would let another host start
    /// the guest.
    /// </summary>
    private async Task TakeRightAfterwardsAsync(RightKeeper right)
    {
        string? told = null;
        try
        {
            while (!_machine.IsOver)
            {
                string problem;
                try
                {
                    TakeAnswer answer = await right.TakeAsync(Generation - 1, _cancellation.Token);
                    if (answer.How == TakeResult.Taken)
                    {
                        right.Guard(_network.Deadline);
                        Post(null, new ReceiverInput.RightTaken());
                        return;
                    }

                    problem = answer.Other is { } other ? $"{other} has it" : $"the arbiter knows the guest as generation {answer.Generation}";
                }
                catch (ArbiterException e)
                {
                    problem = e.Message;
                }

                if (told != problem)
                {
                    told = problem;
                    Log.RunsWithoutRight(_log, Guest.Name, problem);
                }

                await Task.Delay(AskAfterwards, _time, _cancellation.Token);
            }
        }
        catch (OperationCanceledException)
        {
            // The session ends.
        }
    }

    /// <summary>The guest runs here: if the right was lost meanwhile, not any more.</summary>
    private void GuardGuest(IStandby standby)
    {
        _runsHere = true;
        if (!_machine.HasRight && _right is { } unasked)
        {
            Watch(TakeRightAfterwardsAsync(unasked));
        }

        if (_machine.HasRight && _right is { IsValid: false } right)
        {
            Suspend(standby, "it ran out during the promotion");
            if (right.IsValid)
            {
                Resume(standby);
            }
        }
    }

    private void Suspend(IStandby standby, string reason)
    {
        using CancellationTokenSource limit = new(SuspendLimit);
        try
        {
            standby.StopAsync(limit.Token).GetAwaiter().GetResult();
            Log.Suspended(_log, Guest.Name, reason);
        }
        catch (Exception e) when (e is QemuException or OperationCanceledException)
        {
            Log.NotSuspended(_log, Guest.Name, reason, e.Message);
        }
    }

    private void Resume(IStandby standby)
    {
        using CancellationTokenSource limit = new(SuspendLimit);
        try
        {
            standby.ContinueAsync(limit.Token).GetAwaiter().GetResult();
            Log.RunsAgain(_log, Guest.Name);
        }
        catch (Exception e) when (e is QemuException or OperationCanceledException)
        {
            Log.NotSuspended(_log, Guest.Name, "it is back", e.Message);
        }
    }

    /// <summary>The guest has surely not run here: its sender, or a later receiver, may take it up again where it stands.</summary>
    private async Task GiveBackUnusedAsync()
    {
        if (_right is not { } right)
        {
            return;
        }

        long taken = right.Generation;
        await right.ReleaseAsync(ReleaseLimit, isUnused: true);
        if (taken > 0 && Generation == taken)
        {
            Generation--;
            RememberGeneration();
        }
    }

    /// <summary>A later receiver that takes this session up must know what the arbiter knows.</summary>
    private void RememberGeneration()
    {
        try
        {
            if (File.Exists(Path.Combine(_directory.MemoryPath, Hosting.Instances.InstanceDirectory.KeepFile)))
            {
                new SessionFile(_options.Listen.ToString(), MaxRoundBytes, _hello with { Generation = Generation }).Write(_directory.MemoryPath);
            }
        }
        catch (IOException e)
        {
            Log.NotForgotten(_log, Guest.Name, _directory.MemoryPath, e.Message);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "RunsWithoutRight", Level = LogLevel.Warning,
            Message = "{Guest}: runs here WITHOUT the arbiter's right, as the operator said ({Problem}). Make sure that no other host starts it; the right is"
                + " asked for until it is given")]
        public static partial void RunsWithoutRight(ILogger log, string guest, string problem);

        [LoggerMessage(EventName = "AwaitsRight", Level = LogLevel.Information,
            Message = "{Guest}: the primary is lost ({Cause}), and {Reason}: it runs out within about {Seconds:0} s unless the primary renews it; waiting")]
        public static partial void AwaitsRight(ILogger log, string guest, string cause, string reason, double seconds);

        [LoggerMessage(EventName = "RightHeld", Level = LogLevel.Warning,
            Message = "{Guest}: NOT TAKEN OVER: the primary is lost from here ({Cause}), but {Reason} and renews it, so it lives. Mend the link between"
                + " the two; the sender comes back by itself")]
        public static partial void RightHeld(ILogger log, string guest, string cause, string reason);

        [LoggerMessage(EventName = "LeftBehind", Level = LogLevel.Warning,
            Message = "{Guest}: LEFT BEHIND: {Reason}, and its guest has run on without this standby since {Since:u}. Nothing is taken over by itself any"
                + " more, until the sender comes back: curling-recv promote {Guest} would set the guest back to that moment (round {Round}), which others have"
                + " seen it go on from")]
        public static partial void LeftBehind(ILogger log, string guest, long round, string reason, DateTimeOffset since);

        [LoggerMessage(EventName = "FailoverRefused", Level = LogLevel.Error,
            Message = "{Guest}: FAILOVER REFUSED: the primary is lost ({Cause}), but {Reason}. Round {Round} stands ready and is promoted as soon as the"
                + " arbiter gives the guest to this host: look after etcd. Only if you have made sure that the primary does not run, type:"
                + " curling-recv promote --without-arbiter {Guest}")]
        public static partial void FailoverRefused(ILogger log, string guest, string cause, string reason, long round);

        [LoggerMessage(EventName = "RoundSuperseded", Level = LogLevel.Error,
            Message = "{Guest}: NOT TAKEN OVER: round {Round} is out of date: {Reason}. Type: curling-recv discard {Guest}")]
        public static partial void RoundSuperseded(ILogger log, string guest, long round, string reason);

        [LoggerMessage(EventName = "Suspended", Level = LogLevel.Error,
            Message = "{Guest}: SUSPENDED: the right to run the guest has run out ({Reason}): the promoted guest is stopped, and nothing it sends leaves. It"
                + " runs on by itself when the arbiter answers again; look after etcd")]
        public static partial void Suspended(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "NotSuspended", Level = LogLevel.Error,
            Message = "{Guest}: QEMU does not follow the right to run the guest ({Reason}): {Problem}. While there is none nothing that it sends leaves;"
                + " end QEMU if it hangs")]
        public static partial void NotSuspended(ILogger log, string guest, string reason, string problem);

        [LoggerMessage(EventName = "RunsAgain", Level = LogLevel.Warning, Message = "{Guest}: the right to run the guest is back: it runs on")]
        public static partial void RunsAgain(ILogger log, string guest);
    }
}
