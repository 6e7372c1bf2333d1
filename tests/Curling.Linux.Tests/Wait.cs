using System.Diagnostics;

namespace Curling.Linux.Tests;

/// <summary>Waiting for something that happens soon, with a limit that only a failure reaches.</summary>
internal static class Wait
{
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    public static void Until(Func<bool> condition, string what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!condition())
        {
            Assert.True(Stopwatch.GetElapsedTime(start) < Limit, $"waited in vain: {what}");
            Thread.Sleep(5);
        }
    }
}
