using System.Globalization;
using Curling.Simulation.Checks;
using Curling.Simulation.Defects;
using Xunit.Abstractions;

namespace Curling.Simulation;

/// <summary>
/// Thousands of random histories of a pair, each from its own seed, with every rule checked at every step. A longer search:
/// set CURLING_HISTORIES and CURLING_FIRST_SEED.
/// </summary>
public sealed class PairHistoriesTests(ITestOutputHelper output)
{
    private const int RecordedHistories = 1_500;

    private static readonly Lazy<string[]> Recorded = new(() =>
    [
        .. Enumerable.Range(1, RecordedHistories).AsParallel()
            .Select(seed => PairExploration.Play(seed, () => new Defect(), record: true).History),
    ]);

    [Fact]
    public void No_history_breaks_a_rule()
    {
        int count = Setting("CURLING_HISTORIES", 24_000);
        int first = Setting("CURLING_FIRST_SEED", 1);
        PairResult? failure = PairExploration.FindFailure(first, count, () => new Defect(), out int failures);
        if (failure is not null)
        {
            Assert.Fail($"{failures} of {count} histories break a rule; the shortest: {failure}");
        }
    }

    [Theory]
    [InlineData(nameof(ReleasesOutputOnSent), Rules.OutputCommit)]
    [InlineData(nameof(OneRoundTooManyInFlight), Rules.InFlight)]
    [InlineData(nameof(ResumesAfterTheLastRound), Rules.OneGuest)]
    [InlineData(nameof(NeverResumes), Rules.Switchover)]
    [InlineData(nameof(CommitsAnIncompleteRound), Rules.CommitOrder)]
    [InlineData(nameof(SaysCompleteTooEarly), Rules.OutputCommit)]
    [InlineData(nameof(DropsWholeRoundsAtPromotion), Rules.NothingLost)]
    [InlineData(nameof(PromotesAfterGoodbye), Rules.NormalEnd)]
    [InlineData(nameof(TakesTheSupersededBack), Rules.OneGuest)]
    [InlineData(nameof(ForgetsReady), Rules.Progress)]
    [InlineData(nameof(StopsTheSenderWhileItFences), Rules.OneGuest)]
    [InlineData(nameof(CutsOutputLate), Rules.OutputCommit)]
    [InlineData(nameof(AcknowledgesTooEarly), Rules.CommitOrder)]
    [InlineData(nameof(CommitsBeforeTheDigestCheck), Rules.AllOrNothing)]
    [InlineData(nameof(PromotesAPartialRound), Rules.AllOrNothing)]
    [InlineData(nameof(IgnoresTheGeneration), Rules.Generation)]
    public void A_planted_defect_is_found(string defect, string rule)
    {
        const int Histories = 2_000;
        PairResult? failure = PairExploration.FindFailure(1, Histories, () => Planted(defect), out int failures);
        Assert.True(failure is not null, $"nobody noticed {defect}");
        output.WriteLine($"{defect}: {failures} of {Histories} histories; the shortest: {failure}");
        Assert.Equal(rule, failure.Rule);
        Assert.Contains("sender    guest started", failure.History);
    }

    [Theory]
    [InlineData("end SwitchedOver")]
    [InlineData("end Superseded")]
    [InlineData("end Refused")]
    [InlineData("end GuestShutdown")]
    [InlineData("end QemuCrashed")]
    [InlineData("end Stopped")]
    [InlineData("resume guest")]
    [InlineData("release all")]
    [InlineData("capture failed")]
    [InlineData("discard")]
    [InlineData("held")]
    [InlineData("refuse Round")]
    [InlineData("refuse Superseded")]
    [InlineData("refuse Host")]
    [InlineData("state Promoted, say promoted")]
    [InlineData("state Failed")]
    [InlineData("link lost              -> close, state Ended, free")]
    [InlineData("commit failed")]
    [InlineData("promotion failed")]
    [InlineData("standby failed")]
    [InlineData("fenced")]
    [InlineData("fence failed           -> state Protected, held")]
    [InlineData("goodbye QemuCrashed")]
    [InlineData("recv. 3")]
    public void The_histories_come_by_here(string words)
    {
        // A search that never gets into a corner would find nothing there.
        bool seen = Recorded.Value.Any(h => h.Contains(words, StringComparison.Ordinal));
        Assert.True(seen, $"no history of {RecordedHistories} shows \"{words}\"");
    }

    private static Defect Planted(string name) => name switch
    {
        nameof(ReleasesOutputOnSent) => new ReleasesOutputOnSent(),
        nameof(OneRoundTooManyInFlight) => new OneRoundTooManyInFlight(),
        nameof(ResumesAfterTheLastRound) => new ResumesAfterTheLastRound(),
        nameof(NeverResumes) => new NeverResumes(),
        nameof(CommitsAnIncompleteRound) => new CommitsAnIncompleteRound(),
        nameof(SaysCompleteTooEarly) => new SaysCompleteTooEarly(),
        nameof(DropsWholeRoundsAtPromotion) => new DropsWholeRoundsAtPromotion(),
        nameof(PromotesAfterGoodbye) => new PromotesAfterGoodbye(),
        nameof(TakesTheSupersededBack) => new TakesTheSupersededBack(),
        nameof(ForgetsReady) => new ForgetsReady(),
        nameof(StopsTheSenderWhileItFences) => new StopsTheSenderWhileItFences(),
        nameof(CutsOutputLate) => new CutsOutputLate(),
        nameof(AcknowledgesTooEarly) => new AcknowledgesTooEarly(),
        nameof(CommitsBeforeTheDigestCheck) => new CommitsBeforeTheDigestCheck(),
        nameof(PromotesAPartialRound) => new PromotesAPartialRound(),
        nameof(IgnoresTheGeneration) => new IgnoresTheGeneration(),
        _ => throw new ArgumentOutOfRangeException(nameof(name), name, "nobody planted this"),
    };

    private static int Setting(string name, int usual) =>
        Environment.GetEnvironmentVariable(name) is { Length: > 0 } text
            ? int.Parse(text, CultureInfo.InvariantCulture)
            : usual;
}
