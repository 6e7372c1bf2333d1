namespace Curling.Hosting.Transport;

/// <summary>
/// Spreads bytes over time so that they do not exceed a rate. It keeps the moment at which the next byte is due, so errors
/// of single waits do not add up; time that was not used is forgiven up to a short burst.
/// </summary>
/// <remarks>Not thread-safe: the one writer of a connection uses it.</remarks>
public sealed class RateLimiter
{
    private static readonly TimeSpan Burst = TimeSpan.FromMilliseconds(20);
    private readonly long _bytesPerSecond;
    private readonly TimeProvider _time;
    private readonly long _start;
    private double _dueSeconds;

    /// <summary>Creates a limiter; a rate of 0 is no limit.</summary>
    public RateLimiter(long bytesPerSecond, TimeProvider time)
    {
        _bytesPerSecond = bytesPerSecond;
        _time = time;
        _start = time.GetTimestamp();
    }

    /// <summary>The rate, 0 for none.</summary>
    public long BytesPerSecond => _bytesPerSecond;

    /// <summary>Whether there is a limit.</summary>
    public bool IsLimited => _bytesPerSecond > 0;

    /// <summary>How many bytes to write at once so that the stream stays even: about 5 ms worth.</summary>
    public int SliceBytes => IsLimited ? (int)Math.Clamp(_bytesPerSecond / 200, 4096, 256 * 1024) : int.MaxValue;

    /// <summary>Waits until <paramref name="bytes"/> may be written.</summary>
    public ValueTask WaitAsync(int bytes, CancellationToken cancellation)
    {
        if (!IsLimited)
        {
            return ValueTask.CompletedTask;
        }

        double now = _time.GetElapsedTime(_start).TotalSeconds;
        double due = Math.Max(_dueSeconds, now - Burst.TotalSeconds);
        _dueSeconds = due + ((double)bytes / _bytesPerSecond);
        double wait = due - now;
        return wait < 0.001
            ? ValueTask.CompletedTask
            : new ValueTask(Task.Delay(TimeSpan.FromSeconds(wait), _time, cancellation));
    }
}
