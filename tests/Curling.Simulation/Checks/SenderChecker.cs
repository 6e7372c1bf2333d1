using Curling.Protocol;
using Curling.Replication.Sender;
using Curling.Replication.Tests;
using Curling.Simulation.Guest;
using Curling.Simulation.Receiver;
using Curling.Simulation.Sender;
using static Curling.Simulation.Checks.Rules;

namespace Curling.Simulation.Checks;

/// <summary>Watches one run of a sender from outside, and knows nothing of how its machine decides.</summary>
internal sealed class SenderChecker(PairWorld world, SenderHost sender)
{
    private readonly Dictionary<long, Instant> _cuts = [];
    private readonly HashSet<long> _completeSaid = [];
    private readonly Queue<long> _uncommitted = new();
    private SenderState _state = SenderState.Starting;
    private long _highestComplete;
    private long _capturing;
    private long _finalRound;
    private long _lastBegun;
    private bool _firstOfLink;
    private bool _committedOnLink;
    private bool _linkUp;
    private bool _holds;
    private bool _ended;

    /// <summary>The last round up to whose cut output was released.</summary>
    public long Released { get; private set; }

    /// <summary>Frames that left while output was held: the outside world has seen the guest send them.</summary>
    public long ProtectedFramesLeft { get; private set; }

    /// <summary>The guest stood still for a round.</summary>
    public void Cut(long round, Instant instant) => _cuts[round] = instant;

    /// <summary>What the guest was at a round's cut.</summary>
    public Instant? At(long round) => _cuts.GetValueOrDefault(round);

    /// <summary>The receiver says that it holds a round whole.</summary>
    public void CompleteSaid(long round)
    {
        _completeSaid.Add(round);
        _highestComplete = Math.Max(_highestComplete, round);
    }

    public void Step(SenderInput input, IReadOnlyList<SenderOutput> outputs)
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

        Check(
            input is not (SenderInput.Completed or SenderInput.Committed) || outputs.All(o => o is not SenderOutput.CloseLink),
            Answers, $"the sender closes the link because of \"{Words.Of(input)}\"");
        Check(
            _finalRound == 0 || outputs.All(o => o is not SenderOutput.ReleaseAllOutput) || outputs.Any(o => o is SenderOutput.ResumeGuest),
            OutputCommit, $"all output is released after the last round {_finalRound}, and the guest does not go on here");
        foreach (SenderOutput output in outputs)
        {
            Said(output);
        }
    }

    /// <summary>A step is done.</summary>
    public static void After(SenderInput input, GuestState guest) => Check(
        input is not SenderInput.Refused { Code: RefusalCode.Superseded } || guest == GuestState.Dead,
        Generation, "the sender was told that a newer generation runs, and its guest runs on");

    /// <summary>A frame of the guest leaves the primary's host.</summary>
    /// <param name="frame">Its number.</param>
    /// <param name="inOrder">Whether it is the next one.</param>
    /// <param name="afterCut">The last cut that the guest had been through when it sent it; 0 when it was not protected then or since.</param>
    public void FrameLeaves(long frame, bool inOrder, long afterCut)
    {
        world.OutputLeaves(sender.Id, sender.Keeper?.Generation ?? 1);
        Check(inOrder, OutputCommit, "frames leave in another order than the guest sent them");
        if (afterCut == 0)
        {
            return;
        }

        Check(
            _highestComplete > afterCut, OutputCommit,
            $"a frame that was sent after the cut of round {afterCut} leaves, and no later round is whole at the receiver");
        Check(
            frame < _cuts[_highestComplete].FramesSent, OutputCommit,
            $"frame {frame} leaves, and in round {_highestComplete}, the last that is whole, the guest had sent {_cuts[_highestComplete].FramesSent}");
        ProtectedFramesLeft = frame + 1;
    }

    private void Said(SenderOutput output)
    {
        Check(!_ended, Rules.Silence, $"the sender says \"{Words.Of(output)}\" after its end");
        switch (output)
        {
            case SenderOutput.CloseLink:
                _linkUp = false;
                break;
            case SenderOutput.CaptureRound capture:
                CheckCapture(capture.Begin, capture.Final);
                Check(_holds, OutputCommit, "a round is captured for a receiver, and output after it would not be held");
                break;
            case SenderOutput.HoldOutput:
                _holds = true;
                break;
            case SenderOutput.ReleaseOutput release:
                Check(_completeSaid.Contains(release.Round), OutputCommit, $"round {release.Round} is not whole at the receiver");
                Check(release.Round > Released, OutputCommit, $"round {release.Round} is released after round {Released}");
                Released = release.Round;
                break;
            case SenderOutput.ReleaseAllOutput:
                _holds = false;

                // On a new connection only what a last round of the old one left behind may go.
                Check(!_linkUp || (_finalRound != 0 && _firstOfLink), OutputCommit, "all output is released while the link stands");
                break;
            case SenderOutput.ResumeGuest:
                Check(_finalRound != 0, Rules.Switchover, "the guest is resumed, but no last round stopped it");
                Session? session = world.Receiver.Current;
                Check(
                    session is null || session.Machine.IsOver || session.Checker.Whole.All(w => w.Round != _finalRound), OneGuest,
                    $"the guest goes on here, but the receiver holds its last round {_finalRound} and takes over");
                _finalRound = 0;
                break;
            case SenderOutput.StateChanged changed:
                _state = changed.State;
                Check(changed.State != SenderState.Protected || (_linkUp && _committedOnLink), States, "protected without a commit");
                Check(changed.State != SenderState.Base || _linkUp, States, "base without a link");
                break;
            case SenderOutput.End end:
                _ended = true;
                if (end.How is SenderEnd.SwitchedOver or SenderEnd.Superseded)
                {
                    Session? other = world.Receiver.Current;
                    Check(
                        other is null || world.GuestMayEnd || other.Checker.PromotedFrom != 0 || other.Checker.PromotionAsked
                            || other.Checker.Whole.Any(w => w.Final) || world.GenerationOfArbiter > (sender.Keeper?.Generation ?? long.MaxValue),
                        OneGuest, $"the sender ends as {end.How}, but the receiver is {other?.Machine.State}");
                }

                break;
        }
    }

    private void CheckCapture(RoundBegin begin, bool final)
    {
        Check(_linkUp, InFlight, $"round {begin.Round} is captured without a link");
        Check(_capturing == 0, InFlight, $"round {begin.Round} is captured while round {_capturing} is");
        Check(begin.Round == _lastBegun + 1, InFlight, $"round {begin.Round} is captured after round {_lastBegun}");
        bool alone = begin.Kind != RoundKind.Incremental;
        Check(alone || (!_firstOfLink && begin.Parent == begin.Round - 1), InFlight, $"round {begin.Round} has no parent on this connection");
        Check(_finalRound == 0, Rules.Switchover, $"round {begin.Round} is captured after the last one, {_finalRound}");
        Check(!final || (_state == SenderState.Protected && _committedOnLink), Rules.Switchover, $"round {begin.Round} is the last one, but nothing is committed");
        _uncommitted.Enqueue(begin.Round);
        Check(
            _uncommitted.Count <= world.Options.MaxRoundsInFlight, InFlight,
            $"{_uncommitted.Count} rounds are captured and not committed, {world.Options.MaxRoundsInFlight} are allowed");
        _firstOfLink = false;
        _lastBegun = begin.Round;
        _capturing = begin.Round;
        _finalRound = final ? begin.Round : 0;
    }
}
