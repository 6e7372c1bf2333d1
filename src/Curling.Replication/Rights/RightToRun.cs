namespace Curling.Replication.Rights;

/// <summary>
/// Until when a host may run a guest and let its output leave, as far as it can know: an arbiter's lease, or the receiver's vouch
/// that it takes nothing over. Both count from when they were <em>asked for</em>, so that every delay counts against the one who asks.
/// </summary>
/// <remarks>
/// Not thread-safe. It knows no clock: all times are passed in, from one clock that does not stand still while the host is suspended. What
/// is given away is always shorter than what was promised, by <see cref="Share"/> of it and <see cref="Constant"/>: for clocks that do not
/// run alike, and for the time it takes to stop a guest.
/// </remarks>
public sealed class RightToRun
{
    /// <summary>The share of a promise that is not used: clocks of two hosts differ by far less.</summary>
    public const double Share = 0.1;

    /// <summary>The part of every promise that is kept for stopping the guest.</summary>
    public static readonly TimeSpan Constant = TimeSpan.FromMilliseconds(200);

    private static readonly TimeSpan Never = TimeSpan.MinValue;
    private TimeSpan _leaseUntil = Never;
    private TimeSpan _vouchUntil = Never;
    private bool _withdrawn = true;

    /// <summary>When the right runs out, unless it is renewed; <see cref="TimeSpan.MinValue"/> when there is none.</summary>
    public TimeSpan ValidUntil => _leaseUntil > _vouchUntil ? _leaseUntil : _vouchUntil;

    /// <summary>How much of a promise may be used.</summary>
    public static TimeSpan Usable(TimeSpan promised) => (promised * (1 - Share)) - Constant;

    /// <summary>Whether the guest may run, and its output leave, at this moment.</summary>
    public bool IsValid(TimeSpan now) => now < ValidUntil;

    /// <summary>Whether at this moment only the receiver's vouch gives the right.</summary>
    public bool IsVouched(TimeSpan now) => now < _vouchUntil && now >= _leaseUntil;

    /// <summary>The arbiter gave the guest to this host, which did not have it or had lost it.</summary>
    /// <param name="askedAt">A moment before the request was sent.</param>
    /// <param name="promised">How long the lease lives from when the arbiter granted it.</param>
    public void Granted(TimeSpan askedAt, TimeSpan promised)
    {
        _withdrawn = false;
        _leaseUntil = askedAt + Usable(promised);
    }

    /// <summary>The arbiter renewed the lease; nothing after <see cref="Withdrawn"/>.</summary>
    /// <param name="askedAt">A moment before the request was sent.</param>
    /// <param name="promised">How long the lease lives from when the arbiter renewed it.</param>
    public void Renewed(TimeSpan askedAt, TimeSpan promised) => Extend(ref _leaseUntil, askedAt, promised);

    /// <summary>The receiver promised to take nothing over for a while; nothing after <see cref="Withdrawn"/>.</summary>
    /// <param name="askedAt">A moment before the request was sent.</param>
    /// <param name="promised">How long the promise holds from when the receiver gave it.</param>
    public void Vouched(TimeSpan askedAt, TimeSpan promised) => Extend(ref _vouchUntil, askedAt, promised);

    /// <summary>The right was given back, or is another's: answers that are still on their way change nothing.</summary>
    public void Withdrawn()
    {
        _withdrawn = true;
        _leaseUntil = Never;
        _vouchUntil = Never;
    }

    private void Extend(ref TimeSpan until, TimeSpan askedAt, TimeSpan promised)
    {
        TimeSpan to = askedAt + Usable(promised);
        if (!_withdrawn && to > until)
        {
            until = to;
        }
    }
}
