namespace Curling.Hosting.Time;

/// <summary>The last 1,024 of a row of numbers, and where their middle and their top lie.</summary>
/// <remarks>Adding is for one thread and allocates nothing; reading is safe from any.</remarks>
public sealed class Percentiles
{
    private const int Kept = 1024;
    private readonly long[] _samples = new long[Kept];
    private readonly Lock _lock = new();
    private long _added;

    /// <summary>The number added last.</summary>
    public long Last { get; private set; }

    /// <summary>How many were added in all.</summary>
    public long Count => Volatile.Read(ref _added);

    /// <summary>Adds a number.</summary>
    public void Add(long value)
    {
        lock (_lock)
        {
            _samples[_added++ % Kept] = value;
            Last = value;
        }
    }

    /// <summary>The number that <paramref name="share"/> of the kept ones do not exceed; 0 when there are none.</summary>
    public long At(double share)
    {
        long[] sorted;
        lock (_lock)
        {
            sorted = _samples[..(int)Math.Min(_added, Kept)];
        }

        Array.Sort(sorted);
        return sorted.Length == 0 ? 0 : sorted[(int)Math.Min(sorted.Length - 1, Math.Ceiling(share * sorted.Length) - 1)];
    }
}
