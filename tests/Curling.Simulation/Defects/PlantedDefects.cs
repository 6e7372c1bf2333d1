using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Simulation.Defects;

/// <summary>Output leaves when a round is sent instead of when it is complete.</summary>
internal sealed class ReleasesOutputOnSent : Defect
{
    public override IReadOnlyList<SenderOutput> Out(SenderInput input, IReadOnlyList<SenderOutput> outputs) =>
        input is SenderInput.Captured captured ? [.. outputs, new SenderOutput.ReleaseOutput(captured.Round)] : outputs;
}

/// <summary>One round more is in flight than allowed.</summary>
internal sealed class OneRoundTooManyInFlight : Defect
{
    public override SenderSettings Settings(SenderSettings settings) =>
        settings with { MaxRoundsInFlight = settings.MaxRoundsInFlight + 1 };
}

/// <summary>The guest is resumed when the link goes after the last round of a switchover.</summary>
internal sealed class ResumesAfterTheLastRound : Defect
{
    private long _last;
    private bool _final;

    public override IReadOnlyList<SenderOutput> Out(SenderInput input, IReadOnlyList<SenderOutput> outputs)
    {
        _last = outputs.OfType<SenderOutput.CaptureRound>().FirstOrDefault(c => c.Final)?.Begin.Round ?? _last;
        _final |= input is SenderInput.Captured captured && captured.Round == _last;
        _final &= outputs.All(o => o is not SenderOutput.ResumeGuest);
        if (!_final || input is not SenderInput.LinkLost)
        {
            return outputs;
        }

        _final = false;
        return [.. outputs, new SenderOutput.ResumeGuest("planted")];
    }
}

/// <summary>A guest whose switchover came to nothing stays stopped.</summary>
internal sealed class NeverResumes : Defect
{
    public override IReadOnlyList<SenderOutput> Out(SenderInput input, IReadOnlyList<SenderOutput> outputs) =>
        [.. outputs.Where(o => o is not SenderOutput.ResumeGuest)];
}

/// <summary>A round is committed as soon as it begins.</summary>
internal sealed class CommitsAnIncompleteRound : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        input is ReceiverInput.RoundBegan began && outputs.All(o => o is not ReceiverOutput.Refuse)
            ? [.. outputs, new ReceiverOutput.Commit(began.Begin.Round)]
            : outputs;
}

/// <summary>A round is called complete as soon as it begins.</summary>
internal sealed class SaysCompleteTooEarly : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        input is ReceiverInput.RoundBegan began && outputs.All(o => o is not ReceiverOutput.Refuse)
            ? [.. outputs, new ReceiverOutput.SendComplete(began.Begin.Round)]
            : [.. outputs.Where(o => o is not ReceiverOutput.SendComplete)];
}

/// <summary>A loss promotes at once, whatever whole rounds still wait to be committed.</summary>
internal sealed class DropsWholeRoundsAtPromotion : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        input is ReceiverInput.LinkLost && machine.State == ReceiverState.Protected && !machine.IsHeld
            && outputs.All(o => o is not (ReceiverOutput.Promote or ReceiverOutput.Held))
            ? [.. outputs, new ReceiverOutput.Promote(machine.CommittedRound, "planted", Fence: true)]
            : outputs;
}

/// <summary>A normal goodbye is taken for a lost link.</summary>
internal sealed class PromotesAfterGoodbye : Defect
{
    public override ReceiverInput In(ReceiverInput input) =>
        input is ReceiverInput.PeerGoodbye { Reason: not GoodbyeReason.QemuCrashed } ? new ReceiverInput.LinkLost("planted") : input;
}

/// <summary>A sender that comes back when its guest is being started here, or runs here, is taken back.</summary>
internal sealed class TakesTheSupersededBack : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        input is ReceiverInput.LinkUp && outputs.Any(o => o is ReceiverOutput.Refuse) ? [new ReceiverOutput.SendReady()] : outputs;
}

/// <summary>Only the first connection is ever told that rounds may come.</summary>
internal sealed class ForgetsReady : Defect
{
    private bool _said;

    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs)
    {
        if (!outputs.Any(o => o is ReceiverOutput.SendReady))
        {
            return outputs;
        }

        bool said = _said;
        _said = true;
        return said ? [.. outputs.Where(o => o is not ReceiverOutput.SendReady)] : outputs;
    }
}

/// <summary>A round is called committed when its commit begins.</summary>
internal sealed class AcknowledgesTooEarly : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        [.. outputs.SelectMany(o => o is ReceiverOutput.Commit commit ? [o, new ReceiverOutput.SendCommitted(commit.Round)] : (ReceiverOutput[])[o])];
}

/// <summary>A sender that comes back while it is to be fenced is told to stop, though the fence may fail.</summary>
internal sealed class StopsTheSenderWhileItFences : Defect
{
    public override IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) =>
        machine.IsFencing && input is ReceiverInput.LinkUp
            ? [new ReceiverOutput.Refuse(RefusalCode.Superseded, "planted")]
            : outputs;
}

/// <summary>The epoch is raised when the guest already runs again.</summary>
internal sealed class CutsOutputLate : Defect
{
    public override bool RaisesTheEpochLate => true;
}

/// <summary>A round is committed without a look at its digest and counts.</summary>
internal sealed class CommitsBeforeTheDigestCheck : Defect
{
    public override bool SkipsTheDigest => true;
}

/// <summary>The standby is promoted with what has arrived of a round that is not whole.</summary>
internal sealed class PromotesAPartialRound : Defect
{
    public override bool PromotesPartialRounds => true;
}

/// <summary>A sender that is told of a newer generation takes it for a lost link, and goes on.</summary>
internal sealed class IgnoresTheGeneration : Defect
{
    public override SenderInput In(SenderInput input) =>
        input is SenderInput.Refused { Code: RefusalCode.Superseded } ? new SenderInput.LinkLost("planted") : input;
}

/// <summary>A round is put into the standby's memory before the journal says so.</summary>
internal sealed class AppliesBeforeTheJournal : Defect
{
    public override bool SkipsTheFirstRecord => true;
}

/// <summary>A daemon that was held up takes its own lateness for the silence of its peer.</summary>
internal sealed class TakesItsLatenessForSilence : Defect
{
    public override bool HasNoGrace => true;
}

/// <summary>Pages are copied first and protected second.</summary>
internal sealed class CopiesBeforeItProtects : Defect
{
    public override bool ProtectsAfterTheCopy => true;
}
