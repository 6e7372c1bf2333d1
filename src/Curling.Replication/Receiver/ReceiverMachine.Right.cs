namespace Curling.Replication.Receiver;

/// <summary>
/// Who may run the guest, where an arbiter decides: the right is taken before anything is promoted, and what was vouched for is kept.
/// </summary>
/// <remarks>
/// <code>
/// to be promoted → asking ⇄ refused (tried again, given up when the sender comes back, or has surely run on) → taken → vouches run out → Promoting
/// </code>
/// A right that was taken is kept: the generation has risen with it, and the sender's guest may never run again.
/// </remarks>
public sealed partial class ReceiverMachine
{
    // A lease that runs out, or is given back, is to be had at once; an arbiter that does not answer is not pressed.
    private static readonly TimeSpan AskHandedOver = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan AskHeld = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan AskUnreachable = TimeSpan.FromMilliseconds(500);

    // Beyond its time to live: until etcd has noticed that a lease has run out.
    private static readonly TimeSpan HeldSlack = TimeSpan.FromSeconds(2);
    private bool _takingRight;
    private bool _hasRight;
    private bool _rightRefused;
    private bool _rightWaived;
    private TimeSpan _takeRightAt = TimeSpan.MinValue;
    private TimeSpan _promotionAskedAt;
    private TimeSpan? _vouchedUntil;
    private TimeSpan? _heldSince;

    // Why the round is promoted also where the operator does not ask for it any more.
    private string? _promoteUnasked;

    /// <summary>Whether this host has the arbiter's right to run the guest.</summary>
    public bool HasRight => _hasRight;

    private bool NeedsRight => _settings.RightTtl is not null && !_rightWaived;

    /// <summary>
    /// An earlier receiver of this guest may have vouched just before it ended: nothing is taken over before that must have run out.
    /// </summary>
    private void BeginVouching(TimeSpan now) => _vouchedUntil ??= _settings.RightTtl is { } ttl ? now + Longer(ttl, _settings.SenderTtl) : TimeSpan.MinValue;

    private static TimeSpan Longer(TimeSpan one, TimeSpan other) => one > other ? one : other;

    private bool MayPromote(string reason, TimeSpan now)
    {
        if (!NeedsRight)
        {
            return true;
        }

        if (!_hasRight)
        {
            if (!_takingRight && now >= _takeRightAt)
            {
                _takingRight = true;
                _out.Add(new ReceiverOutput.TakeRight(CommittedRound, reason));
            }

            return false;
        }

        return now >= _vouchedUntil;
    }

    private void OnVouchAsked(ReceiverInput.VouchAsked asked, TimeSpan now)
    {
        // After the last round of a switchover, or when the guest is being taken over, nothing is promised any more.
        if (_settings.RightTtl is not { } ttl || _takingRight || _hasRight || _finalWhole || _promoteWhenCommitted is not null
            || _state >= ReceiverState.Promoting)
        {
            return;
        }

        // No longer than a receiver after this one waits.
        TimeSpan time = asked.Time < ttl ? asked.Time : ttl;
        TimeSpan until = now + time;
        if (_vouchedUntil is not { } before || until > before)
        {
            _vouchedUntil = until;
        }

        _out.Add(new ReceiverOutput.SendVouch(asked.Sequence, time));
    }

    private void OnRightRefused(ReceiverInput.RightRefused refused, TimeSpan now)
    {
        _takingRight = false;
        if (_state >= ReceiverState.Promoting)
        {
            // The operator took the guest over without the arbiter meanwhile.
            return;
        }

        _rightRefused = true;
        TimeSpan ttl = _settings.RightTtl ?? TimeSpan.Zero;
        _takeRightAt = now + (refused.Why == RightRefusal.Unreachable ? AskUnreachable
            : _vouchedUntil == TimeSpan.MinValue ? AskHandedOver
            : AskHeld);
        if (refused.Why == RightRefusal.Superseded)
        {
            _promoteWhenCommitted = null;
            _promoteUnasked = null;
            _lossReason = refused.Reason;
        }

        NoteHeld(refused, Longer(ttl, refused.Lives), now);

        // Who asked is told; a loss that nobody asked for is tried again until the arbiter gives the guest to one of the two.
        bool patient = refused.Why == RightRefusal.Held && now - _promotionAskedAt < (2 * ttl) + TimeSpan.FromSeconds(2);
        if (_promotionAsked && !patient)
        {
            _lossReason ??= refused.Reason;
            RefusePromotion(refused.Reason);
        }
    }

    /// <summary>
    /// A lease that is still there when it must have run out was renewed: its holder lives, and its guest has run on without this standby. Only an unbroken
    /// time counts: while the arbiter does not answer no lease runs out, and afterwards each has its whole time again.
    /// </summary>
    private void NoteHeld(ReceiverInput.RightRefused refused, TimeSpan ttl, TimeSpan now)
    {
        _heldSince = refused.Why == RightRefusal.Held ? _heldSince ?? now : null;

        // After the last round of a switchover the guest stands still there.
        if (_heldSince is { } since && now - since > ttl + HeldSlack && _promoteUnasked is not null && !_finalWhole)
        {
            _promoteUnasked = null;
            _promoteWhenCommitted = _promotionAsked ? _promoteWhenCommitted : null;
            _lossReason = refused.Reason;
            _out.Add(new ReceiverOutput.LeftBehind(CommittedRound, refused.Reason));
        }
    }

    private void RefusePromotion(string reason)
    {
        if (_promotionAsked)
        {
            _promotionAsked = false;
            _promoteWhenCommitted = _promoteUnasked;
            WaiveNothing();
        }

        _out.Add(new ReceiverOutput.PromotionRefused(reason));
    }
}
