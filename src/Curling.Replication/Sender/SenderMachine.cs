using Curling.Protocol;

namespace Curling.Replication.Sender;

/// <summary>
/// Decides what the sender does: when to connect, when the next round is cut and of which kind, when output may leave, and
/// how it ends. It holds no sockets, clocks or threads: <see cref="Step"/> takes what happened and when, and fills a list
/// with what to do.
/// </summary>
/// <remarks>
/// Not thread-safe: one caller steps it. The pictures:
/// <code>
/// link:   Down → Connecting → Up → Down …
/// rounds: none → capturing(n) → captured(n) → completed(n) → committed(n); several may be between captured and committed
/// </code>
/// A connection begins with a round that stands alone (full or base); only a committed round of this connection makes the
/// guest protected.
/// </remarks>
public sealed partial class SenderMachine
{
    private static readonly TimeSpan FreshGuest = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan LateLook = TimeSpan.FromSeconds(5);
    private readonly SenderSettings _settings;
    private readonly List<SenderOutput> _out = [];
    private SenderState _state = SenderState.Starting;
    private Link _link = Link.Down;
    private TimeSpan _guestStartedAt;
    private TimeSpan _connectAt;
    private TimeSpan _retry;
    private TimeSpan _roundAt;
    private TimeSpan _earliest;
    private bool _guestRuns;
    private bool _switchover;
    private bool _finalSent;
    private long _capturing;
    private bool _capturingFinal;
    private long _lastCaptured;
    private long _lastCompleted;
    private long _lastCommitted;
    private long _firstOfLink;
    private long _nextRound = 1;
    private (long Bytes, long Completed, long Committed) _progress;
    private TimeSpan _progressAt;
    private TimeSpan _lookedAt;

    /// <summary>Creates a machine at rest: it waits for <see cref="SenderInput.GuestStarted"/>.</summary>
    public SenderMachine(SenderSettings settings)
    {
        _settings = settings;
        _retry = settings.FirstRetry;
    }

    private enum Link
    {
        Down = 1,
        Connecting = 2,
        Up = 3,
    }

    /// <summary>What a person is told.</summary>
    public SenderState State => _state;

    /// <summary>The number of the last round whose capture began.</summary>
    public long Round => _nextRound - 1;

    /// <summary>The last round known to be committed.</summary>
    public long CommittedRound => _lastCommitted;

    /// <summary>Whether a receiver that keeps to the order may say now that a round is committed.</summary>
    public bool MayBeCommitted(long round) =>
        _link == Link.Up && round == Math.Max(_lastCommitted + 1, _firstOfLink) && round <= _lastCompleted;

    /// <summary>How long the guest is left alone between one cut and the next capture; the pacing sets it.</summary>
    public TimeSpan Interval { get; set; }

    /// <summary>How long the guest is left alone at least, also when output waits.</summary>
    public TimeSpan MinInterval { get; set; }

    /// <summary>When the machine next wants a <see cref="SenderInput.Tick"/>, or null when only an event can move it.</summary>
    public TimeSpan? NextTick => _state == SenderState.Ended ? null
        : _link == Link.Down && _guestRuns ? _connectAt
        : MayCapture ? _roundAt
        : null;

    private bool IsCapturingFinal => _capturing != 0 && _capturingFinal;

    private bool MayCapture => _link == Link.Up && _capturing == 0 && !_finalSent && !_rightLost
        && _lastCaptured - Math.Max(_lastCommitted, _firstOfLink - 1) < _settings.MaxRoundsInFlight
        && (_lastCaptured < _firstOfLink || _lastCommitted >= _firstOfLink || _settings.MaxRoundsInFlight > 1);

    /// <summary>Takes in one event and returns what to do about it; the list is valid until the next step.</summary>
    public IReadOnlyList<SenderOutput> Step(SenderInput input, TimeSpan now)
    {
        _out.Clear();
        if (_state == SenderState.Ended)
        {
            return _out;
        }

        switch (input)
        {
            case SenderInput.Tick:
                break;
            case SenderInput.GuestStarted:
                _guestRuns = true;
                _guestStartedAt = now;
                _connectAt = now;
                break;
            case SenderInput.Ready when _link == Link.Connecting:
                LinkIsUp(now);
                break;
            case SenderInput.LinkLost lost:
                LinkIsDown(lost.Reason, now);
                break;
            case SenderInput.ReceiverLeft left:
                LinkIsDown(left.Reason, now);
                break;
            case SenderInput.Sent sent:
                OnSent(sent.Bytes, now);
                break;
            case SenderInput.Refused refused:
                OnRefused(refused, now);
                break;
            case SenderInput.Captured captured:
                OnCaptured(captured.Round, now);
                break;
            case SenderInput.CaptureFailed failed:
                OnCaptureFailed(failed, now);
                break;
            case SenderInput.Completed completed:
                OnCompleted(completed.Round, now);
                break;
            case SenderInput.Committed committed:
                OnCommitted(committed.Round, committed.IsComplete, now);
                break;
            case SenderInput.Promoted promoted:
                OnPromoted(promoted.Round);
                break;
            case SenderInput.GuestShutdown:
                Leave(GoodbyeReason.GuestShutdown, SenderEnd.GuestShutdown, "the guest shut itself down");
                break;
            case SenderInput.QemuCrashed crashed:
                Leave(GoodbyeReason.QemuCrashed, SenderEnd.QemuCrashed, crashed.Reason);
                break;
            case SenderInput.Stop:
                Leave(GoodbyeReason.OperatorStop, SenderEnd.Stopped, "stopped by the operator");
                break;
            case SenderInput.OutputWaits when _settings.OutputAsksForRounds:
            case SenderInput.OutputFull:
                // What waits while a round is captured may be in it; the daemon looks again when it is.
                if (_capturing == 0 && _earliest < _roundAt)
                {
                    _roundAt = _earliest;
                }

                break;
            case SenderInput.RightLost:
                _rightLost = true;
                break;
            case SenderInput.RightBack:
                OnRightBack(now);
                break;
            case SenderInput.Switchover:
                OnSwitchover(now);
                break;
            case SenderInput.Retarget retarget:
                OnRetarget(retarget, now);
                break;
            case SenderInput.Retargeted retargeted:
                OnRetargeted(retargeted, now);
                break;
        }

        Advance(now);
        return _out;
    }

    private void Advance(TimeSpan now)
    {
        if (_state == SenderState.Ended || !_guestRuns)
        {
            return;
        }

        if (_link == Link.Down && now >= _connectAt)
        {
            _link = Link.Connecting;
            _out.Add(new SenderOutput.Connect());
        }

        if (_settings.Arbitrated)
        {
            SettleRight();
        }

        if (MayCapture && now >= _roundAt)
        {
            BeginCapture();
        }
    }

    private void BeginCapture()
    {
        bool first = _lastCaptured < _firstOfLink;
        _standbyMayHold = true;
        RoundKind kind = !_settings.Incremental ? RoundKind.Full : first ? RoundKind.Base : RoundKind.Incremental;

        // A switchover waits until the standby is protected: before that there is nothing to promote but this round itself.
        bool final = _switchover && _state == SenderState.Protected;
        _capturing = _nextRound++;
        _capturingFinal = final;
        long parent = kind == RoundKind.Incremental ? _capturing - 1 : 0;
        _out.Add(new SenderOutput.CaptureRound(new RoundBegin(_capturing, parent, kind, 0), final));
    }

    private void LinkIsUp(TimeSpan now)
    {
        _link = Link.Up;
        _progressAt = now;
        _firstOfLink = _nextRound;
        _lastCaptured = _nextRound - 1;
        _roundAt = now;
        if (_finalSent)
        {
            // The receiver welcomed this sender again, so it has not promoted: the switchover came to nothing.
            ResumeHere("the receiver did not take the guest over", release: true);
        }
        else
        {
            _out.Add(new SenderOutput.HoldOutput(_firstOfLink));
        }

        Become(SenderState.Base, "connected; the first round is on its way");
    }

    private void LinkIsDown(string reason, TimeSpan now)
    {
        if (_link == Link.Down)
        {
            return;
        }

        bool wasUp = _link == Link.Up;
        _link = Link.Down;
        _connectAt = now + _retry;
        _retry = TimeSpan.FromTicks(Math.Min(_retry.Ticks * 2, _settings.LastRetry.Ticks));
        _out.Add(new SenderOutput.CloseLink(reason));
        if (wasUp)
        {
            // Held output is let go only where the guest goes on here; after a final cut it stands still.
            if (!_finalSent && !IsCapturingFinal)
            {
                _out.Add(new SenderOutput.ReleaseAllOutput());
            }

            // It must not happen at some later reconnection. What a last round under way comes to is told when it is known.
            if (!_finalSent && !IsCapturingFinal)
            {
                FailSwitchover($"the connection was lost during the switchover: {reason}");
            }

            _switchover = false;
            Become(SenderState.Unprotected, reason);
        }
    }

    private void OnRefused(SenderInput.Refused refused, TimeSpan now)
    {
        if (refused.Code == RefusalCode.Superseded)
        {
            _out.Add(new SenderOutput.CloseLink(refused.Reason));
            bool handedOver = _finalSent || (IsCapturingFinal && _lastCompleted == _capturing);
            End(handedOver ? SenderEnd.SwitchedOver : SenderEnd.Superseded, refused.Reason);
            return;
        }

        // At the start a refusal is a mistake to be told and mended; a guest that has been at work must live on.
        bool final = refused.Code is RefusalCode.Definition or RefusalCode.Host or RefusalCode.Limit or RefusalCode.Taken;
        if (final && _settings.EndsWhenRefused && _lastCommitted == 0 && now - _guestStartedAt < FreshGuest)
        {
            _out.Add(new SenderOutput.CloseLink(refused.Reason));
            End(SenderEnd.Refused, refused.Reason);
            return;
        }

        LinkIsDown(refused.Reason, now);
    }

    private void OnCaptured(long round, TimeSpan now)
    {
        if (round != _capturing)
        {
            return;
        }

        _capturing = 0;
        if (_link == Link.Up && round < _firstOfLink)
        {
            // The receiver welcomed this sender again, so it has not promoted, and has no ear for the old connection.
            if (_capturingFinal)
            {
                ResumeHere("the connection was lost during the last round", release: true);
            }

            return;
        }

        // With the link down a last round may have gone out just before: only the receiver's answer can tell.
        _finalSent = _capturingFinal;
        if (_link == Link.Up || _finalSent)
        {
            _lastCaptured = round;
            _roundAt = now + Interval;
            _earliest = now + MinInterval;
        }
    }

    private void OnCaptureFailed(SenderInput.CaptureFailed failed, TimeSpan now)
    {
        if (failed.Round != _capturing)
        {
            return;
        }

        _capturing = 0;
        bool ofThisLink = _link == Link.Up && failed.Round >= _firstOfLink;
        if (_capturingFinal)
        {
            ResumeHere(failed.Reason, release: !ofThisLink);
        }

        if (ofThisLink)
        {
            LinkIsDown(failed.Reason, now);
        }
    }

    private void OnCompleted(long round, TimeSpan now)
    {
        if (!Expected(round, _lastCompleted, "complete", now))
        {
            return;
        }

        _lastCompleted = round;
        _out.Add(new SenderOutput.ReleaseOutput(round));
    }

    private void OnSent(long bytes, TimeSpan now)
    {
        if (_link != Link.Up)
        {
            return;
        }

        // Our own lateness is not the peer's.
        bool isLate = now - _lookedAt > LateLook;
        _lookedAt = now;
        (long, long, long) progress = (bytes, _lastCompleted, _lastCommitted);
        bool isOwed = _lastCaptured >= _firstOfLink && _lastCommitted < _lastCaptured;
        if (isLate || !isOwed || progress != _progress)
        {
            _progress = progress;
            _progressAt = now;
        }
        else if (now - _progressAt > _settings.StallTimeout)
        {
            LinkIsDown(
                $"the receiver lives, but has neither taken nor committed anything of round {Math.Max(_lastCommitted + 1, _firstOfLink)} for"
                    + $" {_settings.StallTimeout.TotalSeconds:F0} s; look at its log and its disks",
                now);
        }
    }

    private void OnCommitted(long round, bool isComplete, TimeSpan now)
    {
        if (!Expected(round, _lastCommitted, "committed", now))
        {
            return;
        }

        if (round > _lastCompleted)
        {
            LinkIsDown($"the receiver says round {round} is committed before it was complete", now);
            return;
        }

        _lastCommitted = round;
        _retry = _settings.FirstRetry;
        if (isComplete)
        {
            Become(SenderState.Protected, $"round {round} is committed");
        }
    }

    private void OnPromoted(long round)
    {
        if ((_finalSent && round == _lastCaptured) || (IsCapturingFinal && round == _capturing))
        {
            End(SenderEnd.SwitchedOver, $"the receiver runs the guest from round {round}");
        }
        else if (_link == Link.Up)
        {
            // Whoever is wrong: the receiver runs the guest, and only one of the two may.
            string reason = $"the receiver runs the guest from round {round}, which it was not asked to";
            _out.Add(new SenderOutput.CloseLink(reason));
            End(SenderEnd.Superseded, reason);
        }
    }

    private void ResumeHere(string reason, bool release)
    {
        _finalSent = false;
        _switchover = false;
        if (_rightReleased)
        {
            _rightReleased = false;
            _out.Add(new SenderOutput.WantRight());
        }

        if (release)
        {
            _out.Add(new SenderOutput.ReleaseAllOutput());
            if (_link == Link.Up)
            {
                // What an old connection left behind goes; what this one protects must be held all the same.
                _out.Add(new SenderOutput.HoldOutput(_firstOfLink));
            }
        }

        _out.Add(new SenderOutput.ResumeGuest(reason));
        FailSwitchover($"the switchover came to nothing, and the guest runs on here: {reason}");
    }

    private bool Expected(long round, long last, string what, TimeSpan now)
    {
        if (_link != Link.Up)
        {
            return false;
        }

        long next = Math.Max(last + 1, _firstOfLink);
        long sent = _capturing != 0 ? Math.Max(_lastCaptured, _capturing) : _lastCaptured;
        if (round == next && round <= sent)
        {
            return true;
        }

        LinkIsDown($"the receiver says round {round} is {what}, expected round {next}", now);
        return false;
    }

    private void Leave(GoodbyeReason reason, SenderEnd how, string text)
    {
        if (_link != Link.Down)
        {
            _out.Add(new SenderOutput.SayGoodbye(reason, text));
        }

        End(how, text);
    }

    private void End(SenderEnd how, string reason)
    {
        Become(SenderState.Ended, reason);
        _out.Add(new SenderOutput.End(how, reason));
    }

    private void Become(SenderState state, string reason)
    {
        if (_state != state)
        {
            _state = state;
            _out.Add(new SenderOutput.StateChanged(state, reason));
        }
    }
}
