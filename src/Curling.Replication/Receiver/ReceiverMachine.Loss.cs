using Curling.Protocol;

namespace Curling.Replication.Receiver;

/// <summary>What becomes of a guest whose sender leaves, is lost, or is taken the guest from: goodbyes, promotions that are asked for, and what fails.</summary>
public sealed partial class ReceiverMachine
{
    private void OnGoodbye(ReceiverInput.PeerGoodbye goodbye)
    {
        LoseLink(goodbye.Text);
        _out.Add(new ReceiverOutput.CloseLink());
        if (_state >= ReceiverState.Promoting || _finalWhole)
        {
            // What was handed over whole goes on here, whatever becomes of the sender.
            return;
        }

        if (goodbye.Reason == GoodbyeReason.QemuCrashed)
        {
            // Its guest does not run any more: whatever was promised to it is void.
            _vouchedUntil = TimeSpan.MinValue;
            Lost(goodbye.Text.Length > 0 ? $"the primary's QEMU ended: {goodbye.Text}" : "the primary's QEMU ended", silent: false);
        }
        else
        {
            Finish(ReceiverState.Ended, goodbye.Text);
        }
    }

    private void OnPromoteAsked(ReceiverInput.PromoteAsked asked, TimeSpan now)
    {
        if (_state is ReceiverState.Promoting or ReceiverState.Promoted || !HoldsRound)
        {
            return;
        }

        if (_linkUp && _settings.RightTtl is not null && asked.Arbiter)
        {
            RefusePromotion("its sender is connected and has the arbiter's right to run it; to move it, type at the sender: curling-send switchover");
            return;
        }

        _promoteUnasked = _promotionAsked ? _promoteUnasked : _promoteWhenCommitted;
        _promotionAsked = true;
        _promotionAskedAt = now;
        _takeRightAt = now;
        _fenceWaived = !asked.Fence;
        _rightWaived = !asked.Arbiter;
        if (_linkUp)
        {
            // Should the fence fail, the sender's guest is the only one there is.
            bool mayGoOn = _settings.Fences && asked.Fence;
            LoseLink("the operator promoted the standby");
            _out.Add(new ReceiverOutput.Refuse(
                mayGoOn ? RefusalCode.Round : RefusalCode.Superseded, "the standby was promoted by the receiver's operator"));
        }

        _promoteWhenCommitted = "asked by the operator";
    }

    /// <summary>What the operator made sure of himself holds for the promotion that he asked for, and for no later one.</summary>
    private void WaiveNothing()
    {
        _fenceWaived = false;
        _rightWaived = false;
    }

    private void OnStandbyFailed(string reason)
    {
        _standbyReady = false;
        if (_state < ReceiverState.Promoting)
        {
            Fail($"the standby failed: {reason}");
        }
    }

    private void OnFenceFailed(string reason)
    {
        _fencing = false;
        _promotionAsked = false;
        WaiveNothing();
        if (!_standbyReady)
        {
            Fail($"the primary was not fenced ({reason}), and the standby ended meanwhile");
            return;
        }

        _lossReason = reason;
        Become(ReceiverState.Protected, $"not promoted: {reason}");
        _out.Add(new ReceiverOutput.Held(CommittedRound, reason));
    }

    private void Lost(string reason, bool silent)
    {
        // After the last round of a switchover nothing is left to decide: it is promoted when it is committed.
        if (_state >= ReceiverState.Promoting || _finalWhole)
        {
            return;
        }

        _lossReason = reason;
        if (!HoldsRound)
        {
            Finish(ReceiverState.Ended, CommittedRound == 0
                ? $"{reason}; no round was committed, so there is nothing to promote"
                : $"{reason}; the copy of its disks was not complete, so there is nothing to promote");
        }
        else if (_settings.OnFailure == FailureAction.Promote && (!silent || _settings.OnSilence == FailureAction.Promote)
            && (!_restored || _committing != 0 || _whole.Count > 0))
        {
            // What stands in line is newer than what was found at the start: once it is committed it may take over.
            _promoteWhenCommitted = reason;
            _promoteUnasked = reason;
        }
        else
        {
            string why = _restored ? $"{reason}; nothing was committed since the receiver was started anew" : reason;
            _out.Add(new ReceiverOutput.Held(Math.Max(CommittedRound, _lastWhole), why));
        }
    }
}
