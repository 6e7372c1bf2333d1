using Curling.Protocol;

namespace Curling.Replication.Receiver;

/// <summary>
/// Decides what the receiver does for one guest: which rounds count, when they are committed, when the primary is lost and
/// the standby takes over. It holds no sockets, clocks or threads: <see cref="Step"/> takes what happened and when, and
/// fills a list with what to do.
/// </summary>
/// <remarks>
/// Not thread-safe: one caller steps it.
/// <code>
/// Waiting → Prefetching → Protected → Promoting → Promoted → Ended
///    ↑___________|  (lost before a commit)      ↘ Failed
/// rounds: open → whole → committing → committed, strictly in order, one committing at a time
/// </code>
/// A round that is whole is committed before anything else is decided: the sender may have let output go because of it.
/// </remarks>
public sealed partial class ReceiverMachine
{
    private readonly ReceiverSettings _settings;
    /// <summary>A commit that takes longer hangs: the sender's guest is not to wait for it.</summary>
    private static readonly TimeSpan SlowCommit = TimeSpan.FromSeconds(20);

    private readonly List<ReceiverOutput> _out = [];
    private readonly Queue<RoundEnd> _whole = new();
    private ReceiverState _state = ReceiverState.Waiting;
    private bool _linkUp;
    private bool _standbyReady;
    private bool _readySent;
    private RoundBegin? _open;
    private long _lastWhole;
    private long _lastWholeOfEarlierLinks;
    private bool _finalWhole;
    private bool _promotionAsked;
    private bool _restored;
    private long _committing;
    private TimeSpan _committingSince;
    private bool _committingFinal;
    private bool _committingIncomplete;
    private bool _isIncomplete;
    private string? _promoteWhenCommitted;
    private bool _fencing;
    private bool _fenceWaived;
    private string? _lossReason;
    private TimeSpan? _reconnectBy;

    /// <summary>Creates a machine that waits for its sender.</summary>
    public ReceiverMachine(ReceiverSettings settings)
    {
        _settings = settings;
    }

    /// <summary>
    /// Creates a machine that stands at a round that an earlier receiver committed. It is held: whether the sender's guest ran on
    /// meanwhile, and whether it still does, is not known here, so only the operator may promote it, or its sender come back.
    /// </summary>
    /// <param name="settings">How to decide.</param>
    /// <param name="restoredRound">The round, above 0.</param>
    /// <param name="isComplete">Whether the guest can be started from it, its disks included.</param>
    public ReceiverMachine(ReceiverSettings settings, long restoredRound, bool isComplete = true)
        : this(settings)
    {
        _isIncomplete = !isComplete;
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(restoredRound);
        CommittedRound = restoredRound;
        _lastWhole = restoredRound;
        _lastWholeOfEarlierLinks = restoredRound;
        _lossReason = "the receiver was started anew";
        _restored = true;
        _state = isComplete ? ReceiverState.Protected : ReceiverState.Prefetching;
    }

    /// <summary>What a person is told.</summary>
    public ReceiverState State => _state;

    /// <summary>The round the standby stands at, 0 for none.</summary>
    public long CommittedRound { get; private set; }

    /// <summary>Whether the primary is lost and the operator has to decide.</summary>
    public bool IsHeld => _state == ReceiverState.Protected
        && ((_lossReason is not null && _promoteWhenCommitted is null) || (_promoteWhenCommitted is not null && _rightRefused));

    /// <summary>Whether nothing more will happen.</summary>
    public bool IsOver => _state is ReceiverState.Ended or ReceiverState.Failed;

    /// <summary>Whether a promotion has been decided on and has not begun, because a commit, an arbiter or an operator is waited for.</summary>
    public bool IsPromotionPending => _promoteWhenCommitted is not null && _state < ReceiverState.Promoting;

    /// <summary>Whether the sender has handed the guest over, standing still, and it does not run here yet.</summary>
    public bool IsHandedOver => _finalWhole && _state <= ReceiverState.Promoting;

    /// <summary>Whether a promotion waits until the primary is fenced.</summary>
    public bool IsFencing => _fencing;

    /// <summary>Whether there is a round, committed or whole, that the guest can be started from.</summary>
    public bool HoldsRound => (CommittedRound != 0 && !_isIncomplete) || (_committing != 0 && !_committingIncomplete) || _whole.Any(e => !e.DisksIncomplete);

    /// <summary>Takes in one event and returns what to do about it; the list is valid until the next step.</summary>
    public IReadOnlyList<ReceiverOutput> Step(ReceiverInput input, TimeSpan now)
    {
        _out.Clear();
        if (IsOver)
        {
            return _out;
        }

        BeginVouching(now);
        switch (input)
        {
            case ReceiverInput.Tick tick:
                OnTick(tick.LastHeard, now);
                break;
            case ReceiverInput.LinkUp:
                OnLinkUp(now);
                break;
            case ReceiverInput.StandbyReady:
                _standbyReady = true;
                break;
            case ReceiverInput.StandbyFailed failed:
                OnStandbyFailed(failed.Reason);
                break;
            case ReceiverInput.RoundBegan began:
                OnRoundBegan(began.Begin, now);
                break;
            case ReceiverInput.RoundWhole whole:
                OnRoundWhole(whole.End, now);
                break;
            case ReceiverInput.RoundAbandoned abandoned:
                OnAbandoned(abandoned.Round, now);
                break;
            case ReceiverInput.CommitDone done:
                OnCommitDone(done.Round);
                break;
            case ReceiverInput.CommitFailed failed:
                _committing = 0;
                _whole.Clear();
                Fail($"round {failed.Round} could not be committed: {failed.Reason}", RefusalCode.Round);
                break;
            case ReceiverInput.Damaged damaged when _linkUp:
                Refuse(damaged.Code, damaged.Reason, now);
                break;
            case ReceiverInput.PeerRefused peer when _linkUp:
                _reconnectBy = now + _settings.FailureTimeout;
                LoseLink(peer.Reason);
                _out.Add(new ReceiverOutput.CloseLink());
                if (CommittedRound == 0 && _state < ReceiverState.Promoting)
                {
                    Become(ReceiverState.Waiting, $"the sender gave the connection up: {peer.Reason}");
                }

                break;
            case ReceiverInput.LinkLost lost when _linkUp:
                LoseLink(lost.Reason);
                _out.Add(new ReceiverOutput.CloseLink());
                Lost(lost.Reason, lost.Silent);
                break;
            case ReceiverInput.PeerGoodbye goodbye when _linkUp:
                OnGoodbye(goodbye);
                break;
            case ReceiverInput.PromoteAsked asked:
                OnPromoteAsked(asked, now);
                break;
            case ReceiverInput.VouchAsked asked when _linkUp:
                OnVouchAsked(asked, now);
                break;
            case ReceiverInput.RightTaken when _takingRight || _state is ReceiverState.Promoting or ReceiverState.Promoted:
                _takingRight = false;
                _hasRight = true;
                _rightRefused = false;
                break;
            case ReceiverInput.RightRefused refused when _takingRight:
                OnRightRefused(refused, now);
                break;
            case ReceiverInput.EndAsked ended:
                Finish(ReceiverState.Ended, ended.Reason);
                break;
            case ReceiverInput.Fenced:
                _fencing = false;
                break;
            case ReceiverInput.FenceFailed failed when _fencing:
                OnFenceFailed(failed.Reason);
                break;
            case ReceiverInput.PromotionDone when _state == ReceiverState.Promoting:
                Become(ReceiverState.Promoted, $"the guest runs here from round {CommittedRound}");
                if (_linkUp)
                {
                    _out.Add(new ReceiverOutput.SendPromoted(CommittedRound));
                }

                break;
            case ReceiverInput.PromotionFailed failed when _state == ReceiverState.Promoting:
                Fail($"the promotion failed: {failed.Reason}");
                break;
            case ReceiverInput.GuestEnded ended when _state == ReceiverState.Promoted:
                Finish(ReceiverState.Ended, ended.Reason);
                break;
        }

        Advance(now);
        return _out;
    }

    private void Advance(TimeSpan now)
    {
        if (IsOver || _state is ReceiverState.Promoting or ReceiverState.Promoted)
        {
            return;
        }

        if (_linkUp && _standbyReady && !_readySent)
        {
            _readySent = true;
            _out.Add(new ReceiverOutput.SendReady());
        }

        if (_committing == 0 && _whole.TryDequeue(out RoundEnd end))
        {
            _committing = end.Round;
            _committingSince = now;
            _committingFinal = end.Final;
            _committingIncomplete = end.DisksIncomplete;
            _out.Add(new ReceiverOutput.Commit(end.Round));
        }

        // At a restored round the operator may be faster than the standby's start.
        if (_committing == 0 && _standbyReady && _promoteWhenCommitted is { } reason && MayPromote(reason, now))
        {
            _promoteWhenCommitted = null;
            DiscardOpen(reason);
            if (_isIncomplete)
            {
                Fail($"{reason}; the copy of the guest's disks was not complete, so it cannot be started here");
                return;
            }

            Become(ReceiverState.Promoting, reason);
            _fencing = _settings.Fences && !_finalWhole && !_fenceWaived;
            _out.Add(new ReceiverOutput.Promote(CommittedRound, reason, _fencing));
        }
    }

    private void OnTick(TimeSpan lastHeard, TimeSpan now)
    {
        if (_linkUp && now - lastHeard > _settings.FailureTimeout && _state < ReceiverState.Promoting)
        {
            string reason = $"nothing was heard from the sender for {(now - lastHeard).TotalMilliseconds:F0} ms";
            LoseLink(reason);
            _out.Add(new ReceiverOutput.CloseLink());
            Lost(reason, silent: true);
        }
        else if (!_linkUp && _reconnectBy is { } by && now >= by)
        {
            _reconnectBy = null;
            Lost("the sender did not come back after its connection was refused", silent: true);
        }
    }

    private void OnLinkUp(TimeSpan now)
    {
        LoseLink("the sender made a new connection");
        if (_takingRight)
        {
            // The arbiter has been asked and may have said yes: what it said comes first.
            _out.Add(new ReceiverOutput.Refuse(RefusalCode.Round, "the guest may be about to be taken over by the receiver; try again"));
            return;
        }

        if (IsHandedOver)
        {
            // Its guest stands still. Should the standby not run after all, this sender's copy is the only one there is.
            _out.Add(new ReceiverOutput.Refuse(RefusalCode.Round, "the guest that was handed over is being started here; ask again"));
            return;
        }

        if (_hasRight)
        {
            _out.Add(new ReceiverOutput.Refuse(RefusalCode.Superseded, "the arbiter gave the guest to the receiver"));
            return;
        }

        if (NeedsRight && _promotionAsked && _state < ReceiverState.Promoting && !_finalWhole)
        {
            RefusePromotion("its sender came back");
        }

        if (_fencing || (_promotionAsked && _settings.Fences && !_fenceWaived && _state < ReceiverState.Promoting))
        {
            // Should the fence fail, this sender's guest is the only one there is: it must not be told to stop.
            _out.Add(new ReceiverOutput.Refuse(RefusalCode.Round, "the guest is about to be taken over by the receiver; try again"));
            return;
        }

        if (_state >= ReceiverState.Promoting || _promotionAsked)
        {
            // Taken back, the sender would let its guest run beside the one that is started here.
            _out.Add(new ReceiverOutput.Refuse(RefusalCode.Superseded, "the guest is being taken over by the receiver"));
            return;
        }

        // The sender lives, its guest runs on: a promotion because it was lost is not wanted any more.
        _promoteWhenCommitted = null;
        _promoteUnasked = null;
        _rightRefused = false;
        _heldSince = null;
        _lossReason = null;
        if (_committing != 0 && now - _committingSince > SlowCommit)
        {
            // Another round would only wait behind it, and the guest's output with it.
            _reconnectBy = now + _settings.FailureTimeout;
            _out.Add(new ReceiverOutput.Refuse(
                RefusalCode.Round,
                $"round {_committing} has been being committed for {(now - _committingSince).TotalSeconds:F0} s: look at the disks of the receiver's host"));
            return;
        }

        _linkUp = true;
        WaiveNothing();
        _lastWholeOfEarlierLinks = _lastWhole;
        _reconnectBy = null;
    }

    private void OnRoundBegan(RoundBegin begin, TimeSpan now)
    {
        if (!_readySent || !_linkUp)
        {
            Refuse(RefusalCode.Protocol, $"round {begin.Round} came before the standby was ready", now);
        }
        else if (_open is { } open)
        {
            Refuse(RefusalCode.Protocol, $"round {begin.Round} began inside round {open.Round}", now);
        }
        else if (_finalWhole)
        {
            Refuse(RefusalCode.Protocol, $"round {begin.Round} came after the last one, round {_lastWhole}", now);
        }
        else if (begin.Round <= _lastWhole || (begin.Kind == RoundKind.Incremental && begin.Parent != _lastWhole))
        {
            Refuse(RefusalCode.Round, $"round {begin.Round} (parent {begin.Parent}) does not follow round {_lastWhole}", now);
        }
        else
        {
            _open = begin;
            if (CommittedRound == 0)
            {
                Become(ReceiverState.Prefetching, $"round {begin.Round} is arriving");
            }
        }
    }

    private void OnRoundWhole(RoundEnd end, TimeSpan now)
    {
        if (_open is not { } open || open.Round != end.Round || !_linkUp)
        {
            Refuse(RefusalCode.Protocol, $"the end of round {end.Round} came without its beginning", now);
            return;
        }

        _open = null;
        _lastWhole = end.Round;
        _finalWhole = end.Final;
        _whole.Enqueue(end);
        _out.Add(new ReceiverOutput.SendComplete(end.Round));
    }

    private void OnAbandoned(long round, TimeSpan now)
    {
        if (_open is not { } open || open.Round != round)
        {
            Refuse(RefusalCode.Protocol, $"round {round} was abandoned, but it is not the one that is open", now);
            return;
        }

        DiscardOpen("the sender abandoned it");
    }

    private void OnCommitDone(long round)
    {
        if (round != _committing)
        {
            return;
        }

        _committing = 0;
        _restored = false;
        CommittedRound = round;
        _isIncomplete = _committingIncomplete;
        Become(
            _isIncomplete ? ReceiverState.Prefetching : ReceiverState.Protected,
            _isIncomplete ? $"round {round} is committed; the disks are being copied" : $"round {round} is committed");

        // A new connection knows nothing of the rounds that the old one left in line.
        if (_linkUp && round > _lastWholeOfEarlierLinks)
        {
            _out.Add(new ReceiverOutput.SendCommitted(round));
        }

        if (_committingFinal)
        {
            _vouchedUntil = TimeSpan.MinValue;
            _promoteWhenCommitted = "switchover: the sender handed the guest over";
        }
    }

    private void Refuse(RefusalCode code, string reason, TimeSpan now)
    {
        // The sender lives: it gets time to come back before its silence counts as a loss.
        if (_linkUp)
        {
            _reconnectBy = now + _settings.FailureTimeout;
        }

        LoseLink(reason);
        _out.Add(new ReceiverOutput.Refuse(code, reason));
        if (CommittedRound == 0 && _state < ReceiverState.Promoting)
        {
            Become(ReceiverState.Waiting, reason);
        }
    }

    private void LoseLink(string reason)
    {
        DiscardOpen(reason);
        _linkUp = false;
        _readySent = false;
    }

    private void DiscardOpen(string reason)
    {
        if (_open is { } open)
        {
            _open = null;
            _out.Add(new ReceiverOutput.Discard(open.Round, reason));
        }
    }

    private void Fail(string reason, RefusalCode code = RefusalCode.Host)
    {
        if (_linkUp)
        {
            LoseLink(reason);
            _out.Add(new ReceiverOutput.Refuse(code, reason));
        }

        Finish(ReceiverState.Failed, reason);
    }

    private void Finish(ReceiverState state, string reason)
    {
        DiscardOpen(reason);
        if (_linkUp)
        {
            LoseLink(reason);
            _out.Add(new ReceiverOutput.CloseLink());
        }

        Become(state, reason);
        _out.Add(new ReceiverOutput.Release(reason));
    }

    private void Become(ReceiverState state, string reason)
    {
        if (_state != state)
        {
            _state = state;
            _out.Add(new ReceiverOutput.StateChanged(state, reason));
        }
    }
}
