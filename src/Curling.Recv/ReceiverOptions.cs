using Curling.Hosting.Arbiter;
using Curling.Hosting.Options;
using Curling.Replication.Receiver;
using Curling.Storage.Replica;

namespace Curling.Recv;

/// <summary>What the operator asked of a receiver.</summary>
/// <param name="Listen">Where to listen.</param>
/// <param name="OnFailure">What to do when a primary is lost.</param>
/// <param name="FailureTimeout">Silence for longer than this is a loss.</param>
/// <param name="MaxGuests">Guests protected at once.</param>
/// <param name="MaxGuestMemoryBytes">Memory of one guest.</param>
/// <param name="MaxRoundBytes">Bytes of one round that is being prefetched.</param>
/// <param name="Qemu">The QEMU to run standbys with, null to look for one.</param>
/// <param name="Control">The control socket, null for the default.</param>
/// <param name="Vnc">Where displays of promoted guests listen, null for loopback with a free port.</param>
internal sealed record ReceiverOptions(
    Endpoint Listen,
    FailureAction OnFailure,
    TimeSpan FailureTimeout,
    int MaxGuests,
    long MaxGuestMemoryBytes,
    long MaxRoundBytes,
    string? Qemu,
    string? Control,
    string? Vnc)
{
    /// <summary>What to do when a primary is silent.</summary>
    public FailureAction OnSilence { get; init; } = FailureAction.Promote;

    /// <summary>What decides which host may run a guest; null for nothing.</summary>
    public ArbiterOptions? Arbiter { get; init; }

    /// <summary>A shell command that makes sure that a primary does not run, null for none.</summary>
    public string? FenceCommand { get; init; }

    /// <summary>How long the command may take.</summary>
    public TimeSpan FenceTimeout { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Where replicas of disks are that name no place of their own.</summary>
    public string ReplicaDirectory { get; init; } = DefaultReplicaDirectory();

    /// <summary>When a round's part of the disks must be safe from a loss of power.</summary>
    public ReplicaSync ReplicaSync { get; init; } = ReplicaSync.None;

    /// <summary>Whether what stands where a replica is to be may be given up.</summary>
    public bool ReplaceReplica { get; init; }

    /// <summary>A file that is told what the replicas held at each commit and at promotions, null for none: slow, and only for tests.</summary>
    public string? DiskDigests { get; init; }

    /// <summary>Where a guest that was promoted here is given its next standby, null for nowhere.</summary>
    public Endpoint? ThenTarget { get; init; }

    /// <summary>The most that is sent there per second.</summary>
    public ByteRate ThenBandwidth { get; init; } = ByteRate.Max;

    /// <summary>Where replicas are when nothing else is said.</summary>
    public static string DefaultReplicaDirectory() => Path.Combine(Sessions.Generations.StateDirectory(), "replicas");

    /// <summary>Output of a promoted guest that may wait because the host does not take it, in bytes per network.</summary>
    public long MaxHeldBytes { get; init; } = 4L << 20;
}
