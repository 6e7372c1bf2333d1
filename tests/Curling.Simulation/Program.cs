using System.Globalization;
using Curling.Simulation.Defects;

namespace Curling.Simulation;

/// <summary>Plays as many histories as asked for, on all cores: what eng/simulate runs.</summary>
internal static class Program
{
    private const string Usage = "usage: simulate [--first-seed N] [--seeds M]   (defaults: 1 and 100000)";
    private const int SeedsAtATime = 2_000;

    private static int Main(string[] args)
    {
        long first = 1;
        long count = 100_000;
        for (int i = 0; i < args.Length; i += 2)
        {
            bool number = long.TryParse(
                i + 1 < args.Length ? args[i + 1] : "", NumberStyles.None, CultureInfo.InvariantCulture, out long value);
            switch (args[i])
            {
                case "--first-seed" when number:
                    first = value;
                    break;
                case "--seeds" when number:
                    count = value;
                    break;
                default:
                    Console.Error.WriteLine($"not understood: {args[i]}\n{Usage}");
                    return 2;
            }
        }

        if (count < 1 || first > int.MaxValue - count)
        {
            Console.Error.WriteLine($"seeds are from 0 to {int.MaxValue}, and at least one is needed\n{Usage}");
            return 2;
        }

        for (long done = 0; done < count; done += SeedsAtATime)
        {
            int seeds = (int)Math.Min(SeedsAtATime, count - done);
            PairResult? failure = PairExploration.FindFailure((int)(first + done), seeds, () => new Defect(), out int failures);
            if (failure is not null)
            {
                Console.WriteLine($"{failures} of {seeds} histories from seed {first + done} on break a rule; the shortest:\n{failure}");
                return 1;
            }

            Console.WriteLine($"seeds {first} to {first + done + seeds - 1}: every rule held");
        }

        return 0;
    }
}
