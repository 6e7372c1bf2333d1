using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>With an arbiter: nothing is promoted without the right, nor before what was vouched for is over.</summary>
public sealed class ReceiverRightTests
{
    [Fact]
    public void The_right_is_taken_before_a_promotion()
    {
        ReceiverStory story = Arbitrated();
        Assert.Equal("close, take right 1", story.LinkLost());
        Assert.Equal("", story.After(1000));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.RightTaken()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
    }

    [Fact]
    public void A_right_that_another_has_is_asked_for_again_and_again()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        Assert.Equal("", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it")));
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("", story.After(99));
        Assert.Equal("take right 1", story.After(1));
        story.Happens(new ReceiverInput.RightTaken());
        Assert.Equal(ReceiverState.Promoting, story.Machine.State);
    }

    [Fact]
    public void An_arbiter_that_does_not_answer_refuses_the_failover_and_is_asked_again()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("", story.After(400));
        Assert.Equal("take right 1", story.After(100));
    }

    [Fact]
    public void A_sender_that_comes_back_between_two_attempts_goes_on()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it"));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.False(story.Machine.IsHeld);
        Assert.Equal("", story.After(200));
    }

    [Fact]
    public void A_sender_that_comes_back_when_the_right_was_taken_is_superseded()
    {
        ReceiverStory story = Arbitrated();
        Vouched(story);
        story.LinkLost();
        story.Happens(new ReceiverInput.RightTaken());
        Assert.Equal(ReceiverState.Protected, story.Machine.State);
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
    }

    [Fact]
    public void What_was_vouched_for_is_over_before_a_promotion_also_with_the_right()
    {
        ReceiverStory story = Arbitrated();
        Vouched(story);
        story.After(100);
        story.LinkLost();
        Assert.Equal("", story.Happens(new ReceiverInput.RightTaken()));
        Assert.Equal("", story.After(2899));
        Assert.Equal("state Promoting, promote 1", story.After(1));
    }

    [Fact]
    public void What_an_earlier_receiver_may_have_vouched_for_is_kept_too()
    {
        ReceiverStory story = Arbitrated(old: false);
        story.LinkLost();
        Assert.Equal("", story.Happens(new ReceiverInput.RightTaken()));
        Assert.Equal("state Promoting, promote 1", story.After(3000));
    }

    [Fact]
    public void A_crash_of_the_primarys_QEMU_voids_what_was_vouched_for()
    {
        ReceiverStory story = Arbitrated();
        Vouched(story);
        Assert.Equal("close, take right 1", story.Happens(new ReceiverInput.PeerGoodbye(Protocol.GoodbyeReason.QemuCrashed, "")));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.RightTaken()));
    }

    [Fact]
    public void A_switchover_takes_the_right_as_soon_as_the_sender_gives_it_back()
    {
        ReceiverStory story = Arbitrated();
        Vouched(story);
        story.Began(2);
        Assert.Equal("say complete 2, commit 2", story.Whole(2, final: true));
        Assert.EndsWith("take right 2", story.CommitDone(2), StringComparison.Ordinal);
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it"));
        Assert.Equal("take right 2", story.After(20));
        Assert.StartsWith("state Promoting", story.Happens(new ReceiverInput.RightTaken()), StringComparison.Ordinal);
    }

    [Fact]
    public void Nothing_is_vouched_for_once_the_guest_may_be_taken_over()
    {
        ReceiverStory story = Arbitrated();
        story.Began(2);
        story.Whole(2, final: true);
        Assert.Equal("", story.Happens(new ReceiverInput.VouchAsked(7, ReceiverStory.Ms(3000))));
    }

    [Fact]
    public void A_round_that_is_out_of_date_is_never_promoted()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Superseded, "generation 3"));
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("", story.After(10_000));
    }

    [Fact]
    public void The_arbiter_is_asked_first_and_then_the_primary_is_fenced()
    {
        ReceiverStory story = Arbitrated(fences: true);
        story.LinkLost();
        Assert.Empty(story.Said.OfType<ReceiverOutput.Promote>());
        story.Happens(new ReceiverInput.RightTaken());
        Assert.True(Assert.Single(story.Said.OfType<ReceiverOutput.Promote>()).Fence);
        Assert.Equal("state Protected, held 1", story.Happens(new ReceiverInput.FenceFailed("no power switch")));

        // The generation has risen: this sender's guest may not go on, whatever became of the fence.
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
    }

    [Fact]
    public void The_operator_needs_the_right_too()
    {
        ReceiverStory story = Arbitrated(FailureAction.Hold);
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.PromoteAsked()));
        story.LinkLost();
        Assert.Equal("take right 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer")));
        Assert.Equal("", story.After(1000));
        Assert.Equal("take right 1", story.Happens(new ReceiverInput.PromoteAsked()));
        story.Happens(new ReceiverInput.RightTaken());
        Assert.Equal(ReceiverState.Promoting, story.Machine.State);
    }

    [Fact]
    public void The_operator_waits_for_a_right_that_runs_out_and_hears_of_one_that_does_not()
    {
        ReceiverStory story = Arbitrated(FailureAction.Hold);
        story.LinkLost();
        story.Happens(new ReceiverInput.PromoteAsked());
        Assert.Equal("", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it")));
        Assert.Equal("take right 1", story.After(8000));
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it")));
        Assert.Equal("", story.After(1000));
    }

    [Fact]
    public void An_operator_who_is_refused_ends_no_failover_that_waits_by_itself()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        story.Happens(new ReceiverInput.PromoteAsked());
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer")));
        Assert.Equal("take right 1", story.After(500));
    }

    [Fact]
    public void An_operator_who_is_refused_ends_no_failover_that_came_due_meanwhile()
    {
        ReceiverStory story = Arbitrated();
        story.Happens(new ReceiverInput.PeerRefused("given up"));
        Assert.Equal("take right 1", story.Happens(new ReceiverInput.PromoteAsked()));
        story.After(1000);
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer")));
        Assert.Equal("take right 1", story.After(500));
    }

    [Fact]
    public void An_operator_who_has_made_sure_himself_needs_no_arbiter()
    {
        ReceiverStory story = Arbitrated();
        Vouched(story);
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked(Arbiter: false)));
    }

    [Fact]
    public void A_sender_that_comes_back_ends_what_the_operator_asked_for()
    {
        ReceiverStory story = Arbitrated(FailureAction.Hold);
        story.LinkLost();
        story.Happens(new ReceiverInput.PromoteAsked());
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it"));
        Assert.Equal("promotion refused, say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("", story.After(1000));
    }

    /// <summary>Without the arbiter, but with a fence that then fails: that was for this once.</summary>
    [Fact]
    public void What_the_operator_waived_is_not_waived_when_the_fence_has_failed()
    {
        ReceiverStory story = Arbitrated(fences: true);
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked(Arbiter: false)));
        story.Happens(new ReceiverInput.FenceFailed("no power switch"));
        story.After(1000);
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("close, take right 1", story.LinkLost());
    }

    [Fact]
    public void What_the_operator_waived_is_not_waived_when_the_arbiter_has_refused_him()
    {
        ReceiverStory story = Arbitrated(fences: true);
        story.LinkLost();
        story.Happens(new ReceiverInput.PromoteAsked(Fence: false));
        Assert.Equal("promotion refused", story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer")));
        story.After(1000);
        story.Happens(new ReceiverInput.RightTaken());
        Assert.True(Assert.Single(story.Said.OfType<ReceiverOutput.Promote>()).Fence);
    }

    [Fact]
    public void A_right_that_comes_after_a_promotion_without_it_is_there()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        story.Happens(new ReceiverInput.PromoteAsked(Arbiter: false));
        story.Happens(new ReceiverInput.PromotionDone());
        Assert.False(story.Machine.HasRight);
        Assert.Equal("", story.Happens(new ReceiverInput.RightTaken()));
        Assert.True(story.Machine.HasRight);
    }

    [Fact]
    public void A_standby_whose_primary_has_renewed_its_right_since_is_not_promoted_by_itself()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        RefusedFor(story, 5000);
        Assert.Equal("take right 1", story.After(100));
        Assert.Equal("left behind 1", story.Happens(Held));
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("", story.After(3_600_000));

        // The operator may still, when the primary is gone.
        Assert.Equal("take right 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.RightTaken()));
    }

    [Fact]
    public void A_standby_that_was_left_behind_is_one_again_when_its_sender_comes_back()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        RefusedFor(story, 5200);
        Assert.Single(story.Said.OfType<ReceiverOutput.LeftBehind>());
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.Equal("close, take right 1", story.LinkLost());
        RefusedFor(story, 5000);
        Assert.Single(story.Said.OfType<ReceiverOutput.LeftBehind>());
    }

    [Fact]
    public void A_time_without_the_arbiter_says_nothing_of_its_holder()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        RefusedFor(story, 4000);
        story.After(100);
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Unreachable, "no answer"));
        story.After(500);
        story.Happens(Held);
        RefusedFor(story, 4900, asked: false);
        Assert.Empty(story.Said.OfType<ReceiverOutput.LeftBehind>());
    }

    [Fact]
    public void A_lease_of_the_senders_that_lives_longer_is_waited_for()
    {
        ReceiverStory story = Arbitrated();
        story.LinkLost();
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it", ReceiverStory.Ms(10_000)));
        story.After(11_900);
        story.Happens(new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it", ReceiverStory.Ms(10_000)));
        Assert.Empty(story.Said.OfType<ReceiverOutput.LeftBehind>());
    }

    [Fact]
    public void Nothing_is_vouched_for_longer_than_a_later_receiver_waits()
    {
        ReceiverStory story = Arbitrated();
        story.Happens(new ReceiverInput.VouchAsked(8, ReceiverStory.Ms(60_000)));
        Assert.Equal(ReceiverStory.Ms(3000), Assert.Single(story.Said.OfType<ReceiverOutput.SendVouch>()).Time);
    }

    [Fact]
    public void What_an_earlier_receiver_may_have_vouched_for_is_as_long_as_the_senders_right()
    {
        ReceiverStory story = Arbitrated(old: false, senderTtl: 8000);
        story.LinkLost();
        Assert.Equal("", story.Happens(new ReceiverInput.RightTaken()));
        Assert.Equal("", story.After(7999));
        Assert.Equal("state Promoting, promote 1", story.After(1));
    }

    private static ReceiverInput Held => new ReceiverInput.RightRefused(RightRefusal.Held, "the sender has it");

    /// <summary>The arbiter says for so long, from the first time on, that the sender has the right.</summary>
    private static void RefusedFor(ReceiverStory story, int milliseconds, bool asked = true)
    {
        if (asked)
        {
            story.Happens(Held);
        }

        for (int past = 0; past < milliseconds; past += 100)
        {
            story.After(100);
            story.Happens(Held);
        }
    }

    private static void Vouched(ReceiverStory story) =>
        Assert.Equal("vouch 7", story.Happens(new ReceiverInput.VouchAsked(7, ReceiverStory.Ms(3000))));

    /// <summary>Round 1 is committed; unless it is new, the session is older than any vouch of a receiver before it.</summary>
    private static ReceiverStory Arbitrated(FailureAction onFailure = FailureAction.Promote, bool fences = false, bool old = true, int senderTtl = 0)
    {
        ReceiverStory story = new(new ReceiverSettings(onFailure, ReceiverStory.Ms(500))
        {
            Fences = fences,
            RightTtl = ReceiverStory.Ms(3000),
            SenderTtl = ReceiverStory.Ms(senderTtl),
        });
        story.Happens(new ReceiverInput.StandbyReady());
        story.Happens(new ReceiverInput.LinkUp());
        story.Began(1);
        story.Whole(1);
        story.CommitDone(1);
        if (old)
        {
            story.After(3000);
        }

        return story;
    }
}
