using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Simulation.Defects;

/// <summary>
/// Sits between the machines and their daemons and changes nothing. A subclass is a fault planted on purpose, which the
/// checkers have to find. One instance serves one history.
/// </summary>
internal class Defect
{
    /// <summary>The epoch is raised when the guest already runs again.</summary>
    public virtual bool RaisesTheEpochLate => false;

    /// <summary>A round is whole when its marker comes, whatever came before it.</summary>
    public virtual bool SkipsTheDigest => false;

    /// <summary>Pages are protected again only when they were copied: what is written meanwhile is in no copy.</summary>
    public virtual bool ProtectsAfterTheCopy => false;

    /// <summary>The journal hears of a round only when it is in the standby's memory.</summary>
    public virtual bool SkipsTheFirstRecord => false;

    /// <summary>After a stall of its own a daemon looks at the clock before it looks at what has arrived.</summary>
    public virtual bool HasNoGrace => false;

    /// <summary>What has arrived of the open round is put into the standby that is promoted.</summary>
    public virtual bool PromotesPartialRounds => false;

    /// <summary>A right counts from when the answer came, not from when it was asked for.</summary>
    public virtual bool CountsTheLeaseFromTheAnswer => false;

    /// <summary>The clock that the right is held against stands still while the daemon is held up.</summary>
    public virtual bool HasAClockThatStandsStill => false;

    /// <summary>A renewal counts without a look whether the leader that gave it still is one.</summary>
    public virtual bool BelievesAnyLeader => false;

    /// <summary>When the right has run out the guest is stopped, and what it has sent still leaves.</summary>
    public virtual bool HasNoDeadline => false;

    public virtual SenderSettings Settings(SenderSettings settings) => settings;

    public virtual ReceiverSettings Settings(ReceiverSettings settings) => settings;

    public virtual SenderInput In(SenderInput input) => input;

    public virtual ReceiverInput In(ReceiverInput input) => input;

    public virtual IReadOnlyList<SenderOutput> Out(SenderInput input, IReadOnlyList<SenderOutput> outputs) => outputs;

    public virtual IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) => outputs;
}
