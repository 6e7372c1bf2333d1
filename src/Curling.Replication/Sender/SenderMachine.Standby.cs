namespace Curling.Replication.Sender;

/// <summary>What the operator asks for: the guest moves to its standby, or is given another one.</summary>
public sealed partial class SenderMachine
{
    // Whether who asked for a switchover still waits for what came of it.
    private bool _switchoverAsked;

    // Whether the receiver may have a whole round of this guest, from which it would start it.
    private bool _standbyMayHold;
    private bool _retargeting;

    private void OnSwitchover(TimeSpan now)
    {
        _switchoverAsked = true;
        if (_finalSent || IsCapturingFinal)
        {
            // It is on its way, also when the connection was lost meanwhile: both who asked hear what comes of it.
            return;
        }

        if (_link != Link.Up)
        {
            FailSwitchover("there is no connection to the receiver, so there is no standby to move the guest to");
            return;
        }

        _switchover = true;
        _roundAt = now;
    }

    private void FailSwitchover(string reason)
    {
        _switchover = false;
        if (_switchoverAsked)
        {
            _switchoverAsked = false;
            _out.Add(new SenderOutput.SwitchoverFailed(reason));
        }
    }

    private void OnRetarget(SenderInput.Retarget retarget, TimeSpan now)
    {
        if (_finalSent || IsCapturingFinal || _switchover || _retargeting)
        {
            _out.Add(new SenderOutput.RetargetRefused(RetargetRefusal.Moving));
            return;
        }

        bool isUp = _link == Link.Up;
        if (!isUp && _standbyMayHold && !retarget.Force)
        {
            _out.Add(new SenderOutput.RetargetRefused(RetargetRefusal.NotConnected));
            return;
        }

        // A connection that is only closed counts as a loss there, and the standby would start the guest.
        _out.Add(new SenderOutput.LeaveStandby(retarget.Reason, isUp && _standbyMayHold && !retarget.Force));
        LinkIsDown(retarget.Reason, now);
        _retargeting = true;
        _connectAt = TimeSpan.MaxValue;
    }

    private void OnRetargeted(SenderInput.Retargeted retargeted, TimeSpan now)
    {
        if (!_retargeting)
        {
            return;
        }

        _retargeting = false;
        _connectAt = now;
        _retry = _settings.FirstRetry;
        if (retargeted.Changed)
        {
            _standbyMayHold = false;
        }
    }
}
