using System.Globalization;
using System.Text;

namespace Curling.Simulation;

/// <summary>Time, chance and the record of one history: everything that happens comes from one seed.</summary>
/// <remarks>Not thread-safe. Time is whole milliseconds; what is due at the same time happens in the order it was planned.</remarks>
internal sealed class History(int seed, bool record)
{
    private readonly PriorityQueue<Action, long> _due = new();
    private readonly Random _random = new(seed);
    private readonly List<string>? _lines = record ? [] : null;
    private readonly int _thread = Environment.CurrentManagedThreadId;
    private long _planned;

    public int Seed => seed;

    public long Milliseconds { get; private set; }

    public TimeSpan Now => TimeSpan.FromMilliseconds(Milliseconds);

    /// <summary>Events that happened.</summary>
    public int Events { get; private set; }

    public bool Records => _lines is not null;

    public void In(long milliseconds, Action action)
    {
        // A task that went on elsewhere would make chance of what comes from the seed. It does where two wait for the same task.
        if (_thread != Environment.CurrentManagedThreadId)
        {
            throw new InvalidOperationException("a history is played by one thread");
        }

        _due.Enqueue(action, ((Milliseconds + Math.Max(0, milliseconds)) << 24) + _planned++);
    }

    /// <summary>Lets the next thing happen; false when nothing is planned.</summary>
    public bool Next()
    {
        if (!_due.TryDequeue(out Action? action, out long at))
        {
            return false;
        }

        Milliseconds = at >> 24;
        Events++;
        action();
        return true;
    }

    public int Between(int low, int high) => _random.Next(low, high + 1);

    public bool Chance(int percent) => percent > 0 && _random.Next(100) < percent;

    public T Pick<T>(params ReadOnlySpan<T> of) => of[_random.Next(of.Length)];

    public void Note(string who, string what) =>
        _lines?.Add(string.Create(CultureInfo.InvariantCulture, $"{Milliseconds,7} ms  {who,-9} {what}"));

    /// <summary>The last lines of the record.</summary>
    public string Text(int lines)
    {
        StringBuilder text = new();
        if (_lines is { } all)
        {
            if (all.Count > lines)
            {
                text.AppendLine(CultureInfo.InvariantCulture, $"   ... {all.Count - lines} lines before");
            }

            foreach (string line in all.TakeLast(lines))
            {
                text.AppendLine(line);
            }
        }

        return text.ToString();
    }
}

/// <summary>Something that must never happen did.</summary>
internal sealed class PairViolationException(string rule, string message) : Exception($"{rule}: {message}")
{
    /// <summary>The rule's name.</summary>
    public string Rule { get; } = rule;
}
