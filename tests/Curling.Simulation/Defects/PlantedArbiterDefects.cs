using Curling.Replication.Receiver;

namespace Curling.Simulation.Defects;

/// <summary>A lease, and a vouch, count from when the answer came: what the answer or this process was late is given away.</summary>
internal sealed class RenewsFromTheAnswer : Defect
{
    public override bool CountsTheLeaseFromTheAnswer => true;
}

/// <summary>The right is held against a clock that stands still while the daemon is held up.</summary>
internal sealed class RenewsFromAStaleClock : Defect
{
    public override bool HasAClockThatStandsStill => true;
}

/// <summary>A renewal by a leader that was deposed counts.</summary>
internal sealed class BelievesADeposedLeader : Defect
{
    public override bool BelievesAnyLeader => true;
}

/// <summary>Nobody looks at the clock before a frame leaves: a daemon that was held up lets out what it had in its hands.</summary>
internal sealed class ReleasesWithoutADeadline : Defect
{
    public override bool HasNoDeadline => true;
}

/// <summary>The receiver vouches, and does not keep in mind that it has.</summary>
internal sealed class IgnoresItsVouch : Defect
{
    private TimeSpan _promised;

    public override ReceiverInput In(ReceiverInput input)
    {
        if (input is not ReceiverInput.VouchAsked asked)
        {
            return input;
        }

        _promised = asked.Time;
        return asked with { Time = TimeSpan.Zero };
    }

    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        [.. outputs.Select(o => o is ReceiverOutput.SendVouch vouch ? vouch with { Time = _promised } : o)];
}

/// <summary>The receiver promotes without asking the arbiter.</summary>
internal sealed class DoesNotAskTheArbiter : Defect
{
    public override ReceiverSettings Settings(ReceiverSettings settings) => settings with { RightTtl = null };
}
