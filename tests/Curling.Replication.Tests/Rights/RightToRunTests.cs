using CsCheck;
using Curling.Replication.Rights;

namespace Curling.Replication.Tests.Rights;

/// <summary>The right to run a guest: never used for longer than it was given, whatever is late.</summary>
public sealed class RightToRunTests
{
    private static readonly TimeSpan Ttl = TimeSpan.FromSeconds(3);

    [Fact]
    public void There_is_none_before_it_is_given()
    {
        RightToRun right = new();
        right.Renewed(At(1000), Ttl);
        right.Vouched(At(1000), Ttl);
        Assert.False(right.IsValid(At(1000)));
    }

    [Fact]
    public void It_counts_from_when_it_was_asked_for_and_less_than_was_promised()
    {
        RightToRun right = new();
        right.Granted(At(1000), Ttl);
        Assert.True(right.IsValid(At(3499)));
        Assert.False(right.IsValid(At(3500)));
        right.Renewed(At(2000), Ttl);
        Assert.True(right.IsValid(At(4499)));
        Assert.False(right.IsValid(At(4500)));
    }

    [Fact]
    public void An_answer_that_comes_late_shortens_nothing()
    {
        RightToRun right = new();
        right.Granted(At(2000), Ttl);
        right.Renewed(At(1000), Ttl);
        Assert.Equal(At(4500), right.ValidUntil);
    }

    [Fact]
    public void A_vouch_carries_on_when_the_lease_ends_and_gives_it_back_after_that()
    {
        RightToRun right = new();
        right.Granted(At(0), Ttl);
        right.Vouched(At(2000), Ttl);
        Assert.False(right.IsVouched(At(2400)));
        Assert.True(right.IsVouched(At(2600)));
        Assert.False(right.IsValid(At(4500)));
        right.Vouched(At(9000), Ttl);
        Assert.True(right.IsValid(At(9100)));
    }

    [Fact]
    public void What_was_given_back_is_revived_by_no_answer_that_is_still_on_its_way()
    {
        RightToRun right = new();
        right.Granted(At(0), Ttl);
        right.Withdrawn();
        right.Renewed(At(100), Ttl);
        right.Vouched(At(100), Ttl);
        Assert.False(right.IsValid(At(100)));
        right.Granted(At(200), Ttl);
        Assert.True(right.IsValid(At(200)));
    }

    /// <summary>
    /// An arbiter and a receiver whose clocks run up to 5 % faster, answers that take any time, a holder that stands still at any step:
    /// never does it use a right that may have ended there.
    /// </summary>
    [Fact]
    public void It_never_outlives_what_was_promised()
    {
        Gen<(int Kind, int Way, int Back, int Stall, int Ttl)> step = Gen.Select(
            Gen.Int[0, 3], Gen.Int[0, 2_000], Gen.Int[0, 2_000], Gen.Int[0, 6_000], Gen.Int[1, 6]);
        Gen.Select(Gen.Double[0.95, 1.05], step.Array[1, 40]).Sample((speed, steps) =>
        {
            RightToRun right = new();
            double now = 1_000;
            double leaseEnds = 0;
            double vouchEnds = 0;
            foreach ((int kind, int way, int back, int stall, int seconds) in steps)
            {
                // Asked now, done there after the way, known here after the way back and however long we stood still.
                TimeSpan askedAt = At(now);
                double promised = seconds * 1000 / speed;
                double ends = now + way + promised;
                now += way;
                switch (kind)
                {
                    case 0 or 1:
                        leaseEnds = Math.Max(leaseEnds, ends);
                        break;
                    case 2:
                        vouchEnds = Math.Max(vouchEnds, ends);
                        break;
                    default:
                        leaseEnds = vouchEnds = 0;
                        right.Withdrawn();
                        break;
                }

                now += back + stall;
                switch (kind)
                {
                    case 0:
                        right.Granted(askedAt, TimeSpan.FromSeconds(seconds));
                        break;
                    case 1:
                        right.Renewed(askedAt, TimeSpan.FromSeconds(seconds));
                        break;
                    case 2:
                        right.Vouched(askedAt, TimeSpan.FromSeconds(seconds));
                        break;
                }

                foreach (double later in (double[])[0, 1, 500, 2_500, 6_000])
                {
                    double then = now + later;
                    Assert.False(right.IsValid(At(then)) && then >= Math.Max(leaseEnds, vouchEnds), $"at {then} ms, ended at {leaseEnds} and {vouchEnds}");
                }
            }
        }, iter: 20_000);
    }

    private static TimeSpan At(double milliseconds) => TimeSpan.FromMilliseconds(milliseconds);
}
