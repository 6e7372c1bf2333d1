using Curling.Protocol;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>The operator moves the guest: its last round must be the standby's, and only one of the two may run.</summary>
public sealed class SenderSwitchoverTests
{
    [Fact]
    public void The_guest_moves()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("capture 2 on 1 final", story.Happens(new SenderInput.Switchover()));
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("", story.After(1_000));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
        Assert.Equal("", story.Happens(new SenderInput.Committed(2)));
        Assert.Equal("state Ended, end SwitchedOver", story.Happens(new SenderInput.Promoted(2)));
    }

    [Fact]
    public void It_waits_for_the_round_being_captured_and_for_room()
    {
        SenderStory story = SenderStory.InProtection(inFlight: 2);
        story.After(10);
        Assert.Equal("", story.Happens(new SenderInput.Switchover()));
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("capture 3 on 2 final", story.After(10));
        story.Happens(new SenderInput.Captured(3));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
        Assert.Equal("release 3", story.Happens(new SenderInput.Completed(3)));
        story.Happens(new SenderInput.Committed(2));
        story.Happens(new SenderInput.Committed(3));
        Assert.Equal("state Ended, end SwitchedOver", story.Happens(new SenderInput.Promoted(3)));
    }

    [Fact]
    public void Asked_before_protection_it_waits_until_there_is_a_standby()
    {
        SenderStory story = SenderStory.InBase(inFlight: 3);
        Assert.Equal("", story.Happens(new SenderInput.Switchover()));
        story.Happens(new SenderInput.Captured(1));
        Assert.Equal("capture 2 on 1", story.After(10));
        story.Happens(new SenderInput.Captured(2));
        story.Happens(new SenderInput.Completed(1));
        story.Happens(new SenderInput.Committed(1));
        Assert.Equal("capture 3 on 2 final", story.After(10));
    }

    [Fact]
    public void A_last_round_that_fails_lets_the_guest_run_on()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        Assert.Equal(
            "resume guest, switchover failed, close, release all, state Unprotected",
            story.Happens(new SenderInput.CaptureFailed(2, "QEMU said no")));
        story.After(100);
        Assert.Equal("hold from 3, state Base, capture 3 base", story.Happens(new SenderInput.Ready()));
        story.Round(3);
        Assert.Equal("capture 4 on 3", story.After(10));
    }

    [Fact]
    public void A_last_round_that_fails_because_the_link_went_lets_the_guest_run_on()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Contains("resume guest", story.Happens(new SenderInput.CaptureFailed(2, "the connection was lost")));
        Assert.Contains(story.Said, o => o is SenderOutput.ReleaseAllOutput);
    }

    [Fact]
    public void The_link_goes_after_the_last_round_and_the_receiver_had_promoted()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));

        // The receiver may have it whole: the guest stands still and holds its output until the receiver answers.
        Assert.Equal("close, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        Assert.Equal("connect", story.After(100));
        Assert.Equal(
            "close, state Ended, end SwitchedOver", story.Happens(new SenderInput.Refused(RefusalCode.Superseded, "newer")));
    }

    [Fact]
    public void The_link_goes_after_the_last_round_and_the_receiver_takes_the_sender_back()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        story.Happens(new SenderInput.LinkLost("cut"));
        story.After(100);
        string said = story.Happens(new SenderInput.Ready());
        Assert.Contains("resume guest", said);
        Assert.Contains("state Base, capture 3 base", said);
        story.Round(3);
        Assert.Equal("capture 4 on 3", story.After(10));
    }

    [Fact]
    public void A_guest_that_runs_on_here_lets_its_held_output_go()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        story.Happens(new SenderInput.LinkLost("cut"));
        story.After(100);
        Assert.DoesNotContain(story.Said, o => o is SenderOutput.ReleaseAllOutput);

        // Nothing else would let it go before the whole first round of the new connection is complete.
        Assert.Equal(
            "release all, hold from 3, resume guest, switchover failed, state Base, capture 3 base", story.Happens(new SenderInput.Ready()));
    }

    [Fact]
    public void The_link_goes_while_the_last_round_is_captured_and_the_round_may_be_out()
    {
        // The end of the round is on the wire before the capture is reported: the receiver may hold it whole and promote.
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        Assert.Equal("close, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("connect", story.After(100));
        Assert.Equal(
            "close, state Ended, end SwitchedOver", story.Happens(new SenderInput.Refused(RefusalCode.Superseded, "newer")));
    }

    [Fact]
    public void The_link_is_back_before_the_last_round_is_reported()
    {
        // The receiver took the sender back, so it has not promoted, and what the old connection brings counts for nothing.
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.LinkLost("cut"));
        story.After(100);
        Assert.Equal("hold from 3, state Base", story.Happens(new SenderInput.Ready()));
        Assert.Equal("release all, hold from 3, resume guest, switchover failed, capture 3 base", story.Happens(new SenderInput.Captured(2)));
    }

    [Fact]
    public void Promoted_may_come_before_the_capture_is_reported()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Completed(2));
        story.Happens(new SenderInput.Committed(2));
        Assert.Equal("state Ended, end SwitchedOver", story.Happens(new SenderInput.Promoted(2)));
    }

    [Fact]
    public void Superseded_may_come_before_the_capture_is_reported()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Completed(2));
        Assert.Equal(
            "close, state Ended, end SwitchedOver", story.Happens(new SenderInput.Refused(RefusalCode.Superseded, "newer")));
    }

    [Fact]
    public void A_receiver_that_runs_the_guest_unasked_ends_it_here()
    {
        // Only one of the two may run, whoever is wrong.
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("close, state Ended, end Superseded", story.Happens(new SenderInput.Promoted(1)));
    }

    [Fact]
    public void A_switchover_whose_link_was_lost_is_not_done_later()
    {
        // The operator was told that it failed; a guest that moves at the next reconnection would be a surprise.
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        Assert.Equal("", story.Happens(new SenderInput.Switchover()));
        story.Happens(new SenderInput.LinkLost("cut"));
        story.Happens(new SenderInput.CaptureFailed(2, "the connection was lost"));
        story.After(100);
        story.Happens(new SenderInput.Ready());
        story.Round(3);
        Assert.Equal("capture 4 on 3", story.After(10));
    }

    [Fact]
    public void QEMU_crashes_after_the_last_round()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal(
            "goodbye QemuCrashed, state Ended, end QemuCrashed", story.Happens(new SenderInput.QemuCrashed("signal 9")));
    }

    [Fact]
    public void Asked_just_after_the_connection_was_lost_it_fails_and_never_happens_later()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("switchover failed", story.Happens(new SenderInput.Switchover()));
        Assert.Equal("connect", story.After(1000));
        Assert.Equal("hold from 2, state Base, capture 2 base", story.Happens(new SenderInput.Ready()));
        story.Round(2);
        Assert.Equal("capture 3 on 2", story.After(10));
    }

    [Fact]
    public void Who_asked_hears_of_a_connection_lost_before_the_last_round_and_of_what_became_of_that_only_when_it_is_known()
    {
        SenderStory story = SenderStory.InBase();
        story.Happens(new SenderInput.Switchover());
        Assert.Equal("close, release all, switchover failed, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));

        story = SenderStory.InProtection();
        story.Happens(new SenderInput.Switchover());
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("close, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        story.After(100);
        Assert.StartsWith("release all, hold from 3, resume guest, switchover failed", story.Happens(new SenderInput.Ready()), StringComparison.Ordinal);
    }
}
