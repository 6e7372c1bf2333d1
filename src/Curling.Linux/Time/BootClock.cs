using System.Runtime.InteropServices;

namespace Curling.Linux.Time;

/// <summary>
/// The time since this host was started, also while it was suspended: what a right that runs out elsewhere is counted on. A clock
/// that stands still during a suspend would give the right back to a host that wakes up long after it was lost.
/// </summary>
/// <remarks>Thread-safe; it costs some tens of nanoseconds, for the kernel answers from shared memory.</remarks>
public static partial class BootClock
{
    // linux: include/uapi/linux/time.h
    internal const int ClockBoottime = 7;

    /// <summary>Nanoseconds since the start of the host.</summary>
    public static unsafe long Nanoseconds
    {
        get
        {
            Timespec now;

            // Safety: the kernel writes 16 bytes into the structure, which lives on this stack frame.
            _ = clock_gettime(ClockBoottime, &now);
            return (now.Seconds * 1_000_000_000) + now.Nanoseconds;
        }
    }

    /// <summary>The same as a span.</summary>
    public static TimeSpan Now => ToSpan(Nanoseconds);

    /// <summary>A time of this clock in nanoseconds as a span, rounded down.</summary>
    public static TimeSpan ToSpan(long nanoseconds) => TimeSpan.FromTicks(nanoseconds / TimeSpan.NanosecondsPerTick);

    /// <summary>A time of this clock in nanoseconds.</summary>
    public static long ToNanoseconds(TimeSpan time) => time.Ticks * TimeSpan.NanosecondsPerTick;

    [LibraryImport("libc")]
    [SuppressGCTransition]
    private static unsafe partial int clock_gettime(int clock, Timespec* time);

    [StructLayout(LayoutKind.Sequential)]
    internal struct Timespec
    {
        public long Seconds;
        public long Nanoseconds;
    }
}
