using System.Globalization;
using System.Text;
using Curling.Hosting.Network;
using Curling.Linux.Memory;

namespace Curling.Hosting.Control;

/// <summary>Writes status for people.</summary>
public static class StatusText
{
    /// <summary>A receiver's status.</summary>
    public static string Format(ReceiverStatus status, DateTimeOffset now)
    {
        StringBuilder text = new();
        text.AppendLine(CultureInfo.InvariantCulture, $"receiver on {status.Listen}, {status.Sessions.Count} guest(s)");
        Uses(text, status.Process);
        foreach (SessionStatus session in status.Sessions)
        {
            text.AppendLine();
            Row(text, "guest", $"{session.Guest}, generation {session.Generation}");
            Row(text, "state", session.State + (session.Held ? $" (held: curling-recv promote {session.Guest})" : ""));
            Row(text, "because", session.Reason);
            Row(text, "sender", session.Sender ?? "not connected");
            Progress(text, session.Base);
            if (session.CommittedRound > 0)
            {
                string age = session.CommittedAt is { } at ? $", {Math.Max(0, (now - at).TotalSeconds):0.0} s ago" : "";
                Row(text, "committed", $"round {session.CommittedRound}{age}");
            }

            if (session.LastRound is { } last)
            {
                Row(text, "last round", $"{last.Kind}, {ByteSize.Format(last.Bytes)}, guest paused {Micros(last.PauseMicroseconds)}");
            }

            Right(text, session.Right);
            Row(text, "standby", session.StandbyPid is { } pid ? $"QEMU, process {pid}" : null);
            Row(text, "serial", session.Serial);
            Row(text, "display", session.Display);
            foreach (ReplicaStatus replica in session.Replicas ?? [])
            {
                Row(text, "disk", $"{replica.Path}, {ByteSize.Format(replica.Bytes)}: {replica.State} at round {replica.Round}");
            }

            if (session.Next is { } next)
            {
                Row(text, "next standby", $"{next.Target}: {next.State}, round {next.CommittedRound} committed, {next.RoundsPerSecond:0.#} rounds/s,"
                    + $" pause median {Micros(next.PauseMicroseconds.P50)}" + (next.State == "protected" ? "" : $"; {next.Reason}"));
                Progress(text, next.Base);
            }

            if (session.Network is { } network)
            {
                Networks(text, network.Networks);
                Row(text, "replay", $"{network.ReplayFrames} frames ({ByteSize.Format(network.ReplayBytes)}) would be given to the guest"
                    + (network.ReplayDroppedFrames > 0 ? $"; {network.ReplayDroppedFrames} had no room" : ""));
            }
        }

        return text.ToString();
    }

    /// <summary>A sender's status.</summary>
    public static string Format(SenderStatus status)
    {
        StringBuilder text = new();
        Row(text, "guest", $"{status.Guest}, generation {status.Generation}");
        Row(text, "state", status.State);
        Row(text, "because", status.Reason);
        Row(text, "receiver", status.Target);
        Right(text, status.Right);
        Progress(text, status.Base);
        Row(text, "rounds", $"{status.Rounds}, {status.RoundsPerSecond:0.#}/s; round {status.Round} begun, {status.CommittedRound} committed");
        PauseStatus pause = status.PauseMicroseconds;
        Row(text, "pause", $"last {Micros(pause.Last)}, median {Micros(pause.P50)}, p99 {Micros(pause.P99)}");
        Row(text, "sending", ByteSize.Format(status.BytesPerSecond) + "/s");
        if (status.Sent is { MemoryBytes: > 0 } sent)
        {
            Row(text, "compression", string.Create(
                CultureInfo.InvariantCulture,
                $"{sent.Compression}; memory sent on this connection: {ByteSize.Format(sent.EncodedMemoryBytes)} for {ByteSize.Format(sent.MemoryBytes)}"));
        }

        Row(text, "process", status.GuestPid is { } pid ? $"QEMU, process {pid}" : null);
        Row(text, "serial", status.Serial);
        Row(text, "display", status.Display);
        if (status.Output is { } output)
        {
            Row(text, "output", (output.Held ? "held until its round is safe" : "leaves at once: the guest is not protected")
                + $", sync {output.Sync}; held median {Micros(output.HeldMicrosecondsP50)}, p99 {Micros(output.HeldMicrosecondsP99)}");
            Row(text, "copied", $"{output.InboundCopiedFrames} inbound frames ({ByteSize.Format(output.InboundCopiedBytes)}) to the receiver"
                + (output.InboundLeftOutFrames > 0 ? $"; {output.InboundLeftOutFrames} left out, the link was too slow" : ""));
            Networks(text, output.Networks);
        }

        foreach (DiskStatus disk in status.Disks ?? [])
        {
            Row(text, "disk", $"{disk.Path}, {ByteSize.Format(disk.Bytes)}: "
                + (disk.Complete ? "at the standby" : $"{ByteSize.Format(disk.BytesLeft)} of {ByteSize.Format(disk.BytesTotal)} still to be copied")
                + (disk.Waits > 0 ? $"; {disk.Waits} writes waited for a round" : ""));
        }

        Uses(text, status.Process);
        return text.ToString();
    }

    /// <summary>A time that is left, for people.</summary>
    public static string Seconds(double seconds) => string.Create(CultureInfo.InvariantCulture, $"{seconds:0} s");

    /// <summary>A pause for people.</summary>
    public static string Micros(long microseconds) =>
        string.Create(CultureInfo.InvariantCulture, $"{microseconds / 1000.0:0.0} ms");

    private static void Right(StringBuilder text, RightStatus? right)
    {
        if (right is null)
        {
            return;
        }

        string has = right.Suspended ? "SUSPENDED: the right to run the guest has run out; it runs on when the arbiter or the receiver gives it back"
            : right.Holder is null ? "this host has not asked for the right to run the guest, or has given it back"
            : string.Create(CultureInfo.InvariantCulture, $"{right.Holder} may run the guest for {right.ValidForMilliseconds / 1000.0:0.0} s more")
                + (right.Vouched ? ", vouched for by the receiver" : "");
        Row(text, "arbiter", $"{right.Arbiter}: {has}");
        if (right.SilentForMilliseconds is { } silent)
        {
            Row(text, "", string.Create(CultureInfo.InvariantCulture, $"it has not answered for {silent / 1000.0:0.0} s: {right.Problem}; look after etcd"));
        }
    }

    private static void Networks(StringBuilder text, IReadOnlyList<PortCounters> networks)
    {
        foreach (PortCounters port in networks)
        {
            Row(text, "network", $"{port.Mac} on {port.Device ?? "no device"} ({port.Attach}): {port.ReleasedFrames} frames out, {port.PassedFrames} in,"
                + $" {port.HeldFrames} held now");
            if (port.DroppedMisfits + port.DroppedNoCable + port.HostDroppedFrames > 0)
            {
                Row(text, "", $"dropped: {port.DroppedMisfits} too long or short, {port.DroppedNoCable} with no cable,"
                    + $" {port.HostDroppedFrames} by the host because the guest was too slow");
            }

            if (port.Overruns > 0)
            {
                Row(text, "", $"stopped {port.Overruns} times with no room for what the card had queued: raise --max-held-output");
            }
        }
    }

    private static void Uses(StringBuilder text, ProcessStatus? process)
    {
        if (process is not null)
        {
            Row(text, "daemon", $"process {process.Pid}, {ByteSize.Format(process.AnonymousBytes)} of its own,"
                + $" {ByteSize.Format(process.SharedBytes)} of shared memory mapped");
        }
    }

    private static void Progress(StringBuilder text, BaseProgress? progress)
    {
        if (progress is not null)
        {
            string left = progress.SecondsLeft is { } seconds
                ? string.Create(CultureInfo.InvariantCulture, $", {seconds:0} s left")
                : "";
            Row(text, "first round", string.Create(
                CultureInfo.InvariantCulture, $"{progress.Percent:0} % at {ByteSize.Format(progress.BytesPerSecond)}/s{left}"));
        }
    }

    private static void Row(StringBuilder text, string name, string? value)
    {
        if (!string.IsNullOrEmpty(value))
        {
            text.AppendLine(CultureInfo.InvariantCulture, $"  {name,-12} {value}");
        }
    }
}
