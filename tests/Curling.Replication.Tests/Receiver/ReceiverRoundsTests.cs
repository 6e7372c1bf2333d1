using Curling.Protocol;
using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>Rounds arrive, become whole and are committed, in order; what does not fit is refused.</summary>
public sealed class ReceiverRoundsTests
{
    [Fact]
    public void Waiting_prefetching_protected()
    {
        ReceiverStory story = new();
        Assert.Equal("", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.StandbyReady()));
        Assert.Equal("state Prefetching", story.Began(1));
        Assert.Equal("say complete 1, commit 1", story.Whole(1));
        Assert.Equal(ReceiverState.Prefetching, story.Machine.State);
        Assert.Equal("state Protected, say committed 1", story.CommitDone(1));
        Assert.Equal(1, story.Machine.CommittedRound);
        Assert.Equal("", story.Began(2));
        Assert.Equal("say complete 2, commit 2", story.Whole(2));
        Assert.Equal("say committed 2", story.CommitDone(2));
    }

    [Fact]
    public void Whole_rounds_wait_in_line_and_commit_one_by_one()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("say complete 2, commit 2", story.Whole(2));
        story.Began(3);
        Assert.Equal("say complete 3", story.Whole(3));
        story.Began(4);
        Assert.Equal("say complete 4", story.Whole(4));
        Assert.Equal("say committed 2, commit 3", story.CommitDone(2));
        Assert.Equal("say committed 3, commit 4", story.CommitDone(3));
        Assert.Equal("say committed 4", story.CommitDone(4));
    }

    [Fact]
    public void A_partial_round_is_discarded_with_its_connection_and_the_next_base_counts()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.Began(2);
        Assert.Contains("discard 2", story.LinkLost());
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.Began(3, alone: true));
        Assert.Equal("say complete 3, commit 3", story.Whole(3));
    }

    [Fact]
    public void A_new_connection_before_the_old_one_is_known_lost_discards_what_was_open()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("discard 2, say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.Began(3, alone: true));
        Assert.Equal("say complete 3, commit 3", story.Whole(3));
    }

    [Fact]
    public void An_abandoned_round_is_discarded_and_its_number_stays_free()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("discard 2", story.Happens(new ReceiverInput.RoundAbandoned(2)));
        Assert.Equal("", story.Began(2));
        Assert.Equal("say complete 2, commit 2", story.Whole(2));
    }

    [Fact]
    public void A_new_connection_goes_on_where_the_line_of_the_old_one_stands()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        story.Whole(3);
        story.LinkLost();
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));

        // The new connection's sender waits for round 5 and knows nothing of these any more.
        Assert.Equal("commit 3", story.CommitDone(2));
        story.Began(5, alone: true);
        Assert.Equal("say complete 5", story.Whole(5));
        Assert.Equal("commit 5", story.CommitDone(3));
        Assert.Equal("say committed 5", story.CommitDone(5));
    }

    public static TheoryData<string, ReceiverInput, RefusalCode> WrongRounds() => new()
    {
        { "already whole", Begin(1, 0, RoundKind.Base), RefusalCode.Round },
        { "a gap", Begin(4, 3, RoundKind.Incremental), RefusalCode.Round },
        { "an end without a beginning", End(2), RefusalCode.Protocol },
        { "abandoned without a beginning", new ReceiverInput.RoundAbandoned(2), RefusalCode.Protocol },
    };

    [Theory]
    [MemberData(nameof(WrongRounds))]
    public void A_round_that_does_not_fit_is_refused_and_changes_nothing(string what, ReceiverInput input, RefusalCode code)
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.True(story.Happens(input) == $"refuse {code}", what);
        Assert.Equal(1, story.Machine.CommittedRound);
        Assert.Equal(ReceiverState.Protected, story.Machine.State);
    }

    [Fact]
    public void A_round_inside_another_is_refused_and_both_are_gone()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("discard 2, refuse Protocol", story.Began(3, alone: true));
        Assert.Equal(1, story.Machine.CommittedRound);
    }

    [Fact]
    public void The_end_of_another_round_than_the_open_one_is_refused()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("discard 2, refuse Protocol", story.Whole(3));
    }

    [Fact]
    public void Rounds_before_the_standby_waits_are_refused()
    {
        ReceiverStory story = new();
        story.Happens(new ReceiverInput.LinkUp());
        Assert.Equal("refuse Protocol", story.Began(1));
    }

    [Fact]
    public void Damage_discards_the_open_round_and_the_whole_one_before_it_is_committed()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        Assert.Equal("discard 3, refuse Round", story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest")));
        Assert.Equal("", story.CommitDone(2));
        Assert.Equal(2, story.Machine.CommittedRound);
    }

    [Fact]
    public void Damage_in_the_first_round_goes_back_to_waiting()
    {
        ReceiverStory story = ReceiverStory.Connected();
        story.Began(1);
        Assert.Equal(
            "discard 1, refuse Round, state Waiting", story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest")));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Prefetching", story.Began(2, alone: true));
    }

    [Fact]
    public void A_commit_that_nobody_asked_for_is_not_one()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.Equal("", story.CommitDone(9));
        Assert.Equal(1, story.Machine.CommittedRound);
    }

    private static ReceiverInput.RoundBegan Begin(long round, long parent, RoundKind kind) =>
        new(new RoundBegin(round, parent, kind, 0));

    private static ReceiverInput.RoundWhole End(long round) =>
        new(new RoundEnd(round, false, 0, default, default));
}
