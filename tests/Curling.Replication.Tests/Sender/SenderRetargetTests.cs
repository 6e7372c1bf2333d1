using Curling.Protocol;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>The guest is given another standby: the one before must never start it.</summary>
public sealed class SenderRetargetTests
{
    private static readonly SenderInput Asked = new SenderInput.Retarget("another", Force: false);
    private static readonly SenderInput Forced = new SenderInput.Retarget("another", Force: true);

    [Fact]
    public void A_standby_that_may_hold_a_round_must_hear_of_it_before_another_is_connected()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("leave standby that must hear, close, release all, state Unprotected", story.Happens(Asked));
        Assert.Equal("", story.After(60_000));
        Assert.Equal("connect", story.Happens(new SenderInput.Retargeted(true)));
        Assert.Equal("hold from 2, state Base, capture 2 base", story.Happens(new SenderInput.Ready()));
    }

    [Fact]
    public void One_that_did_not_hear_stays_the_standby()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(Asked);
        Assert.Equal("connect", story.Happens(new SenderInput.Retargeted(false)));
        Assert.Equal("not retargeted: NotConnected", story.Happens(Asked));
    }

    [Fact]
    public void One_that_is_not_connected_and_may_hold_a_round_stays_unless_the_operator_insists()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("not retargeted: NotConnected", story.Happens(Asked));
        Assert.Equal("leave standby", story.Happens(Forced));
        Assert.Equal("not retargeted: Moving", story.Happens(Forced));
        Assert.Equal("connect", story.Happens(new SenderInput.Retargeted(true)));
        Assert.Equal("leave standby, close", story.Happens(Asked));
    }

    [Fact]
    public void One_that_never_had_a_round_is_left_in_the_middle_of_its_handshake()
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        Assert.Equal("leave standby, close", story.Happens(Asked));
        Assert.Equal("connect", story.Happens(new SenderInput.Retargeted(true)));
        story.Happens(new SenderInput.Refused(RefusalCode.Taken, "no"));
    }

    [Fact]
    public void A_guest_that_is_being_moved_keeps_its_standby()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        Assert.Equal("not retargeted: Moving", story.Happens(Forced));
        story.Happens(new SenderInput.Captured(2));
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("not retargeted: Moving", story.Happens(Forced));
    }
}
