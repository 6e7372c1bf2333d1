using Curling.Protocol;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>How it ends on the primary.</summary>
public sealed class SenderEndTests
{
    public static TheoryData<SenderInput, GoodbyeReason, SenderEnd> Ends() => new()
    {
        { new SenderInput.GuestShutdown(), GoodbyeReason.GuestShutdown, SenderEnd.GuestShutdown },
        { new SenderInput.QemuCrashed("signal 11"), GoodbyeReason.QemuCrashed, SenderEnd.QemuCrashed },
        { new SenderInput.Stop(), GoodbyeReason.OperatorStop, SenderEnd.Stopped },
    };

    [Theory]
    [MemberData(nameof(Ends))]
    public void The_receiver_is_told_how_it_ended(SenderInput input, GoodbyeReason reason, SenderEnd how)
    {
        SenderStory story = SenderStory.InProtection();
        Assert.Equal($"goodbye {reason}, state Ended, end {how}", story.Happens(input));
        Assert.DoesNotContain(story.Said, o => o is SenderOutput.ReleaseAllOutput);
    }

    [Theory]
    [MemberData(nameof(Ends))]
    public void During_the_handshake_too(SenderInput input, GoodbyeReason reason, SenderEnd how)
    {
        SenderStory story = new();
        story.Happens(new SenderInput.GuestStarted());
        Assert.Equal($"goodbye {reason}, state Ended, end {how}", story.Happens(input));
    }

    [Fact]
    public void Nobody_is_told_where_there_is_no_connection()
    {
        SenderStory story = SenderStory.InProtection();
        story.Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("state Ended, end GuestShutdown", story.Happens(new SenderInput.GuestShutdown()));
    }

    [Fact]
    public void Stopped_before_the_guest_runs()
    {
        SenderStory story = new();
        Assert.Equal("state Ended, end Stopped", story.Happens(new SenderInput.Stop()));
        Assert.Equal("", story.Happens(new SenderInput.GuestStarted()));
    }

    [Fact]
    public void After_the_end_nothing_happens_any_more()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.Stop());
        foreach (SenderInput input in (SenderInput[])[
            new SenderInput.Captured(2), new SenderInput.Completed(2), new SenderInput.LinkLost("closed"),
            new SenderInput.Refused(RefusalCode.Superseded, "newer"), new SenderInput.QemuCrashed("killed"),
            new SenderInput.Switchover(), SenderInput.Tick.Instance])
        {
            Assert.Equal("", story.Happens(input));
        }
    }
}
