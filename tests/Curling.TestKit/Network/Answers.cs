using System.Diagnostics;

namespace Curling.TestKit.Network;

/// <summary>Waiting for a guest's answers.</summary>
internal static class Answers
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    /// <summary>Waits until so many more came.</summary>
    /// <param name="count">How many came so far.</param>
    /// <param name="more">How many more.</param>
    /// <param name="who">Who is asked.</param>
    /// <exception cref="TimeoutException">They do not come.</exception>
    public static async Task UntilAsync(Func<long> count, long more, string who)
    {
        long wanted = count() + more;
        long start = Stopwatch.GetTimestamp();
        while (count() < wanted)
        {
            if (Stopwatch.GetElapsedTime(start) > Patience)
            {
                throw new TimeoutException($"the {who} does not answer; {count()} answers so far");
            }

            await Task.Delay(5);
        }
    }
}
