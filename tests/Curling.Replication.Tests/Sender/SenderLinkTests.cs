using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>The link goes and comes back: before, during and after a round.</summary>
public sealed class SenderLinkTests
{
    [Fact]
    public void Lost_before_it_ever_stood()
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        Assert.Equal("close", story.Happens(new SenderInput.LinkLost("nobody listens there")));
        Assert.Equal(SenderState.Starting, story.Machine.State);
        Assert.Equal("", story.After(99));
        Assert.Equal("connect", story.After(1));
    }

    [Fact]
    public void Lost_while_a_round_is_captured()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("capture 2 on 1", story.After(10));
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        Assert.Equal("connect", story.After(100));

        // One capture at a time: the new connection's first round waits for the old capture to end.
        Assert.Equal("hold from 3, state Base", story.Happens(new SenderInput.Ready()));
        Assert.Equal("", story.After(1_000));
        Assert.Equal("capture 3 base", story.Happens(new SenderInput.CaptureFailed(2, "the connection was lost")));
        Assert.Equal("", story.Happens(new SenderInput.Captured(3)));
        Assert.Equal("release 3", story.Happens(new SenderInput.Completed(3)));
        Assert.Equal("state Protected", story.Happens(new SenderInput.Committed(3)));
    }

    [Fact]
    public void A_round_captured_for_a_lost_connection_counts_for_nothing()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("connect", story.After(100));
        Assert.Equal("hold from 3, state Base, capture 3 base", story.Happens(new SenderInput.Ready()));
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.Completed(2)));
    }

    [Fact]
    public void Lost_between_complete_and_committed()
    {
        SenderStory story = SenderStory.InBase();
        story.Happens(new SenderInput.Captured(1));
        story.Happens(new SenderInput.Completed(1));
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        Assert.Equal("", story.Happens(new SenderInput.Committed(1)));
        Assert.Equal(SenderState.Unprotected, story.Machine.State);
        story.After(100);
        Assert.Equal("hold from 2, state Base, capture 2 base", story.Happens(new SenderInput.Ready()));
    }

    [Fact]
    public void Lost_between_rounds()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.LinkLost("cut")));
        Assert.Equal("", story.Happens(new SenderInput.LinkLost("told twice")));
        Assert.Equal("connect", story.After(100));
        Assert.Equal("hold from 2, state Base, capture 2 base", story.Happens(new SenderInput.Ready()));
    }

    [Fact]
    public void A_receiver_that_leaves_is_a_lost_link()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.ReceiverLeft("stopped")));
        Assert.Equal("connect", story.After(100));
    }

    [Fact]
    public void A_capture_that_fails_closes_the_connection_and_starts_over()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        Assert.Equal(
            "close, release all, state Unprotected", story.Happens(new SenderInput.CaptureFailed(2, "QEMU said no")));
        Assert.Equal("connect", story.After(100));
        Assert.Equal("hold from 3, state Base, capture 3 base", story.Happens(new SenderInput.Ready()));
    }

    [Fact]
    public void Reports_about_rounds_nobody_asked_for_change_nothing()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal("", story.Happens(new SenderInput.Captured(7)));
        Assert.Equal("", story.Happens(new SenderInput.CaptureFailed(7, "what?")));
        Assert.Equal("", story.Happens(new SenderInput.Ready()));
        Assert.Equal(SenderState.Protected, story.Machine.State);
    }

    [Fact]
    public void The_wait_between_attempts_doubles_up_to_its_cap()
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        foreach (int wait in (int[])[100, 200, 400, 800, 1000, 1000])
        {
            Assert.Equal("close", story.Happens(new SenderInput.LinkLost("nobody listens there")));
            Assert.Equal("", story.After(wait - 1));
            Assert.Equal("connect", story.After(1));
        }
    }

    [Fact]
    public void Only_a_commit_resets_the_wait()
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        story.Happens(new SenderInput.LinkLost("1"));
        story.After(100);
        story.Happens(new SenderInput.Ready());
        story.Happens(new SenderInput.Captured(1));
        story.Happens(new SenderInput.Completed(1));
        story.Happens(new SenderInput.LinkLost("2"));

        // A connection that never brought a commit must not be hammered.
        Assert.Equal("", story.After(199));
        Assert.Equal("connect", story.After(1));
        story.Happens(new SenderInput.Ready());
        story.Round(2);
        story.Happens(new SenderInput.LinkLost("3"));
        Assert.Equal("", story.After(99));
        Assert.Equal("connect", story.After(1));
        story.Happens(new SenderInput.LinkLost("4"));
        Assert.Equal("", story.After(199));
        Assert.Equal("connect", story.After(1));
    }

    [Fact]
    public void Receiver_that_lives_and_commits_nothing_is_lost_and_what_was_held_leaves()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("", Seconds(story, 59, 1000));
        Assert.Equal("", Seconds(story, 61, 1001));
        Assert.Equal("close, release all, state Unprotected", Seconds(story, 1, 1001));
    }

    [Fact]
    public void Only_the_next_round_that_was_called_complete_may_be_called_committed()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        Assert.False(story.Machine.MayBeCommitted(2));
        story.Happens(new SenderInput.Completed(2));
        Assert.True(story.Machine.MayBeCommitted(2));
        Assert.False(story.Machine.MayBeCommitted(1));
        Assert.False(story.Machine.MayBeCommitted(3));
        story.Happens(new SenderInput.LinkLost("reset"));
        Assert.False(story.Machine.MayBeCommitted(2));
    }

    [Fact]
    public void Guest_that_takes_its_time_to_be_captured_is_no_fault_of_the_receivers()
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Contains("capture 2", story.After(10));
        Assert.Equal("", Seconds(story, 100, 1000));
    }

    [Fact]
    public void Sender_that_was_held_up_itself_blames_nobody()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("", Seconds(story, 30, 1000));
        story.After(100_000);
        Assert.Equal("", Seconds(story, 30, 1000));
    }

    /// <summary>Looks at what was sent once a second; the last thing that came of it.</summary>
    private static string Seconds(SenderStory story, int count, long sent)
    {
        string last = "";
        for (int i = 0; i < count; i++)
        {
            story.After(1_000);
            last = story.Happens(new SenderInput.Sent(sent));
        }

        return last;
    }
}
