namespace Curling.Simulation.Checks;

/// <summary>The rules, by the names under which a violation is reported.</summary>
internal static class Rules
{
    public const string AllOrNothing = "the standby's state is exactly one round's";
    public const string CommitOrder = "rounds commit in order, once, and only whole";
    public const string OutputCommit = "output leaves only after the receiver said complete";
    public const string NothingLost = "a promotion uses the last whole round";
    public const string NormalEnd = "a normal end is never a promotion";
    public const string InFlight = "rounds in flight are bounded and in order";
    public const string Switchover = "after the last round the guest stands still";
    public const string OneGuest = "one guest runs";
    public const string OneActive = "with an arbiter one copy runs, and only its output leaves";
    public const string Waived = "what the operator does without is not waived for good";
    public const string Generation = "a sender that hears of a newer generation stops its guest";
    public const string Silence = "after promotion or the end nothing more is said";
    public const string Answers = "an answer of an honest receiver fits";
    public const string States = "states say what is so";
    public const string Restart = "a receiver that starts again finds the committed round";
    public const string Lateness = "one's own lateness is not the peer's silence";
    public const string Progress = "after faults heal the pair settles";

    /// <summary>Checks a rule.</summary>
    /// <exception cref="PairViolationException">It does not hold.</exception>
    public static void Check(bool holds, string rule, string message)
    {
        if (!holds)
        {
            throw new PairViolationException(rule, message);
        }
    }
}
