using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>A receiver that was started anew stands at a round of the one before: it is there for the operator, and for the sender.</summary>
public sealed class ReceiverRestoredTests
{
    [Fact]
    public void It_is_held_and_never_promotes_by_itself()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        Assert.True(story.Machine.IsHeld);
        Assert.Equal(ReceiverState.Protected, story.Machine.State);
        Assert.Equal(7, story.Machine.CommittedRound);
        Assert.Equal("", story.After(60_000, heard: false));
        Assert.DoesNotContain(story.Said, o => o is ReceiverOutput.Promote);
    }

    [Fact]
    public void The_operator_promotes_it()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        Assert.Equal("state Promoting, promote 7", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
    }

    [Fact]
    public void The_operator_may_be_faster_than_the_standby()
    {
        ReceiverStory story = ReceiverStory.Restored(7, standbyReady: false);
        Assert.Equal("", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Contains("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Promoting, promote 7", story.Happens(new ReceiverInput.StandbyReady()));
    }

    [Fact]
    public void A_sender_that_comes_back_goes_on_from_a_round_that_stands_alone()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.False(story.Machine.IsHeld);
        Assert.Equal("", story.Began(9, alone: true));
        Assert.Contains("commit 9", story.Whole(9));
        Assert.Equal("say committed 9", story.CommitDone(9));

        // From here on it is a pair like any other.
        Assert.Contains("promote 9", story.LinkLost());
    }

    [Fact]
    public void A_sender_lost_before_its_new_round_is_committed_leaves_it_held()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        story.Happens(new ReceiverInput.LinkUp());
        story.Began(9, alone: true);
        string said = story.LinkLost();
        Assert.StartsWith("discard 9", said);
        Assert.DoesNotContain("promote", said);
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("state Promoting, promote 7", story.Happens(new ReceiverInput.PromoteAsked()));
    }

    [Fact]
    public void A_new_round_that_is_whole_when_the_sender_is_lost_is_committed_and_promoted()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        story.Happens(new ReceiverInput.LinkUp());
        story.Began(9, alone: true);
        story.Whole(9);
        Assert.DoesNotContain("promote", story.LinkLost());
        Assert.EndsWith("promote 9", story.CommitDone(9));
    }

    [Fact]
    public void A_new_round_that_cannot_be_committed_does_not_bring_the_old_one_up()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        story.Happens(new ReceiverInput.LinkUp());
        story.Began(9, alone: true);
        story.Whole(9);
        story.LinkLost();
        Assert.DoesNotContain("promote", story.Happens(new ReceiverInput.CommitFailed(9, "no room")));
        Assert.Equal(ReceiverState.Failed, story.Machine.State);
    }

    [Fact]
    public void Rounds_that_build_on_what_it_does_not_have_are_refused()
    {
        ReceiverStory story = ReceiverStory.Restored(7);
        story.Happens(new ReceiverInput.LinkUp());
        Assert.Contains("refuse", story.Began(9));
        Assert.Equal(7, story.Machine.CommittedRound);
    }
}
