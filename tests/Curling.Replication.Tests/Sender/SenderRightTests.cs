using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>With an arbiter: no round without the right to run the guest, and the right goes where the guest goes.</summary>
public sealed class SenderRightTests
{
    [Fact]
    public void No_round_is_cut_while_the_right_is_lost()
    {
        SenderStory story = InProtection();
        Assert.Equal("", story.Happens(new SenderInput.RightLost("no answer")));
        Assert.Equal("", story.After(1000));
        Assert.Equal("run guest, capture 2 on 1", story.Happens(new SenderInput.RightBack()));
    }

    [Fact]
    public void A_guest_is_not_let_run_into_the_cut_of_a_round_that_is_under_way()
    {
        SenderStory story = InProtection();
        story.After(10);
        story.Happens(new SenderInput.RightLost("no answer"));
        Assert.Equal("", story.Happens(new SenderInput.RightBack()));
        Assert.Equal("run guest", story.Happens(new SenderInput.Captured(2)));
    }

    [Fact]
    public void The_right_is_given_back_when_the_last_round_is_there()
    {
        SenderStory story = InProtection();
        story.Happens(new SenderInput.Switchover());
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("release 2, give right back", story.Happens(new SenderInput.Completed(2)));
        story.Happens(new SenderInput.Committed(2));
        story.Happens(new SenderInput.RightLost("given back"));
        Assert.Equal("state Ended, end SwitchedOver", story.Happens(new SenderInput.Promoted(2)));
    }

    [Fact]
    public void The_right_is_given_back_when_the_link_goes_after_the_last_round()
    {
        SenderStory story = InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("close, state Unprotected, give right back", story.Happens(new SenderInput.LinkLost("cut")));
        story.Happens(new SenderInput.RightLost("given back"));
        story.After(1000);
        Assert.Equal(
            "want right, release all, hold from 3, resume guest, switchover failed, state Base", story.Happens(new SenderInput.Ready()));
        Assert.Equal("run guest, capture 3 base", story.Happens(new SenderInput.RightBack()));
    }

    [Fact]
    public void A_guest_that_stands_still_after_its_last_round_is_not_let_run_by_the_right()
    {
        SenderStory story = InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.RightLost("no answer"));
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("", story.Happens(new SenderInput.RightBack()));
    }

    [Fact]
    public void Without_an_arbiter_nothing_is_said_of_rights()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
    }

    private static SenderStory InProtection()
    {
        SenderStory story = new(
            new SenderSettings(true, 2, SenderStory.Ms(100), SenderStory.Ms(1000)) { Arbitrated = true }, SenderStory.Ms(10));
        story.Happens(new SenderInput.GuestStarted());
        story.Happens(new SenderInput.Ready());
        story.Round(1);
        return story;
    }
}
