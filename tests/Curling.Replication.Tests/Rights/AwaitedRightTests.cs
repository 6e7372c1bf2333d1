using Curling.Replication.Rights;

namespace Curling.Replication.Tests.Rights;

/// <summary>A guest that is started anew does not take the right away from the standby that waits for it.</summary>
public sealed class AwaitedRightTests
{
    private readonly AwaitedRight _awaited = new(TimeSpan.FromSeconds(3));

    [Fact]
    public void A_right_that_nobody_had_is_taken_at_once() => Assert.True(_awaited.MayTake);

    [Fact]
    public void A_right_that_another_had_is_taken_when_it_has_been_free_for_long_enough()
    {
        _awaited.Held();
        Assert.False(_awaited.MayTake);
        _awaited.Free(TimeSpan.FromSeconds(10));
        _awaited.Free(TimeSpan.FromSeconds(17.9));
        Assert.False(_awaited.MayTake);
        _awaited.Free(TimeSpan.FromSeconds(18));
        Assert.True(_awaited.MayTake);
    }

    [Fact]
    public void Who_takes_it_meanwhile_or_an_arbiter_that_does_not_answer_makes_the_wait_begin_anew()
    {
        _awaited.Held();
        _awaited.Free(TimeSpan.FromSeconds(1));
        _awaited.Held();
        _awaited.Free(TimeSpan.FromSeconds(8));
        _awaited.Unanswered();
        _awaited.Free(TimeSpan.FromSeconds(10));
        _awaited.Free(TimeSpan.FromSeconds(17.9));
        Assert.False(_awaited.MayTake);
        _awaited.Free(TimeSpan.FromSeconds(18));
        Assert.True(_awaited.MayTake);
    }

    [Fact]
    public void An_attempt_without_an_answer_is_made_again_at_once()
    {
        _awaited.Unanswered();
        Assert.True(_awaited.MayTake);
    }
}
