using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;
using Curling.Replication.Tests;

namespace Curling.Simulation;

/// <summary>The rules, by the names under which a violation is reported.</summary>
internal static class Rules
{
    public const string CommitOrder = "rounds commit in order, once, and only whole";
    public const string OutputCommit = "output leaves only after the receiver said complete";
    public const string NothingLost = "a promotion uses the last whole round";
    public const string NormalEnd = "a normal end is never a promotion";
    public const string InFlight = "rounds in flight are bounded and in order";
    public const string Switchover = "after the last round the guest stands still";
    public const string OneGuest = "one guest runs";
    public const string Silence = "after promotion or the end nothing more is said";
    public const string Answers = "an answer of an honest receiver fits";
    public const string States = "states say what is so";
    public const string Progress = "after faults heal the pair settles";
}

/// <summary>Watches both machines from outside and knows nothing of how they decide.</summary>
internal sealed class PairChecker(PairWorld world)
{
    private readonly HashSet<long> _completeSaid = [];
    private readonly Queue<long> _uncommitted = new();
    private SenderState _senderState = SenderState.Starting;
    private long _highestComplete;
    private long _capturing;
    private long _finalRound;
    private long _lastBegun;
    private bool _firstOfLink;
    private bool _committedOnLink;
    private bool _linkUp;
    private long _released;
    private bool _senderEnded;

    public void Sender(SenderInput input, IReadOnlyList<SenderOutput> outputs)
    {
        switch (input)
        {
            case SenderInput.Ready:
                _linkUp = true;
                _firstOfLink = true;
                _committedOnLink = false;
                _uncommitted.Clear();
                break;
            case SenderInput.Captured captured when captured.Round == _capturing:
                _capturing = 0;
                break;
            case SenderInput.CaptureFailed failed when failed.Round == _capturing:
                _capturing = 0;
                break;
            case SenderInput.Committed committed when _uncommitted.TryPeek(out long oldest) && oldest == committed.Round:
                _uncommitted.Dequeue();
                _committedOnLink = true;
                break;
        }

        Rule(
            input is not (SenderInput.Completed or SenderInput.Committed) || outputs.All(o => o is not SenderOutput.CloseLink),
            Rules.Answers, $"the sender closes the link because of \"{Words.Of(input)}\"");
        foreach (SenderOutput output in outputs)
        {
            Check(output);
        }
    }

    public void Receiver(Session session, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs)
    {
        switch (input)
        {
            case ReceiverInput.RoundBegan began:
                session.Open = began.Begin;
                break;
            case ReceiverInput.RoundWhole whole when outputs.Any(o => o is ReceiverOutput.SendComplete):
                Rule(session.Open?.Round == whole.End.Round, Rules.CommitOrder, $"round {whole.End.Round} is complete, {session.Open?.Round} was begun");
                session.Whole.Add(whole.End);
                session.Open = null;
                break;
            case ReceiverInput.CommitDone done when session.Committing && session.Whole[session.Commits].Round == done.Round:
                session.Committing = false;
                session.Commits++;
                break;
            case ReceiverInput.PeerGoodbye { Reason: not GoodbyeReason.QemuCrashed }:
                session.NormalGoodbye = true;
                break;
            case ReceiverInput.PromoteAsked:
                session.PromotionAsked = true;
                break;
            case ReceiverInput.PromotionDone:
                NoSecondGuest(session);
                break;
        }

        foreach (ReceiverOutput output in outputs)
        {
            Check(session, output);
        }
    }

    /// <summary>A frame of the guest leaves the primary's host.</summary>
    /// <param name="inOrder">Whether it is the next one.</param>
    /// <param name="afterCut">The last cut that the guest had been through when it sent it; 0 when it was not protected then or since.</param>
    public void FrameLeaves(bool inOrder, long afterCut)
    {
        Rule(inOrder, Rules.OutputCommit, "frames leave in another order than the guest sent them");
        Rule(
            afterCut == 0 || _highestComplete > afterCut, Rules.OutputCommit,
            $"a frame that was sent after the cut of round {afterCut} leaves, and no later round is whole at the receiver");
    }

    /// <summary>What must hold when everything has come to rest.</summary>
    public void Final()
    {
        SenderHost sender = world.Sender;
        Session? session = world.Receiver.Current;
        int guests = (sender.Guest == GuestState.Running ? 1 : 0) + (session is { GuestRuns: true } ? 1 : 0);
        Rule(guests <= 1, Rules.OneGuest, "the sender's guest runs on beside the promoted one");
        if (!world.GuestMayEnd && !world.PrimaryDied)
        {
            Rule(guests == 1, Rules.OneGuest, $"no guest is left, though nothing but the network failed (sender: {sender.Ended})");
        }

        bool fenceFailed = session is { FenceFailed: true, Machine.IsHeld: true };
        if (!world.GuestMayEnd && !fenceFailed && session is { Whole.Count: > 0 } && world.Options.OnFailure == FailureAction.Promote)
        {
            Rule(guests == 1, Rules.OneGuest, "the primary is gone, the receiver held a whole round and did not promote");
        }

        Rule(
            sender.Alive || session is not { GuestRuns: true, OperatorsRisk: false } || session.PromotedFrom >= _released, Rules.NothingLost,
            $"the guest goes on from round {session?.PromotedFrom}, output up to round {_released} had left");
    }

    private bool _holds;

    private void Check(SenderOutput output)
    {
        Rule(!_senderEnded, Rules.Silence, $"the sender says \"{Words.Of(output)}\" after its end");
        switch (output)
        {
            case SenderOutput.CloseLink:
                _linkUp = false;
                break;
            case SenderOutput.CaptureRound capture:
                CheckCapture(capture.Begin, capture.Final);
                Rule(_holds, Rules.OutputCommit, "a round is captured for a receiver, and output after it would not be held");
                break;
            case SenderOutput.HoldOutput:
                _holds = true;
                break;
            case SenderOutput.ReleaseOutput release:
                Rule(_completeSaid.Contains(release.Round), Rules.OutputCommit, $"round {release.Round} is not whole at the receiver");
                Rule(release.Round > _released, Rules.OutputCommit, $"round {release.Round} is released after round {_released}");
                _released = release.Round;
                break;
            case SenderOutput.ReleaseAllOutput:
                _holds = false;

                // On a new connection only what a last round of the old one left behind may go.
                Rule(!_linkUp || (_finalRound != 0 && _firstOfLink), Rules.OutputCommit, "all output is released while the link stands");
                break;
            case SenderOutput.ResumeGuest:
                Rule(_finalRound != 0, Rules.Switchover, "the guest is resumed, but no last round stopped it");
                Session? session = world.Receiver.Current;
                Rule(
                    session is null || session.Machine.IsOver || session.Whole.All(w => w.Round != _finalRound), Rules.OneGuest,
                    $"the guest goes on here, but the receiver holds its last round {_finalRound} and takes over");
                _finalRound = 0;
                break;
            case SenderOutput.StateChanged changed:
                _senderState = changed.State;
                Rule(changed.State != SenderState.Protected || (_linkUp && _committedOnLink), Rules.States, "protected without a commit");
                Rule(changed.State != SenderState.Base || _linkUp, Rules.States, "base without a link");
                break;
            case SenderOutput.End end:
                _senderEnded = true;
                if (end.How is SenderEnd.SwitchedOver or SenderEnd.Superseded)
                {
                    Session? other = world.Receiver.Current;
                    Rule(
                        other is null || world.GuestMayEnd || other.PromotedFrom != 0 || other.PromotionAsked || other.Whole.Any(w => w.Final),
                        Rules.OneGuest, $"the sender ends as {end.How}, but the receiver is {other?.Machine.State}");
                }

                break;
        }
    }

    private void CheckCapture(RoundBegin begin, bool final)
    {
        Rule(_linkUp, Rules.InFlight, $"round {begin.Round} is captured without a link");
        Rule(_capturing == 0, Rules.InFlight, $"round {begin.Round} is captured while round {_capturing} is");
        Rule(begin.Round == _lastBegun + 1, Rules.InFlight, $"round {begin.Round} is captured after round {_lastBegun}");
        bool alone = begin.Kind != RoundKind.Incremental;
        Rule(alone || (!_firstOfLink && begin.Parent == begin.Round - 1), Rules.InFlight, $"round {begin.Round} has no parent on this connection");
        Rule(_finalRound == 0, Rules.Switchover, $"round {begin.Round} is captured after the last one, {_finalRound}");
        Rule(!final || (_senderState == SenderState.Protected && _committedOnLink), Rules.Switchover, $"round {begin.Round} is the last one, but nothing is committed");
        _uncommitted.Enqueue(begin.Round);
        Rule(
            _uncommitted.Count <= world.Options.MaxRoundsInFlight, Rules.InFlight,
            $"{_uncommitted.Count} rounds are captured and not committed, {world.Options.MaxRoundsInFlight} are allowed");
        _firstOfLink = false;
        _lastBegun = begin.Round;
        _capturing = begin.Round;
        _finalRound = final ? begin.Round : 0;
    }

    private void Check(Session session, ReceiverOutput output)
    {
        bool taken = session.PromotedFrom != 0;
        switch (output)
        {
            case ReceiverOutput.SendReady:
                Rule(!taken, Rules.Silence, "the sender is told that rounds may come, after the promotion");
                break;
            case ReceiverOutput.SendComplete complete:
                Rule(!taken, Rules.Silence, $"round {complete.Round} is complete after the promotion");
                Rule(session.Whole.Count > 0 && session.Whole[^1].Round == complete.Round, Rules.OutputCommit, $"round {complete.Round} is said to be complete and is not whole");
                Rule(session.Whole.Count < 2 || session.Whole[^2].Round < complete.Round, Rules.CommitOrder, $"round {complete.Round} is complete after a later one");
                _completeSaid.Add(complete.Round);
                _highestComplete = Math.Max(_highestComplete, complete.Round);
                break;
            case ReceiverOutput.Discard discard:
                Rule(session.Whole.All(w => w.Round != discard.Round), Rules.NothingLost, $"round {discard.Round} was whole and is discarded");
                break;
            case ReceiverOutput.Commit commit:
                Rule(!taken, Rules.CommitOrder, $"round {commit.Round} is committed under a promoted guest");
                Rule(!session.Committing, Rules.CommitOrder, $"round {commit.Round} is committed beside another");
                Rule(
                    session.Commits < session.Whole.Count && session.Whole[session.Commits].Round == commit.Round, Rules.CommitOrder,
                    $"round {commit.Round} is not the oldest whole round that is not committed");
                session.Committing = true;
                break;
            case ReceiverOutput.SendCommitted committed:
                Rule(!taken, Rules.Silence, $"round {committed.Round} is committed after the promotion");
                Rule(session.Commits > 0 && session.Whole[session.Commits - 1].Round == committed.Round, Rules.CommitOrder, $"round {committed.Round} is said to be committed and is not");
                break;
            case ReceiverOutput.Promote promote:
                CheckPromotion(session, promote.Round);
                break;
            case ReceiverOutput.SendPromoted promoted:
                Rule(taken && promoted.Round == session.PromotedFrom && session.GuestRuns, Rules.States, "promoted, it says, and is not");
                break;
        }
    }

    private void CheckPromotion(Session session, long round)
    {
        Rule(session.PromotedFrom == 0, Rules.OneGuest, "the standby is promoted twice");
        Rule(!session.NormalGoodbye, Rules.NormalEnd, $"round {round} is promoted after a normal goodbye");
        if (session.RestoredRound > 0 && session.Whole.Count == 0)
        {
            // Whether the guest went on after that round only the operator can know.
            Rule(session.PromotionAsked, Rules.NothingLost, $"round {round} of an earlier process is promoted, and nobody asked for it");
            Rule(round == session.RestoredRound, Rules.NothingLost, $"round {round} is promoted, {session.RestoredRound} was found");
            session.PromotedFrom = round;
            session.OperatorsRisk = true;
            return;
        }

        Rule(session.Commits == session.Whole.Count && !session.Committing, Rules.NothingLost, $"round {round} is promoted with {session.Whole.Count - session.Commits} whole rounds in line");
        Rule(session.Commits > 0 && session.Whole[^1].Round == round, Rules.NothingLost, $"round {round} is promoted, which is not the last whole round");
        Rule(round >= _released, Rules.NothingLost, $"round {round} is promoted, but output up to round {_released} has left");
        session.PromotedFrom = round;
    }

    private void NoSecondGuest(Session session)
    {
        // Where the network alone decides, two guests may run until they hear of each other; a handover never depends on it.
        bool handedOver = session.Whole.Count > 0 && session.Whole[^1].Final;
        Rule(!handedOver || world.Sender.Guest != GuestState.Running, Rules.OneGuest, "the guest was handed over and runs on at the sender");
    }

    private static void Rule(bool holds, string rule, string message)
    {
        if (!holds)
        {
            throw new PairViolationException(rule, message);
        }
    }
}
