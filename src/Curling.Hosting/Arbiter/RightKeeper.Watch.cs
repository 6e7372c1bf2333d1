using Curling.Linux.Time;

namespace Curling.Hosting.Arbiter;

/// <summary>The thread that watches the time.</summary>
public sealed partial class RightKeeper
{
    /// <summary>Watches the time: it alone says that the right is lost or back, one after the other.</summary>
    private void Watch()
    {
        while (!_cancellation.IsCancellationRequested)
        {
            TimeSpan now = BootClock.Now;
            bool valid;
            bool told;
            string reason;
            TimeSpan left;
            lock (_lock)
            {
                valid = _right.IsValid(now);
                told = _told;
                _told = valid;
                left = valid ? _right.ValidUntil - now : Slice;
                reason = _problem ?? (_wanted ? "the arbiter's lease was not renewed in time" : "the right was given back");
            }

            if (valid && !told)
            {
                _events.RightBack();
            }
            else if (told && !valid)
            {
                _events.RightLost(reason);
            }

            WantVouch(now);

            // In slices: the wait's clock stands still while the host is suspended.
            _look.WaitOne(left < Slice ? left : Slice);
        }
    }

    private void WantVouch(TimeSpan now)
    {
        long sequence;
        TimeSpan ttl = _arbiter.Ttl;
        lock (_lock)
        {
            if (!_wanted || _superseded || now - _renewedAt < ttl / 2 || now - _vouchAskedAt < ttl / 4)
            {
                return;
            }

            _vouchAskedAt = now;
            sequence = ++_vouches;
            _asked[sequence] = (now, ttl);
            _asked.Remove(sequence - 8);
        }

        _events.AskVouch(sequence, ttl);
    }
}
