using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Simulation.Guest;
using Curling.Simulation.Receiver;
using Curling.Simulation.Sender;
using static Curling.Simulation.Checks.Rules;

namespace Curling.Simulation.Checks;

/// <summary>
/// Watches one session of the receiver from outside: what it says, and the bytes of the standby, which have to be those of one cut of its
/// sender's guest whenever somebody could look at them.
/// </summary>
internal sealed class SessionChecker(PairWorld world, Session session, long restoredRound)
{
    private readonly SenderHost _sender = world.SenderOf(session.Disk.Sender);
    private int _commits;
    private bool _committing;
    private RoundBegin? _open;
    private bool _normalGoodbye;
    private bool _fenceWaived;
    private bool _rightWaived;

    /// <summary>Rounds that the receiver called complete.</summary>
    public List<RoundEnd> Whole { get; } = [];

    public bool PromotionAsked { get; private set; }

    public bool FenceFailed { get; private set; }

    /// <summary>It was said that the primary has run on without it.</summary>
    public bool LeftBehind { get; private set; }

    /// <summary>It runs from a round of an earlier process, because the operator said so.</summary>
    public bool OperatorsRisk { get; private set; }

    public long PromotedFrom { get; private set; }

    public SenderHost Sender => _sender;

    public void Step(ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs)
    {
        switch (input)
        {
            case ReceiverInput.RoundBegan began:
                _open = began.Begin;
                break;
            case ReceiverInput.RoundWhole whole when outputs.Any(o => o is ReceiverOutput.SendComplete):
                Check(_open?.Round == whole.End.Round, CommitOrder, $"round {whole.End.Round} is complete, {_open?.Round} was begun");
                Whole.Add(whole.End);
                _open = null;
                break;
            case ReceiverInput.CommitDone done when _committing && Whole[_commits].Round == done.Round:
                _committing = false;
                _commits++;
                break;
            case ReceiverInput.PeerGoodbye { Reason: not GoodbyeReason.QemuCrashed }:
                // What was handed over whole goes on all the same.
                _normalGoodbye |= Whole.Count == 0 || !Whole[^1].Final;
                break;
            case ReceiverInput.PromoteAsked asked:
                PromotionAsked = true;
                _fenceWaived = !asked.Fence;
                _rightWaived = !asked.Arbiter;
                break;
            case ReceiverInput.FenceFailed:
                PromotedFrom = 0;
                FenceFailed = true;
                _fenceWaived = _rightWaived = false;
                break;
        }

        // It was for a promotion that came to nothing.
        if (outputs.Any(o => o is ReceiverOutput.PromotionRefused or ReceiverOutput.SendReady))
        {
            _fenceWaived = _rightWaived = false;
        }

        LeftBehind |= outputs.Any(o => o is ReceiverOutput.LeftBehind);
        LeftBehind &= !outputs.Any(o => o is ReceiverOutput.SendReady);
        foreach (ReceiverOutput output in outputs)
        {
            Said(output);
        }
    }

    /// <summary>The standby stands at a round: memory and device state are what the guest was at its cut, bit for bit.</summary>
    public void State(long round, (byte[] Memory, byte[] Device) state, string what)
    {
        Instant? cut = _sender.Checker.At(round);
        Check(cut is not null, AllOrNothing, $"round {round} is {what}, and the guest never stood still for it");
        ulong memory = SimulatedGuest.HashOf(state.Memory);
        Check(
            cut!.Is(memory, state.Device), AllOrNothing,
            $"round {round} is {what}: memory {memory:x16}, device state {Convert.ToHexString(state.Device)}; at its cut the guest was"
            + $" {cut.Memory:x16}, {Convert.ToHexString(cut.Device)}");
    }

    /// <summary>The guest runs here.</summary>
    public void Promoted(long round, (byte[] Memory, byte[] Device) state)
    {
        State(round, state, "promoted");
        long sent = SimulatedGuest.FramesSentIn(state.Device);
        Check(
            OperatorsRisk || _sender.Checker.ProtectedFramesLeft <= sent, OutputCommit,
            $"the guest goes on where it had sent {sent} frames, and {_sender.Checker.ProtectedFramesLeft} had left");

        // Where the network alone decides, two guests may run until they hear of each other; a handover and a fence never depend on it.
        bool handedOver = Whole.Count > 0 && Whole[^1].Final;
        Check(
            !(handedOver || (world.Options.Fences && !OperatorsRisk)) || world.Senders.All(s => !s.GuestRuns || s.IsHeldUp || s != _sender),
            OneGuest, "the guest was handed over or fenced, and runs on at the sender");
    }

    /// <summary>A later process found a round.</summary>
    public void Found(long round, (byte[] Memory, byte[] Device) state)
    {
        long committed = session.Machine.CommittedRound;
        long next = session.Commit?.Round ?? committed;
        Check(round == committed || round == next, Rules.Restart, $"round {round} is found, {committed} was committed and {next} on its way");
        Check(session.Commit is not { Stands: true } || round == next, Rules.Restart, $"round {round} is found, and {next} was decided on");
        State(round, state, "found");
    }

    /// <summary>A later process found nothing.</summary>
    public void NotFound(string why) => Check(
        session.Machine.CommittedRound == 0 || world.GuestMayEnd && session.Machine.State == ReceiverState.Failed, Rules.Restart,
        $"round {session.Machine.CommittedRound} was committed and is not found: {why}");

    private void Said(ReceiverOutput output)
    {
        bool taken = PromotedFrom != 0;
        switch (output)
        {
            case ReceiverOutput.SendReady:
                Check(!taken, Rules.Silence, "the sender is told that rounds may come, after the promotion");
                break;
            case ReceiverOutput.SendComplete complete:
                Check(!taken, Rules.Silence, $"round {complete.Round} is complete after the promotion");
                Check(Whole.Count > 0 && Whole[^1].Round == complete.Round, OutputCommit, $"round {complete.Round} is said to be complete and is not whole");
                Check(Whole.Count < 2 || Whole[^2].Round < complete.Round, CommitOrder, $"round {complete.Round} is complete after a later one");
                _sender.Checker.CompleteSaid(complete.Round);
                break;
            case ReceiverOutput.Discard discard:
                Check(Whole.All(w => w.Round != discard.Round), NothingLost, $"round {discard.Round} was whole and is discarded");
                break;
            case ReceiverOutput.Commit commit:
                Check(!taken, CommitOrder, $"round {commit.Round} is committed under a promoted guest");
                Check(!_committing, CommitOrder, $"round {commit.Round} is committed beside another");
                Check(
                    _commits < Whole.Count && Whole[_commits].Round == commit.Round, CommitOrder,
                    $"round {commit.Round} is not the oldest whole round that is not committed");
                _committing = true;
                break;
            case ReceiverOutput.SendCommitted committed:
                Check(!taken, Rules.Silence, $"round {committed.Round} is committed after the promotion");
                Check(_commits > 0 && Whole[_commits - 1].Round == committed.Round, CommitOrder, $"round {committed.Round} is said to be committed and is not");
                break;
            case ReceiverOutput.Promote promote:
                Check(
                    !world.Options.Arbiter || session.Machine.HasRight || _rightWaived, Waived,
                    $"round {promote.Round} is promoted without the right, and nobody said so");
                Check(
                    !world.Options.Fences || promote.Fence || _fenceWaived || Whole is [.., { Final: true }], Waived,
                    $"round {promote.Round} is promoted without a fence, and nobody said so");
                CheckPromotion(promote.Round);
                break;
            case ReceiverOutput.SendPromoted promoted:
                Check(taken && promoted.Round == PromotedFrom && session.HasGuest, States, "promoted, it says, and is not");
                break;
        }
    }

    private void CheckPromotion(long round)
    {
        Check(PromotedFrom == 0, OneGuest, "the standby is promoted twice");
        Check(!_normalGoodbye, NormalEnd, $"round {round} is promoted after a normal goodbye");
        PromotedFrom = round;
        if (restoredRound > 0 && Whole.Count == 0)
        {
            // Whether the guest went on after that round only the operator can know.
            Check(PromotionAsked, NothingLost, $"round {round} of an earlier process is promoted, and nobody asked for it");
            Check(round == restoredRound, NothingLost, $"round {round} is promoted, {restoredRound} was found");
            OperatorsRisk = true;
            return;
        }

        Check(_commits == Whole.Count && !_committing, NothingLost, $"round {round} is promoted with {Whole.Count - _commits} whole rounds in line");
        Check(_commits > 0 && Whole[^1].Round == round, NothingLost, $"round {round} is promoted, which is not the last whole round");
        Check(round >= _sender.Checker.Released, NothingLost, $"round {round} is promoted, but output up to round {_sender.Checker.Released} has left");
    }
}
