namespace Curling.Simulation;

/// <summary>
/// A process of one of the daemons: what is planned for it happens only while it lives, and late when it was stalled, as by SIGSTOP or a
/// host that has no time for it.
/// </summary>
/// <remarks>What reaches a stalled process stays where it is, in its sockets; nothing is lost by a stall.</remarks>
internal sealed class SimulatedProcess(History history)
{
    private long _stalledUntil;

    /// <summary>It has ended, by whatever cause.</summary>
    public bool IsGone { get; private set; }

    public bool IsStalled => history.Milliseconds < _stalledUntil;

    /// <summary>Until when it is, or was, held up.</summary>
    public long StalledUntil => _stalledUntil;

    /// <summary>For how long it was held up in all.</summary>
    public TimeSpan HeldUp { get; private set; }

    public void End() => IsGone = true;

    public void Stall(int milliseconds)
    {
        long until = Math.Max(_stalledUntil, history.Milliseconds + milliseconds);
        HeldUp += TimeSpan.FromMilliseconds(until - Math.Max(_stalledUntil, history.Milliseconds));
        _stalledUntil = until;
    }

    public void In(long milliseconds, Action action) => history.In(milliseconds, () => Run(action));

    /// <summary>Ends after a time; never when the process ends before.</summary>
    public Task Delay(int milliseconds)
    {
        TaskCompletionSource done = new();
        In(milliseconds, done.SetResult);
        return done.Task;
    }

    /// <summary>Does something again and again, as long as the process lives.</summary>
    public void Every(int milliseconds, Func<bool> action) => In(milliseconds, () =>
    {
        if (action())
        {
            Every(milliseconds, action);
        }
    });

    private void Run(Action action)
    {
        if (IsStalled)
        {
            history.In(_stalledUntil - history.Milliseconds, () => Run(action));
        }
        else if (!IsGone)
        {
            action();
        }
    }
}
