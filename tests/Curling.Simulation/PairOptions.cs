using Curling.Replication.Receiver;

namespace Curling.Simulation;

/// <summary>What a history is like; chosen from its seed.</summary>
internal sealed record PairOptions(
    bool Incremental,
    int MaxRoundsInFlight,
    FailureAction OnFailure,
    int FaultMilliseconds,
    int Incidents,
    int FailingCaptures,
    int DamagedRounds,
    int FailingStandby,
    int RefusedHellos,
    bool Fences)
{
    public const int FailureTimeoutMilliseconds = 300;
    public const int TickMilliseconds = 40;
    public const int HeartbeatMilliseconds = 75;

    public static PairOptions From(History simulation) => new(
        simulation.Chance(80),
        simulation.Between(1, 4),
        simulation.Chance(65) ? FailureAction.Promote : FailureAction.Hold,
        simulation.Between(100, 1_500),
        simulation.Between(0, 8),
        simulation.Chance(15) ? 10 : 0,
        simulation.Chance(25) ? 10 : 0,
        simulation.Chance(15) ? 4 : 0,
        simulation.Chance(10) ? 30 : 0,
        simulation.Seed % 4 == 0);
}
