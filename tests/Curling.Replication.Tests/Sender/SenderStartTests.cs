using Curling.Protocol;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>From the guest's start to protection, and every way the receiver says no.</summary>
public sealed class SenderStartTests
{
    [Fact]
    public void Start_base_protected()
    {
        SenderStory story = new();
        Assert.Equal("", story.After(5_000));
        Assert.Equal("connect", story.Happens(new SenderInput.GuestStarted()));
        Assert.Equal(SenderState.Starting, story.Machine.State);
        Assert.Equal("hold from 1, state Base, capture 1 base", story.Happens(new SenderInput.Ready()));
        Assert.Equal("", story.Happens(new SenderInput.Captured(1)));
        Assert.Equal("release 1", story.Happens(new SenderInput.Completed(1)));
        Assert.Equal(SenderState.Base, story.Machine.State);
        Assert.Equal("state Protected", story.Happens(new SenderInput.Committed(1)));
        Assert.Equal("", story.After(9));
        Assert.Equal("capture 2 on 1", story.After(1));
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
        Assert.Equal("", story.Happens(new SenderInput.Committed(2)));
        Assert.Equal(2, story.Machine.CommittedRound);
    }

    [Fact]
    public void Full_rounds_each_stand_alone()
    {
        SenderStory story = SenderStory.InBase(incremental: false);
        Assert.Contains("capture 1 full", story.Said.Select(Words.Of));
        story.Round(1);
        Assert.Equal("capture 2 full", story.After(10));
        story.Round(2);
        Assert.Equal("capture 3 full", story.After(10));
    }

    [Fact]
    public void Nothing_leaves_because_a_round_was_merely_captured()
    {
        SenderStory story = SenderStory.InBase();
        story.Happens(new SenderInput.Captured(1));
        story.After(10_000);
        Assert.DoesNotContain(story.Said, o => o is SenderOutput.ReleaseOutput or SenderOutput.ReleaseAllOutput);
    }

    [Fact]
    public void The_receiver_may_answer_before_the_capture_is_reported()
    {
        // The end of a round is on the wire a moment before the capture's own task reports it.
        SenderStory story = SenderStory.InBase();
        Assert.Equal("release 1", story.Happens(new SenderInput.Completed(1)));
        Assert.Equal("state Protected", story.Happens(new SenderInput.Committed(1)));
        Assert.Equal("", story.Happens(new SenderInput.Captured(1)));
        Assert.Equal("capture 2 on 1", story.After(10));
    }

    [Fact]
    public void The_next_tick_says_when_the_machine_wants_to_be_stepped()
    {
        SenderStory story = new();
        Assert.Null(story.Machine.NextTick);
        story.Happens(new SenderInput.GuestStarted());
        Assert.Null(story.Machine.NextTick);
        story.Happens(new SenderInput.Ready());
        Assert.Null(story.Machine.NextTick);
        story.Happens(new SenderInput.Captured(1));
        Assert.Equal(SenderStory.Ms(10), story.Machine.NextTick);
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal(SenderStory.Ms(100), story.Machine.NextTick);
        story.Happens(new SenderInput.Stop());
        Assert.Null(story.Machine.NextTick);
    }

    [Theory]
    [InlineData(RefusalCode.Definition)]
    [InlineData(RefusalCode.Host)]
    [InlineData(RefusalCode.Limit)]
    [InlineData(RefusalCode.Taken)]
    public void Refused_for_good_before_protection_ends_it(RefusalCode code)
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        Assert.Equal("close, state Ended, end Refused", story.Happens(new SenderInput.Refused(code, "no")));
        Assert.Equal("", story.After(60_000));
    }

    [Theory]
    [InlineData(RefusalCode.Protocol)]
    [InlineData(RefusalCode.Round)]
    public void Refused_for_the_moment_before_protection_is_tried_again(RefusalCode code)
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        Assert.Equal("close", story.Happens(new SenderInput.Refused(code, "no")));
        Assert.Equal("connect", story.After(100));
    }

    [Theory]
    [InlineData(RefusalCode.Protocol)]
    [InlineData(RefusalCode.Definition)]
    [InlineData(RefusalCode.Limit)]
    [InlineData(RefusalCode.Taken)]
    [InlineData(RefusalCode.Host)]
    [InlineData(RefusalCode.Round)]
    public void Refused_after_protection_the_guest_lives_on(RefusalCode code)
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.Refused(code, "no")));
        Assert.Equal("connect", story.After(100));
        Assert.Equal("close", story.Happens(new SenderInput.Refused(code, "still no")));
        Assert.Equal("connect", story.After(200));
        Assert.Equal("hold from 2, state Base, capture 2 base", story.Happens(new SenderInput.Ready()));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Superseded_ends_the_guest_here_whatever_came_before(bool isProtected)
    {
        SenderStory story = isProtected ? SenderStory.InProtection() : SenderStory.InBase();
        Assert.Equal(
            "close, state Ended, end Superseded", story.Happens(new SenderInput.Refused(RefusalCode.Superseded, "newer")));
        Assert.DoesNotContain(story.Said, o => o is SenderOutput.ReleaseAllOutput);
    }
}
