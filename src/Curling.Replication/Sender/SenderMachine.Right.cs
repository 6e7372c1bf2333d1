namespace Curling.Replication.Sender;

/// <summary>The right to run the guest, where an arbiter decides: without it no round is cut, and it goes where the guest goes.</summary>
public sealed partial class SenderMachine
{
    private bool _rightLost;
    private bool _rightReleased;
    private bool _runOwed;

    /// <summary>Lets a guest run that was stopped for want of the right, and gives the right back where the guest may run elsewhere.</summary>
    private void SettleRight()
    {
        // During a capture the guest must not be let run from outside: it may stand still for its cut.
        if (_runOwed && _capturing == 0 && !_rightLost)
        {
            _runOwed = false;
            if (!_finalSent)
            {
                _out.Add(new SenderOutput.RunGuest());
            }
        }

        // Until the last round is known to be there, the output before its cut may still have to leave from here.
        if (_finalSent && !_rightReleased && (_lastCompleted >= _lastCaptured || _link != Link.Up))
        {
            _rightReleased = true;
            _rightLost = true;
            _out.Add(new SenderOutput.ReleaseRight());
        }
    }

    private void OnRightBack(TimeSpan now)
    {
        _rightLost = false;
        _runOwed = true;
        if (_roundAt < now)
        {
            _roundAt = now;
        }
    }
}
