namespace Curling.Replication.Rights;

/// <summary>
/// When a host that starts a guest anew may take the right to it. Where another had it, that is most often the run before this one, which has just
/// died, and a standby waits for the same lease to run out: it has the guest as it was, and goes first.
/// </summary>
/// <remarks>
/// Not thread-safe, and without a clock, as <see cref="RightToRun"/>. Who has been refused once looks from then on, and takes the right when it has been
/// free for <see cref="Wait"/> without a break. A time in which the arbiter does not answer breaks it: the standby was not answered either.
/// </remarks>
/// <param name="ttl">How long a lease lives.</param>
public sealed class AwaitedRight(TimeSpan ttl)
{
    /// <summary>What the arbiter may take to notice that a lease has run out, and a standby to ask.</summary>
    public static readonly TimeSpan Slack = TimeSpan.FromSeconds(2);

    private bool _wasAnothers;
    private TimeSpan? _freeSince;

    /// <summary>For how long a right that was another's has to be free.</summary>
    public TimeSpan Wait => (2 * ttl) + Slack;

    /// <summary>Whether the right may be asked for; otherwise only who has it.</summary>
    public bool MayTake => !_wasAnothers;

    /// <summary>Another has it.</summary>
    public void Held()
    {
        _wasAnothers = true;
        _freeSince = null;
    }

    /// <summary>Nobody has it.</summary>
    public void Free(TimeSpan now)
    {
        _freeSince ??= now;
        _wasAnothers &= now - _freeSince < Wait;
    }

    /// <summary>The arbiter does not answer.</summary>
    public void Unanswered() => _freeSince = null;
}
