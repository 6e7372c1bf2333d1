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
    /// <summary>What is done to make pages smaller.</summary>
    public CompressChoice Compress { get; init; } = CompressChoice.Auto;
}
