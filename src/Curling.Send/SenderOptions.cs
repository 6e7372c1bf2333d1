using Curling.Hosting.Arbiter;
using Curling.Hosting.Options;
using Curling.Send.Links;

namespace Curling.Send;

/// <summary>Which rounds to use.</summary>
internal enum RoundChoice
{
    /// <summary>Incremental where the host allows it, else full.</summary>
    Auto = 1,

    /// <summary>QEMU's own migration, again and again.</summary>
    Full = 2,

    /// <summary>Only what changed.</summary>
    Incremental = 3,
}

/// <summary>When rounds happen.</summary>
internal enum SyncChoice
{
    /// <summary>By the clock.</summary>
    Periodic = 1,

    /// <summary>When output waits.</summary>
    Output = 2,
}

/// <summary>What the operator asked of a sender.</summary>
/// <param name="Target">The receiver.</param>
/// <param name="Bandwidth">The most that is sent per second.</param>
/// <param name="GuestFile">The guest definition, null for the built-in guest.</param>
/// <param name="Rounds">Which rounds to use.</param>
/// <param name="Interval">The rest between rounds, null to choose it by <paramref name="MaxOverhead"/>.</param>
/// <param name="MaxOverhead">The share of time that pauses may take, 0 to 1.</param>
/// <param name="MaxRoundsInFlight">Rounds captured and not yet committed, at most.</param>
/// <param name="FailureTimeout">A receiver that is silent for longer is lost.</param>
/// <param name="Qemu">The QEMU to run, null to look for one.</param>
/// <param name="Control">The control socket, null for the default.</param>
internal sealed record SenderOptions(
    Endpoint Target,
    ByteRate Bandwidth,
    string? GuestFile,
    RoundChoice Rounds,
    TimeSpan? Interval,
    double MaxOverhead,
    int MaxRoundsInFlight,
    TimeSpan FailureTimeout,
    string? Qemu,
    string? Control)
{
    /// <summary>When rounds happen; null for by whether the guest has a network.</summary>
    public SyncChoice? Sync { get; init; }

    /// <summary>With <see cref="SyncChoice.Output"/>: the least rest between rounds; null for as long as the guest stood still.</summary>
    public TimeSpan? MinInterval { get; init; }

    /// <summary>With <see cref="SyncChoice.Output"/>: the longest rest between rounds.</summary>
    public TimeSpan MaxInterval { get; init; } = TimeSpan.FromMilliseconds(100);

    /// <summary>Output of the guest that may wait, in bytes per network.</summary>
    public long MaxHeldBytes { get; init; } = 16L << 20;

    /// <summary>Whether frames that the guest is given travel to the receiver as well.</summary>
    public bool ReplayInbound { get; init; } = true;

    /// <summary>Whether output leaves before it is safe: wrong, and only for tests that must notice.</summary>
    public bool ReleaseEarly { get; init; }

    /// <summary>A file that is told what the disks held at each cut, null for none: slow, and only for tests.</summary>
    public string? DiskDigests { get; init; }

    /// <summary>What decides which host may run the guest; null for nothing.</summary>
    public ArbiterOptions? Arbiter { get; init; }

    /// <summary>What is done to make pages smaller.</summary>
    public CompressChoice Compress { get; init; } = CompressChoice.Auto;
}
