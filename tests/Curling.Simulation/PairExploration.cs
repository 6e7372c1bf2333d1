using System.Collections.Concurrent;
using Curling.Simulation.Defects;

namespace Curling.Simulation;

/// <summary>What came of one history.</summary>
/// <param name="Seed">Its seed.</param>
/// <param name="Events">Its length.</param>
/// <param name="Rule">The rule that was broken, or the type of an exception; null when all was well.</param>
/// <param name="Message">What was wrong.</param>
/// <param name="History">What happened, where it was recorded.</param>
internal sealed record PairResult(int Seed, int Events, string? Rule, string Message, string History)
{
    public override string ToString() => $"seed {Seed}: {Rule}: {Message}\n{History}";
}

/// <summary>Plays many histories and finds the shortest one that breaks a rule.</summary>
internal static class PairExploration
{
    private const int HistoryLines = 250;

    /// <summary>Plays one history.</summary>
    public static PairResult Play(int seed, Func<Defect> defect, bool record)
    {
        // Tasks of a history go on inside the event that completes them, and nowhere else.
        SynchronizationContext? context = SynchronizationContext.Current;
        SynchronizationContext.SetSynchronizationContext(null);
        using PairWorld world = new(seed, defect(), record);
        try
        {
            world.Play();
            return new PairResult(seed, world.History.Events, null, "", History(world));
        }
        catch (PairViolationException e)
        {
            return new PairResult(seed, world.History.Events, e.Rule, e.Message[(e.Rule.Length + 2)..], History(world));
        }
#pragma warning disable CA1031 // Any exception of a machine is a finding.
        catch (Exception e)
#pragma warning restore CA1031
        {
            return new PairResult(seed, world.History.Events, e.GetType().Name, e.ToString(), History(world));
        }
        finally
        {
            SynchronizationContext.SetSynchronizationContext(context);
        }
    }

    /// <summary>Plays the histories of seeds that follow each other; a failing one is played again and recorded.</summary>
    /// <param name="firstSeed">The first seed.</param>
    /// <param name="count">How many.</param>
    /// <param name="defect">What is planted.</param>
    /// <param name="failures">How many of them break a rule.</param>
    /// <param name="rule">Only failures of this rule count; null for any.</param>
    public static PairResult? FindFailure(int firstSeed, int count, Func<Defect> defect, out int failures, string? rule = null)
    {
        ConcurrentBag<PairResult> failed = [];
        Parallel.For(firstSeed, firstSeed + count, seed =>
        {
            PairResult result = Play(seed, defect, record: false);
            if (result.Rule is not null && (rule is null || result.Rule == rule))
            {
                failed.Add(result);
            }
        });
        failures = failed.Count;
        PairResult? shortest = failed.OrderBy(f => f.Events).ThenBy(f => f.Seed).FirstOrDefault();
        return shortest is null ? null : Play(shortest.Seed, defect, record: true);
    }

    private static string History(PairWorld world) =>
        world.History.Records ? $"{world.Options}\n{world.History.Text(HistoryLines)}" : "";
}
