using Curling.Protocol;
using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>The primary is lost: what counts as lost, from which round the guest goes on, and who decides.</summary>
public sealed class ReceiverLossTests
{
    [Fact]
    public void A_closed_connection_promotes_at_once()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.Contains("state Promoting, promote 1", story.LinkLost());
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
        Assert.Equal("state Ended, free", story.Happens(new ReceiverInput.GuestEnded("powered off")));
    }

    [Fact]
    public void Silence_promotes_after_the_timeout_and_not_before()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.Equal("", story.After(500, heard: false));
        Assert.Equal("", story.After(60_000, heard: true));
        Assert.Equal("close, state Promoting, promote 1", story.After(501, heard: false));
    }

    [Fact]
    public void A_partial_round_is_discarded_and_the_committed_one_promoted()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        string said = story.LinkLost();
        Assert.StartsWith("discard 2", said);
        Assert.EndsWith("promote 1", said);
    }

    [Fact]
    public void Every_whole_round_is_committed_before_the_promotion()
    {
        // Their output may have left the primary: a guest that went on from round 1 would contradict it.
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        story.Whole(3);
        story.Began(4);
        string said = story.LinkLost();
        Assert.Contains("discard 4", said);
        Assert.DoesNotContain("promote", said);
        Assert.Equal("commit 3", story.CommitDone(2));
        Assert.Equal("state Promoting, promote 3", story.CommitDone(3));
    }

    [Fact]
    public void A_first_round_that_is_whole_is_enough_to_promote()
    {
        ReceiverStory story = ReceiverStory.Connected();
        story.Began(1);
        story.Whole(1);
        Assert.DoesNotContain("promote", story.LinkLost());
        Assert.Equal("state Protected, state Promoting, promote 1", story.CommitDone(1));
    }

    [Fact]
    public void With_nothing_committed_it_ends_and_does_not_promote()
    {
        ReceiverStory story = ReceiverStory.Connected();
        story.Began(1);
        string said = story.LinkLost();
        Assert.StartsWith("discard 1", said);
        Assert.EndsWith("state Ended, free", said);
        Assert.True(story.Machine.IsOver);
    }

    [Fact]
    public void Held_until_the_operator_promotes()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        Assert.Contains("held 1", story.LinkLost());
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("", story.After(60_000));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.False(story.Machine.IsHeld);
    }

    [Fact]
    public void Held_rounds_that_are_whole_are_committed_meanwhile()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.Began(2);
        story.Whole(2);
        Assert.Contains("held 2", story.LinkLost());
        Assert.Equal("", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
    }

    [Fact]
    public void A_sender_that_comes_back_while_held_is_protected_again()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.LinkLost();
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.False(story.Machine.IsHeld);
        story.Began(2, alone: true);
        Assert.Equal("say complete 2, commit 2", story.Whole(2));
    }

    [Fact]
    public void A_refused_sender_has_time_to_come_back()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest")));
        Assert.Equal("", story.After(499));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.After(60_000));
    }

    [Fact]
    public void A_refused_sender_that_stays_away_is_lost()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest"));
        Assert.Equal("state Promoting, promote 1", story.After(500));
    }

    [Fact]
    public void A_refused_sender_that_stays_away_is_held_once()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest"));
        Assert.Equal("held 1", story.After(500));

        // Stragglers of the closed connection start no new clock.
        story.Began(2);
        story.Whole(2);
        Assert.Equal("", story.After(60_000));
    }

    [Fact]
    public void A_refused_sender_without_a_committed_round_ends_it_when_it_stays_away()
    {
        ReceiverStory story = ReceiverStory.Connected();
        story.Began(1);
        story.Happens(new ReceiverInput.Damaged(RefusalCode.Round, "digest"));
        Assert.Equal("state Ended, free", story.After(500));
    }

    [Fact]
    public void A_sender_that_comes_back_before_the_promotion_began_keeps_its_guest()
    {
        // The primary lives, its guest runs on: starting the standby as well would make two of them.
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.LinkLost();
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.CommitDone(2));
        Assert.Equal("", story.Began(3, alone: true));
        Assert.Equal("say complete 3, commit 3", story.Whole(3));
        Assert.Equal(ReceiverState.Protected, story.Machine.State);
    }

    [Fact]
    public void A_sender_that_comes_back_after_the_promotion_began_must_stop_its_guest()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.LinkLost();
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.After(60_000, heard: false));
    }
}
