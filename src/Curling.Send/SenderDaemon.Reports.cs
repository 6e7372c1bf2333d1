using System.Diagnostics;
using Curling.Hosting.Control;
using Curling.Hosting.Network;
using Curling.Hosting.Pages;
using Curling.Linux.Memory;
using Curling.Replication.Sender;
using Microsoft.Extensions.Logging;

namespace Curling.Send;

/// <summary>What the sender tells: logs, status, answers.</summary>
internal sealed partial class SenderDaemon
{
    private long _bytesPerSecond;
    private double _roundsPerSecond;
    private long _baseStarted;

    /// <summary>What status shows.</summary>
    public SenderStatus Status() => new(
        _guest?.Definition.Name ?? "",
        Name(_machine.State),
        _machine.Round,
        _machine.CommittedRound,
        _guest is { Ended.IsCompleted: false } guest ? guest.Qemu.Pid : null,
        new PauseStatus(_pauses.Last, _pauses.At(0.5), _pauses.At(0.99)),
        Volatile.Read(ref _bytesPerSecond),
        _options.Target.ToString(),
        UsesIncremental ? "incremental" : "full",
        _roundsPerSecond,
        Generation,
        _guest?.Serial,
        _guest?.Display,
        Progress(),
        _reason)
    {
        Process = ProcessStatus.Current(),
        Right = _right?.Status(),
        Sent = _link is { } link
            ? new SentStatus(
                link.Rounds.MemoryBytes, link.Rounds.EncodedMemoryBytes, link.Rounds.StateBytes, link.BytesSent,
                Name(link.Rounds.Encoding?.Current ?? PageCompression.None))
            : null,
        Disks = _guest is { Disks.IsEmpty: false } withDisks ? withDisks.Disks.Status : null,
        Output = _guest is { Network.IsEmpty: false } networked
            ? new OutputStatus(
                SyncsOutput ? "output" : "periodic",
                networked.Network.Gate.Holds,
                networked.Network.HeldMicros(0.5),
                networked.Network.HeldMicros(0.99),
                _acks.At(0.5),
                _copy?.Frames ?? 0,
                _copy?.Bytes ?? 0,
                _copy?.LeftOut ?? 0,
                networked.Network.Counters)
            : null,
    };

    private static string Name(PageCompression way) => way.ToString().ToLowerInvariant();

    private static string Name(SenderState state) => state.ToString().ToLowerInvariant();

    private BaseProgress? Progress()
    {
        if (_machine.State != SenderState.Base || _link is not { } link || _capture is not { } capture)
        {
            return null;
        }

        // When the disks are being copied, that is the progress to tell.
        if (_guest?.Disks.Status.Any(d => d.BytesSent > 0) == true)
        {
            return null;
        }

        double seconds = Math.Max(0.001, Stopwatch.GetElapsedTime(_baseStarted).TotalSeconds);
        long sent = link.Rounds.RoundBytes;
        double rate = sent / seconds;
        long left = Math.Max(0, capture.ExpectedBaseBytes - sent);
        return new BaseProgress(
            Math.Min(100, 100.0 * sent / Math.Max(1, capture.ExpectedBaseBytes)), (long)rate, rate > 0 ? left / rate : null);
    }

    private void Tell(SenderOutput.StateChanged changed)
    {
        _reason = changed.Reason;
        string guest = _guest!.Definition.Name;
        switch (changed.State)
        {
            case SenderState.Base:
                _baseStarted = Stopwatch.GetTimestamp();
                Log.Base(_log, guest, _options.Target.ToString());
                break;
            case SenderState.Protected:
                Log.Protected(_log, guest, _machine.CommittedRound);
                break;
            case SenderState.Unprotected:
                Log.Unprotected(_log, guest, changed.Reason);
                break;
            case SenderState.Ended:
                Log.Ended(_log, guest, changed.Reason);
                break;
        }
    }

    /// <summary>Answers a request.</summary>
    internal async Task<ControlReply> AnswerAsync(ControlRequest request, CancellationToken cancellation)
    {
        switch (request.Command)
        {
            case "status":
                return new ControlReply(true) { Sender = Status() };
            case "switchover":
                if (_machine.State != SenderState.Protected)
                {
                    return ControlReply.Failed(
                        $"the guest is {Name(_machine.State)}, not protected: there is no standby to move it to yet");
                }

                if (_right is { IsArbiterSilent: true })
                {
                    return ControlReply.Failed("the arbiter does not answer, and the receiver needs it to take the guest over; look after etcd first");
                }

                return await SwitchOverAsync(cancellation);
            default:
                return ControlReply.Failed($"a sender does not know the command {request.Command}");
        }
    }

    /// <summary>One line per second while rounds run.</summary>
    private async Task TellAsync(CancellationToken cancellation)
    {
        using PeriodicTimer timer = new(TimeSpan.FromSeconds(1), _time);
        long lastRound = 0;
        long lastBytes = 0;
        Links.ReceiverLink? lastLink = null;
        long lastOut = 0;
        long lastIn = 0;
        long lastLeft = 0;
        long lastAt = _time.GetTimestamp();
        while (await timer.WaitForNextTickAsync(cancellation))
        {
            Links.ReceiverLink? link = _link;
            long bytes = link?.BytesSent ?? 0;
            double seconds = Math.Max(0.001, _time.GetElapsedTime(lastAt).TotalSeconds);
            lastAt = _time.GetTimestamp();
            Volatile.Write(ref _bytesPerSecond, (long)((bytes - (link == lastLink ? lastBytes : 0)) / seconds));
            long round = _machine.CommittedRound;
            _roundsPerSecond = (round - lastRound) / seconds;
            if (Progress() is { } progress)
            {
                Log.Progress(
                    _log, _guest!.Definition.Name, progress.Percent, ByteSize.Format(progress.BytesPerSecond), progress.SecondsLeft ?? 0);
            }
            else if (round != lastRound)
            {
                Log.Rounds(
                    _log, _guest!.Definition.Name, round, _roundsPerSecond, ByteSize.Format(_bytesPerSecond),
                    StatusText.Micros(_pauses.At(0.5)), StatusText.Micros(_pauses.At(0.99)));
            }

            TellDisks(seconds, ref lastLeft);
            if (_guest is { Network.IsEmpty: false } guest)
            {
                IReadOnlyList<PortCounters> ports = guest.Network.Counters;
                long left = ports.Sum(p => p.ReleasedFrames);
                long passed = ports.Sum(p => p.PassedFrames);
                if (left != lastOut || passed != lastIn)
                {
                    Log.Network(
                        _log, guest.Definition.Name, left - lastOut, passed - lastIn, ports.Sum(p => p.HeldFrames),
                        StatusText.Micros(guest.Network.HeldMicros(0.5)), StatusText.Micros(guest.Network.HeldMicros(0.99)),
                        ports.Sum(p => p.DroppedMisfits + p.DroppedNoCable + p.HostDroppedFrames));
                }

                lastOut = left;
                lastIn = passed;
            }

            lastRound = round;
            lastBytes = bytes;
            lastLink = link;
        }
    }

    /// <summary>How far the copies of the disks are, while they are under way.</summary>
    private void TellDisks(double seconds, ref long lastLeft)
    {
        if (_guest is not { Disks.IsEmpty: false } guest)
        {
            return;
        }

        guest.Disks.Touch();
        if (_link is null || guest.Disks.IsCopied)
        {
            lastLeft = 0;
            return;
        }

        IReadOnlyList<DiskStatus> disks = guest.Disks.Status;
        long total = disks.Sum(d => d.BytesTotal);
        long left = disks.Sum(d => d.BytesLeft);
        double rate = Math.Max(0, lastLeft - left) / seconds;
        lastLeft = left;
        Log.DiskProgress(
            _log, guest.Definition.Name, total == 0 ? 100 : 100.0 * (total - left) / total, ByteSize.Format((long)rate),
            rate > 0 ? StatusText.Seconds(left / rate) : "unknown time");
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "DiskProgress", Level = LogLevel.Information,
            Message = "{Guest}: the disks are {Percent:0} % copied, {Rate}/s, {Left} left; the guest is protected when they are complete")]
        public static partial void DiskProgress(ILogger log, string guest, double percent, string rate, string left);

        [LoggerMessage(EventName = "BuiltinGuest", Level = LogLevel.Information,
            Message = "No guest is named (--guest FILE): protecting the small built-in guest, which counts on its serial port and checks its own memory")]
        public static partial void Builtin(ILogger log);

        [LoggerMessage(EventName = "GuestStarted", Level = LogLevel.Information,
            Message = "{Guest}: started, {Memory} (QEMU {Version}, {Accelerator}, process {Pid}); status: curling-send status --control {Control}")]
        public static partial void Started(
            ILogger log, string guest, string memory, Version version, string accelerator, int pid, string control);

        [LoggerMessage(EventName = "ProtectedAgain", Level = LogLevel.Information,
            Message = "{Guest}: generation {Generation} is to have a standby at {Target}")]
        public static partial void Adopted(ILogger log, string guest, long generation, string target);

        [LoggerMessage(EventName = "GuestReachable", Level = LogLevel.Information,
            Message = "{Guest}: serial port at {Serial}, display at {Display}")]
        public static partial void Reachable(ILogger log, string guest, string serial, string display);

        [LoggerMessage(EventName = "NotConnected", Level = LogLevel.Warning,
            Message = "No connection to {Target}: {Reason}. The guest runs unprotected; check that curling-recv runs there. Trying again")]
        public static partial void NotConnected(ILogger log, string target, string reason);

        [LoggerMessage(EventName = "Unexpected", Level = LogLevel.Error,
            Message = "Something unexpected happened while {Doing}; it is taken for a failure of that, and the guest runs on. Please report it")]
        public static partial void Unexpected(ILogger log, string doing, Exception exception);

        [LoggerMessage(EventName = "AttemptGivenUp", Level = LogLevel.Debug, Message = "The attempt to connect to {Target} was given up: {Reason}")]
        public static partial void AttemptGivenUp(ILogger log, string target, string reason);

        [LoggerMessage(EventName = "StandbyGivenUp", Level = LogLevel.Information,
            Message = "{Guest}: the standby at {Old} is given up, its next one is to be at {Target}")]
        public static partial void StandbyGivenUp(ILogger log, string guest, string old, string target);

        [LoggerMessage(EventName = "RoundSafe", Level = LogLevel.Debug,
            Message = "{Guest}: round {Round} is safe: cut at {CutMicros}, acknowledged at {SafeMicros} µs of the monotonic clock")]
        public static partial void RoundSafe(ILogger log, string guest, long round, long cutMicros, long safeMicros);

        [LoggerMessage(EventName = "Refused", Level = LogLevel.Warning, Message = "{Target} refuses: {Reason}")]
        public static partial void Refused(ILogger log, string target, string reason);

        [LoggerMessage(EventName = "Base", Level = LogLevel.Information,
            Message = "{Guest}: connected to {Target}; the first round is on its way, the guest is protected when it is committed")]
        public static partial void Base(ILogger log, string guest, string target);

        [LoggerMessage(EventName = "BaseProgress", Level = LogLevel.Information,
            Message = "{Guest}: first round {Percent:0} % sent, {Rate}/s, {SecondsLeft:0} s left")]
        public static partial void Progress(ILogger log, string guest, double percent, string rate, double secondsLeft);

        [LoggerMessage(EventName = "Protected", Level = LogLevel.Information,
            Message = "{Guest}: PROTECTED: round {Round} is committed")]
        public static partial void Protected(ILogger log, string guest, long round);

        [LoggerMessage(EventName = "Rounds", Level = LogLevel.Information,
            Message = "{Guest}: protected at round {Round}, {RoundsPerSecond:0.#} rounds/s, {Rate}/s; pause median {P50}, p99 {P99}")]
        public static partial void Rounds(
            ILogger log, string guest, long round, double roundsPerSecond, string rate, string p50, string p99);

        [LoggerMessage(EventName = "CompressionChanged", Level = LogLevel.Information,
            Message = "{Guest}: pages travel with compression {Compression} from now on (the link takes {Rate}/s)")]
        public static partial void Compression(ILogger log, string guest, string compression, string rate);

        [LoggerMessage(EventName = "Unprotected", Level = LogLevel.Warning,
            Message = "{Guest}: UNPROTECTED: {Reason}. The guest runs on; look after the receiver, the sender keeps trying")]
        public static partial void Unprotected(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "OutputReleased", Level = LogLevel.Warning,
            Message = "{Guest}: the guest's output leaves at once from now on ({Held} frames had waited): until it is protected again, a"
                + " failover could lose what it says. Look after the receiver")]
        public static partial void OutputReleased(ILogger log, string guest, long held);

        [LoggerMessage(EventName = "Network", Level = LogLevel.Information,
            Message = "{Guest}: network: {FramesOut} frames out, {FramesIn} in; {Held} held now, held median {P50}, p99 {P99}; dropped {Dropped}")]
        public static partial void Network(ILogger log, string guest, long framesOut, long framesIn, long held, string p50, string p99, long dropped);

        [LoggerMessage(EventName = "CaptureFailed", Level = LogLevel.Warning,
            Message = "{Guest}: round {Round} came to nothing: {Reason}. The guest runs; the sender connects anew")]
        public static partial void CaptureFailed(ILogger log, string guest, long round, string reason);

        [LoggerMessage(EventName = "FallsBack", Level = LogLevel.Warning,
            Message = "{Guest}: incremental rounds are not possible ({Reason}); using full rounds, which stop the guest for longer")]
        public static partial void FallsBack(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "WaitedForLink", Level = LogLevel.Warning,
            Message = "{Guest}: the guest stood still for {Pause} in round {Round} because the link is slower than what it writes;"
                + " give the link more bandwidth, or accept longer pauses")]
        public static partial void WaitedForLink(ILogger log, string guest, long round, string pause);

        [LoggerMessage(EventName = "Resumed", Level = LogLevel.Warning,
            Message = "{Guest}: the switchover came to nothing ({Reason}): the guest runs on here. Ask again when it is protected")]
        public static partial void Resumed(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "RemovedAbandoned", Level = LogLevel.Information,
            Message = "Removed {Count} directories and sockets that dead daemons left behind")]
        public static partial void RemovedAbandoned(ILogger log, int count);

        [LoggerMessage(EventName = "Ended", Level = LogLevel.Information,
            Message = "{Guest}: ended: {Reason}; the guest's QEMU here is stopped")]
        public static partial void Ended(ILogger log, string guest, string reason);
    }
}
