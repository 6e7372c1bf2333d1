using Curling.Linux.Time;

namespace Curling.Hosting.Network;

/// <summary>
/// Until when output of a guest may leave this host, whatever the gate says: a host that stood still for longer than its right to run the
/// guest lasted must not let out what it had in its hands.
/// </summary>
/// <remarks>Thread-safe. Whoever lets frames out asks it before each one, for the process may be stopped between any two.</remarks>
public sealed class ReleaseDeadline
{
    private const long None = long.MaxValue;
    private long _until = None;

    /// <summary>Whether output may leave at this moment.</summary>
    public bool IsOpen => Volatile.Read(ref _until) is long until && (until == None || BootClock.Nanoseconds < until);

    /// <summary>Output may leave until then, on <see cref="BootClock"/>.</summary>
    public void Set(TimeSpan until) => Volatile.Write(
        ref _until, until <= TimeSpan.Zero ? 0 : BootClock.ToNanoseconds(until));
}
