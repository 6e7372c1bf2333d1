using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>A primary that may live: what silence means, and what a fence that fails leaves.</summary>
public sealed class ReceiverFenceTests
{
    [Fact]
    public void Primary_is_fenced_before_a_promotion()
    {
        ReceiverStory story = Fencing();
        story.LinkLost();
        Assert.True(Assert.Single(story.Said.OfType<ReceiverOutput.Promote>()).Fence);
    }

    [Fact]
    public void Primary_that_hands_its_guest_over_is_not_fenced()
    {
        ReceiverStory story = Fencing();
        story.Began(2);
        story.Whole(2, final: true);
        story.CommitDone(2);
        Assert.False(Assert.Single(story.Said.OfType<ReceiverOutput.Promote>()).Fence);
    }

    [Fact]
    public void Fence_that_fails_leaves_the_round_held()
    {
        ReceiverStory story = Fencing();
        story.LinkLost();
        Assert.Equal("state Protected, held 1", story.Happens(new ReceiverInput.FenceFailed("no power switch")));
        Assert.True(story.Machine.IsHeld);
        Assert.Equal("state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Promoted", story.Happens(new ReceiverInput.PromotionDone()));
    }

    [Fact]
    public void Sender_that_comes_back_while_it_is_fenced_is_not_told_to_stop()
    {
        ReceiverStory story = Fencing();
        story.LinkLost();
        Assert.Equal("refuse Round", story.Happens(new ReceiverInput.LinkUp()));
        story.Happens(new ReceiverInput.Fenced());
        Assert.Equal("refuse Superseded", story.Happens(new ReceiverInput.LinkUp()));
    }

    [Fact]
    public void Sender_that_comes_back_after_a_failed_fence_goes_on()
    {
        ReceiverStory story = Fencing();
        story.LinkLost();
        story.Happens(new ReceiverInput.FenceFailed("no power switch"));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
        Assert.False(story.Machine.IsHeld);
    }

    [Fact]
    public void Standby_that_ends_while_the_fence_fails_is_a_failure()
    {
        ReceiverStory story = Fencing();
        story.LinkLost();
        Assert.Equal("", story.Happens(new ReceiverInput.StandbyFailed("crashed")));
        Assert.Equal("state Failed, free", story.Happens(new ReceiverInput.FenceFailed("no power switch")));
    }

    [Fact]
    public void Silence_is_held_where_it_should_be_and_a_closed_connection_is_not()
    {
        ReceiverStory story = Cautious();
        Assert.Equal("close, held 1", story.After(501, heard: false));
        Assert.True(story.Machine.IsHeld);
        story = Cautious();
        Assert.Equal("close, held 1", story.Happens(new ReceiverInput.LinkLost("no route to host", Silent: true)));
        story = Cautious();
        Assert.Contains("promote 1", story.LinkLost());
    }

    [Fact]
    public void What_is_held_at_failures_is_held_at_silence()
    {
        ReceiverStory story = ReceiverStory.InProtection(FailureAction.Hold);
        Assert.Equal("close, held 1", story.After(501, heard: false));
    }

    [Fact]
    public void Operator_who_has_made_sure_himself_needs_no_fence()
    {
        ReceiverStory story = Fencing();
        Assert.StartsWith("refuse Superseded", story.Happens(new ReceiverInput.PromoteAsked(Fence: false)), StringComparison.Ordinal);
        Assert.False(Assert.Single(story.Said.OfType<ReceiverOutput.Promote>()).Fence);
    }

    [Fact]
    public void Sender_is_not_told_to_stop_before_it_is_fenced()
    {
        ReceiverStory story = Fencing();
        Assert.Equal("refuse Round, state Promoting, promote 1", story.Happens(new ReceiverInput.PromoteAsked()));
        Assert.Equal("state Protected, held 1", story.Happens(new ReceiverInput.FenceFailed("no power switch")));
        Assert.Equal("say ready", story.Happens(new ReceiverInput.LinkUp()));
    }

    private static ReceiverStory Cautious() =>
        Protected(new ReceiverSettings(FailureAction.Promote, ReceiverStory.Ms(500)) { OnSilence = FailureAction.Hold });

    private static ReceiverStory Fencing() => Protected(new ReceiverSettings(FailureAction.Promote, ReceiverStory.Ms(500)) { Fences = true });

    private static ReceiverStory Protected(ReceiverSettings settings)
    {
        ReceiverStory story = new(settings);
        story.Happens(new ReceiverInput.StandbyReady());
        story.Happens(new ReceiverInput.LinkUp());
        story.Began(1);
        story.Whole(1);
        story.CommitDone(1);
        return story;
    }
}
