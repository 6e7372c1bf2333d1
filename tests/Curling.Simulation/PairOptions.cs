using Curling.Hosting.Pages;
using Curling.Replication.Receiver;

namespace Curling.Simulation;

/// <summary>What a history is like; chosen from its seed. Shares are in percent.</summary>
internal sealed record PairOptions(
    bool Incremental,
    int MaxRoundsInFlight,
    FailureAction OnFailure,
    int FaultMilliseconds,
    int Incidents,
    int FailingCaptures,
    int SpoiltFrames,
    int FailingStandby,
    int RefusedHellos,
    bool Fences)
{
    public const int FailureTimeoutMilliseconds = 300;
    public const int TickMilliseconds = 40;
    public const int HeartbeatMilliseconds = 75;

    /// <summary>A tick that comes later than this after the one before tells a daemon that it was held up.</summary>
    public const int LatenessMilliseconds = TickMilliseconds + (FailureTimeoutMilliseconds / 4);

    /// <summary>How long a lease of the arbiter lives.</summary>
    public const int TtlMilliseconds = 1_000;

    /// <summary>How long it takes at most to stop a guest once somebody has the time to.</summary>
    public const int StoppingMilliseconds = 20;

    /// <summary>Whether an arbiter decides who may run the guest.</summary>
    public bool Arbiter { get; init; }

    /// <summary>How many of the arbiter's servers are asked, one after the other.</summary>
    public int ArbiterServers { get; init; } = 1;

    /// <summary>What silence alone leads to.</summary>
    public FailureAction OnSilence { get; init; } = FailureAction.Promote;

    /// <summary>Whether output that waits asks for a round.</summary>
    public bool OutputAsksForRounds { get; init; }

    /// <summary>The rest between rounds.</summary>
    public int IntervalMilliseconds { get; init; }

    /// <summary>Of a thousand writes to the network so many have a bit flipped.</summary>
    public int FlipsPerMille { get; init; }

    /// <summary>The share of writes that arrive in pieces.</summary>
    public int Splits { get; init; }

    public PageCompression Compression { get; init; }

    public static PairOptions From(History history) => new(
        history.Chance(80),
        history.Between(1, 4),
        history.Chance(65) ? FailureAction.Promote : FailureAction.Hold,
        history.Seed % 3 == 1 ? history.Between(500, 4_000) : history.Between(100, 1_500),
        history.Seed % 3 == 1 ? history.Between(0, 12) : history.Between(0, 8),
        history.Chance(15) ? 10 : 0,
        history.Chance(25) ? 3 : 0,
        history.Chance(15) ? 4 : 0,
        history.Chance(10) ? 30 : 0,
        history.Seed % 4 == 0)
    {
        Arbiter = history.Seed % 3 == 1,
        ArbiterServers = history.Seed % 6 == 1 ? 2 : 1,
        OnSilence = history.Chance(85) ? FailureAction.Promote : FailureAction.Hold,
        OutputAsksForRounds = history.Chance(50),
        IntervalMilliseconds = history.Chance(50) ? 0 : history.Between(1, 60),
        FlipsPerMille = history.Chance(25) ? history.Between(1, 20) : 0,
        Splits = history.Pick(0, 5, 40),
        Compression = history.Chance(10) ? PageCompression.Lz4 : PageCompression.None,
    };
}
