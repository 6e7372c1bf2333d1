using System.Text.Json.Serialization;
using Curling.Hosting.Network;
using Curling.Linux.Processes;

namespace Curling.Hosting.Control;

/// <summary>What <c>curling-recv status --json</c> prints. The names are stable.</summary>
public sealed record ReceiverStatus(string Listen, IReadOnlyList<SessionStatus> Sessions)
{
    /// <summary>Always <c>receiver</c>.</summary>
    [JsonPropertyOrder(-1)]
    public string Role { get; init; } = "receiver";

    /// <summary>What the daemon itself uses.</summary>
    public ProcessStatus? Process { get; init; }
}

/// <summary>One guest on a receiver.</summary>
/// <param name="Guest">Its name.</param>
/// <param name="State">waiting, prefetching, protected, promoting, promoted, ended or failed.</param>
/// <param name="CommittedRound">The round the standby stands at, 0 for none.</param>
/// <param name="CommittedAt">When it was committed.</param>
/// <param name="Generation">The guest's generation.</param>
/// <param name="StandbyPid">The standby's QEMU.</param>
/// <param name="LastRound">The last round committed.</param>
/// <param name="Sender">The sender's address, null when it is not connected.</param>
/// <param name="Held">Whether the primary is lost and the operator has to promote.</param>
/// <param name="Serial">The Unix socket of the standby's serial port.</param>
/// <param name="Display">Where the display can be seen.</param>
/// <param name="Base">The first round, while it is arriving.</param>
/// <param name="Reason">Why it is in this state.</param>
public sealed record SessionStatus(
    string Guest,
    string State,
    long CommittedRound,
    DateTimeOffset? CommittedAt,
    long Generation,
    int? StandbyPid,
    LastRoundStatus? LastRound,
    string? Sender,
    bool Held,
    string? Serial,
    string? Display,
    BaseProgress? Base,
    string? Reason)
{
    /// <summary>Its networks here; null when it has none.</summary>
    public StandbyNetworkStatus? Network { get; init; }

    /// <summary>The replicas of its disks; null when it has none.</summary>
    public IReadOnlyList<ReplicaStatus>? Replicas { get; init; }

    /// <summary>How a guest that was promoted here is protected again; null when it is not.</summary>
    public SenderStatus? Next { get; init; }

    /// <summary>The arbiter's right to run it here; null where there is no arbiter.</summary>
    public RightStatus? Right { get; init; }
}

/// <summary>A committed round.</summary>
/// <param name="Kind">full, base or incremental.</param>
/// <param name="Bytes">Content bytes as they travelled.</param>
/// <param name="PauseMicroseconds">How long the guest stood still for it.</param>
public sealed record LastRoundStatus(string Kind, long Bytes, long PauseMicroseconds);

/// <summary>How far the first round is.</summary>
/// <param name="Percent">0 to 100, of the bytes expected.</param>
/// <param name="BytesPerSecond">Its rate so far.</param>
/// <param name="SecondsLeft">An estimate; null while there is none.</param>
public sealed record BaseProgress(double Percent, long BytesPerSecond, double? SecondsLeft);

/// <summary>What <c>curling-send status --json</c> prints. The names are stable.</summary>
/// <param name="Guest">The guest's name.</param>
/// <param name="State">starting, base, protected, unprotected or ended.</param>
/// <param name="Round">The last round whose capture began.</param>
/// <param name="CommittedRound">The last round committed.</param>
/// <param name="GuestPid">The guest's QEMU.</param>
/// <param name="PauseMicroseconds">How long rounds stop the guest.</param>
/// <param name="BytesPerSecond">What travels.</param>
/// <param name="Target">The receiver.</param>
/// <param name="Rounds">full or incremental.</param>
/// <param name="RoundsPerSecond">Rounds committed in the last second.</param>
/// <param name="Generation">The guest's generation.</param>
/// <param name="Serial">The Unix socket of the guest's serial port.</param>
/// <param name="Display">Where the display can be seen.</param>
/// <param name="Base">The first round, while it is on its way.</param>
/// <param name="Reason">Why it is in this state.</param>
public sealed record SenderStatus(
    string Guest,
    string State,
    long Round,
    long CommittedRound,
    int? GuestPid,
    PauseStatus PauseMicroseconds,
    long BytesPerSecond,
    string Target,
    string Rounds,
    double RoundsPerSecond,
    long Generation,
    string? Serial,
    string? Display,
    BaseProgress? Base,
    string? Reason)
{
    /// <summary>Always <c>sender</c>.</summary>
    [JsonPropertyOrder(-1)]
    public string Role { get; init; } = "sender";

    /// <summary>What the daemon itself uses.</summary>
    public ProcessStatus? Process { get; init; }

    /// <summary>What was sent on the connection that is open.</summary>
    public SentStatus? Sent { get; init; }

    /// <summary>The guest's networks; null when it has none.</summary>
    public OutputStatus? Output { get; init; }

    /// <summary>Its disks; null when it has none.</summary>
    public IReadOnlyList<DiskStatus>? Disks { get; init; }

    /// <summary>The arbiter's right to run the guest here; null where there is no arbiter.</summary>
    public RightStatus? Right { get; init; }
}

/// <summary>A host's right to run a guest, where an arbiter decides.</summary>
/// <param name="Arbiter">The arbiter.</param>
/// <param name="Holder">This host's role and name when the arbiter gave it the right, else null.</param>
/// <param name="Generation">The guest's generation that the right was given for, 0 for none.</param>
/// <param name="ValidForMilliseconds">How long the right lasts unless it is renewed; 0 when it has run out.</param>
/// <param name="Vouched">Whether only the receiver's promise to take nothing over lets the guest run: the arbiter does not answer.</param>
/// <param name="Suspended">Whether the guest is stopped because the right has run out.</param>
/// <param name="SilentForMilliseconds">For how long the arbiter has not answered; null when it does.</param>
/// <param name="Problem">What is wrong.</param>
public sealed record RightStatus(
    string Arbiter, string? Holder, long Generation, long ValidForMilliseconds, bool Vouched, bool Suspended, long? SilentForMilliseconds,
    string? Problem);

/// <summary>A disk of a guest.</summary>
/// <param name="Path">Its image.</param>
/// <param name="Bytes">Its size.</param>
/// <param name="Complete">Whether all of it has travelled, or is cut: with the next committed round the standby has it.</param>
/// <param name="BytesLeft">What the copy has still to carry.</param>
/// <param name="BytesTotal">What the copy began with.</param>
/// <param name="BytesSent">What travelled of it on the connection that is open.</param>
/// <param name="HeldBytes">Old content that is held for the round under way.</param>
/// <param name="Waits">Writes that had to wait for a round.</param>
public sealed record DiskStatus(
    string Path, long Bytes, bool Complete, long BytesLeft, long BytesTotal, long BytesSent, long HeldBytes, long Waits);

/// <summary>A disk's replica on the standby's host.</summary>
/// <param name="Path">The replica, or the disk of a promoted guest.</param>
/// <param name="Bytes">Its size.</param>
/// <param name="State">empty, copying or consistent.</param>
/// <param name="Round">Its last round.</param>
public sealed record ReplicaStatus(string Path, long Bytes, string State, long Round);

/// <summary>What a daemon uses.</summary>
/// <param name="Pid">Its process.</param>
/// <param name="ManagedAllocatedBytes">What it allocated on the managed heap since it started; most of it is free again.</param>
/// <param name="AnonymousBytes">Resident memory that is its own.</param>
/// <param name="SharedBytes">Resident memory of shared files that it maps, such as the guest's memory.</param>
public sealed record ProcessStatus(int Pid, long ManagedAllocatedBytes, long AnonymousBytes, long SharedBytes)
{
    /// <summary>What this process uses now.</summary>
    public static ProcessStatus Current()
    {
        (long anonymous, long shared) = ProcessInfo.ResidentMemory(Environment.ProcessId);
        return new ProcessStatus(Environment.ProcessId, GC.GetTotalAllocatedBytes(), anonymous, shared);
    }
}

/// <summary>What a sender sent on the connection that is open, base round included, in bytes.</summary>
/// <param name="MemoryBytes">Frames of memory, headers included, as they were captured.</param>
/// <param name="EncodedMemoryBytes">The same as they travelled: with deltas and compression.</param>
/// <param name="DeviceStateBytes">Frames of device state, or of a full round's stream.</param>
/// <param name="TotalBytes">Everything.</param>
/// <param name="Compression">What is used now: none, lz4 or zstd.</param>
public sealed record SentStatus(
    long MemoryBytes, long EncodedMemoryBytes, long DeviceStateBytes, long TotalBytes, string Compression);

/// <summary>The networks of a guest and what holds its output.</summary>
/// <param name="Sync">When rounds happen: periodic or output.</param>
/// <param name="Held">Whether output waits until it is safe; it does not while the guest is unprotected.</param>
/// <param name="HeldMicrosecondsP50">How long the last frames were held, their median.</param>
/// <param name="HeldMicrosecondsP99">The same, 99 of 100.</param>
/// <param name="AckMicrosecondsP50">From the end of a cut until the round is known to be safe, the median.</param>
/// <param name="InboundCopiedFrames">Frames for the guest that also went to the receiver.</param>
/// <param name="InboundCopiedBytes">What they took of the link.</param>
/// <param name="InboundLeftOutFrames">Frames for the guest that did not go there because the link was too slow.</param>
/// <param name="Networks">Each network.</param>
public sealed record OutputStatus(
    string Sync, bool Held, long HeldMicrosecondsP50, long HeldMicrosecondsP99, long AckMicrosecondsP50, long InboundCopiedFrames, long InboundCopiedBytes,
    long InboundLeftOutFrames, IReadOnlyList<PortCounters> Networks);

/// <summary>The networks of a guest on its standby's host.</summary>
/// <param name="ReplayFrames">Frames that had reached the primary and would be given to the guest after a promotion.</param>
/// <param name="ReplayBytes">What they take.</param>
/// <param name="ReplayDroppedFrames">Frames dropped because there was no more room for them.</param>
/// <param name="Networks">Each network.</param>
public sealed record StandbyNetworkStatus(
    long ReplayFrames, long ReplayBytes, long ReplayDroppedFrames, IReadOnlyList<PortCounters> Networks);

/// <summary>Pauses of the guest in microseconds; the percentiles are over the last 1,024 rounds.</summary>
public sealed record PauseStatus(long Last, long P50, long P99);

/// <summary>What a control client asks.</summary>
/// <param name="Command">status, promote, promote-unfenced, promote-unarbitrated, promote-unchecked, discard, switchover, protect.</param>
/// <param name="Guest">The guest it is about, where it is about one.</param>
/// <param name="Target">With protect: where the next standby's receiver listens.</param>
/// <param name="Bandwidth">With protect: the most that is sent there per second.</param>
public sealed record ControlRequest(string Command, string? Guest = null, string? Target = null, string? Bandwidth = null);

/// <summary>What a daemon answers: one of the results, or an error.</summary>
public sealed record ControlReply(bool Ok)
{
    /// <summary>What went wrong.</summary>
    public string? Error { get; init; }

    /// <summary>What was done.</summary>
    public string? Done { get; init; }

    /// <summary>A receiver's status.</summary>
    public ReceiverStatus? Receiver { get; init; }

    /// <summary>A sender's status.</summary>
    public SenderStatus? Sender { get; init; }

    /// <summary>An answer that it could not be done.</summary>
    public static ControlReply Failed(string error) => new(false) { Error = error };

    /// <summary>An answer that it was done.</summary>
    public static ControlReply Success(string done) => new(true) { Done = done };
}

/// <summary>How status and control travel.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, MaxDepth = 16)]
[JsonSerializable(typeof(ReceiverStatus))]
[JsonSerializable(typeof(SenderStatus))]
[JsonSerializable(typeof(ControlRequest))]
[JsonSerializable(typeof(ControlReply))]
public sealed partial class ControlJson : JsonSerializerContext;
