using Curling.Protocol;
using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>Goodbyes, the operator, switchover, and what fails on the standby's side.</summary>
public sealed class ReceiverEndTests
{
    [Theory]
    [InlineData(GoodbyeReason.GuestShutdown)]
    [InlineData(GoodbyeReason.OperatorStop)]
    public void A_normal_end_is_never_a_promotion(GoodbyeReason reason)
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        string said = story.Happens(new ReceiverInput.PeerGoodbye(reason, "bye"));
        Assert.StartsWith("discard 3", said);
        Assert.EndsWith("state Ended, free", said);
        Assert.Equal("", story.CommitDone(2));
        Assert.Equal("", story.LinkLost());
        Assert.Equal("", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.DoesNotContain(story.Said, o => o is ReceiverOutput.Promote);
    }

    [Fact]
    public void A_crashed_QEMU_promotes_at_once()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        Assert.Equal(
            "close, state Promoting, promote 1",
            story.Happens(new ReceiverInput.PeerGoodbye(GoodbyeReason.QemuCrashed, "signal 11")));
    }

    [Fact]
    public void A_crashed_QEMU_is_held_where_the_operator_decides()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        Assert.Equal("close, held 1", story.Happens(new ReceiverInput.PeerGoodbye(GoodbyeReason.QemuCrashed, "signal 11")));
    }

    [Fact]
    public void A_crashed_QEMU_before_the_first_commit_ends_it()
    {
        ReceiverStory story = ReceiverStory.Connected();
        Assert.EndsWith(
            "state Ended, free", story.Happens(new ReceiverInput.PeerGoodbye(GoodbyeReason.QemuCrashed, "signal 11")));
    }

    [Fact]
    public void Promoted_by_the_operator_while_linked_tells_the_sender_that_it_is_superseded()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal(
            "discard 2, refuse Superseded, state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
    }

    [Fact]
    public void Promoted_by_the_operator_commits_what_is_whole_first()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
    }

    [Fact]
    public void A_promotion_asked_for_is_not_forgotten_when_the_sender_comes_back()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Happens(new ReceiverInput.PromoteAsked());
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
    }

    [Fact]
    public void There_is_nothing_to_promote_before_the_first_round_is_whole()
    {
        ReceiverStory story = ReceiverStory.Connected();
        story.Began(1);
        Assert.Equal("", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("say complete 1, commit 1", story.Whole(1));
        Assert.Equal("state Protected, say committed 1", story.CommitDone(1));
    }

    [Fact]
    public void The_last_round_of_a_switchover_is_committed_and_promoted()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        story.Began(2);
        Assert.Equal("say complete 2, commit 2", story.Whole(2, final: true));
        Assert.Equal("say committed 2, state Promoting, promote 2", story.CommitDone(2));
        Assert.Equal("state Promoted, say promoted 2", story.Happens(new ReceiverInput.PromotionDone()));
    }

    [Fact]
    public void The_rounds_before_the_last_one_come_first()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        story.Whole(3, final: true);
        Assert.Equal("say committed 2, commit 3", story.CommitDone(2));
        Assert.Equal("say committed 3, state Promoting, promote 3", story.CommitDone(3));
    }

    [Theory]
    [InlineData(FailureAction.Promote)]
    [InlineData(FailureAction.Hold)]
    public void A_switchover_goes_on_when_the_link_goes_after_its_last_round(FailureAction onFailure)
    {
        ReceiverStory story = ReceiverStory.InProtection(onFailure);
        story.Began(2);
        story.Whole(2, final: true);

        // Nobody is asked to decide: the sender has handed the guest over.
        Assert.DoesNotContain("held", story.LinkLost());
        Assert.False(story.Machine.IsHeld);

        // The sender's guest stands still: taken back, the sender would let it run on beside the promoted one; told to end, it could not
        // take the guest up again when it cannot be started here.
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
    }

    [Fact]
    public void A_last_round_still_in_line_refuses_the_sender_too()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        story.Whole(3, final: true);
        story.LinkLost();
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("commit 3", story.CommitDone(2));
        Assert.Equal("state Promoting, promote 3", story.CommitDone(3));
    }

    [Theory]
    [InlineData(GoodbyeReason.OperatorStop)]
    [InlineData(GoodbyeReason.QemuCrashed)]
    public void What_was_handed_over_goes_on_whatever_becomes_of_the_sender(GoodbyeReason reason)
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2, final: true);
        Assert.Equal("close", story.Happens(new ReceiverInput.PeerGoodbye(reason, "bye")));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
    }

    [Fact]
    public void After_the_last_round_no_other_may_begin()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2, final: true);
        Assert.Equal("refuse Protocol", story.Began(3));
        Assert.Equal("state Promoting, promote 2", story.CommitDone(2));
    }

    [Fact]
    public void A_promotion_that_fails_tells_a_sender_that_listens()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2, final: true);
        story.CommitDone(2);
        Assert.Equal(
            "refuse Host, state Failed, free", story.Happens(new ReceiverInput.PromotionFailed("no memory")));
    }

    [Fact]
    public void A_standby_that_fails_fails_the_session()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal(
            "discard 2, refuse Host, state Failed, free", story.Happens(new ReceiverInput.StandbyFailed("killed")));
        Assert.True(story.Machine.IsOver);
        Assert.Equal("", story.LinkLost());
    }

    [Fact]
    public void A_standby_that_never_started_fails_the_session()
    {
        ReceiverStory story = new();
        Assert.Equal("state Failed, free", story.Happens(new ReceiverInput.StandbyFailed("no such machine")));
    }

    [Fact]
    public void A_promoted_guest_that_ends_is_not_a_failed_standby()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.LinkLost();
        story.Happens(new ReceiverInput.PromotionDone());
        Assert.Equal("", story.Happens(new ReceiverInput.StandbyFailed("ended")));
        Assert.Equal("state Ended, free", story.Happens(new ReceiverInput.GuestEnded("powered off")));
    }

    [Fact]
    public void A_commit_that_fails_fails_the_session_and_nothing_is_promoted()
    {
        // The standby's memory may hold half of the round: it is no guest any more.
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        story.Began(3);
        story.Whole(3);
        story.LinkLost();
        Assert.Equal("state Failed, free", story.Happens(new ReceiverInput.CommitFailed(2, "no space")));
        Assert.Equal("", story.CommitDone(2));
        Assert.DoesNotContain(story.Said, o => o is ReceiverOutput.Promote);
    }

    [Fact]
    public void A_commit_that_fails_while_linked_tells_the_sender()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        story.Whole(2);
        Assert.Equal(
            "refuse Round, state Failed, free", story.Happens(new ReceiverInput.CommitFailed(2, "no space")));
    }

    [Fact]
    public void The_operator_gives_it_up()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("discard 2, close, state Ended, free", story.Happens(new ReceiverInput.EndAsked("discarded")));
        Assert.Equal("", story.Happens(new ReceiverInput.LinkUp()));
    }

    [Fact]
    public void Sender_that_comes_back_does_not_queue_behind_a_commit_that_hangs()
    {
        ReceiverStory story = ReceiverStory.InProtection();
        story.Began(2);
        Assert.Equal("say complete 2, commit 2", story.Whole(2));
        story.LinkLost();
        story.After(21_000);
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));

        // It lives, and so does its guest: what hung is not promoted beside it when it ends.
        Assert.Equal("", story.CommitDone(2));
        Assert.DoesNotContain("refuse", story.Happens(new ReceiverInput.LinkUp()));
    }
}
