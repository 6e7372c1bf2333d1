using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>Several rounds on their way at once, and answers that do not fit.</summary>
public sealed class SenderPipeliningTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public void Never_more_rounds_captured_and_uncommitted_than_allowed(int inFlight)
    {
        SenderStory story = SenderStory.InProtection(inFlight: inFlight);
        for (int i = 0; i < inFlight; i++)
        {
            Assert.Equal($"capture {2 + i} on {1 + i}", story.After(10));
            story.Happens(new SenderInput.Captured(2 + i));
        }

        Assert.Equal("", story.After(10_000));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
        Assert.Equal($"capture {2 + inFlight} on {1 + inFlight}", story.Happens(new SenderInput.Committed(2)));
        story.Happens(new SenderInput.Captured(2 + inFlight));
        Assert.Equal("", story.After(10_000));
    }

    [Fact]
    public void The_base_round_may_be_followed_before_it_is_committed()
    {
        SenderStory story = SenderStory.InBase(inFlight: 2);
        story.Happens(new SenderInput.Captured(1));
        Assert.Equal("capture 2 on 1", story.After(10));
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("", story.After(1_000));
    }

    [Fact]
    public void With_one_in_flight_the_next_round_waits_for_the_commit()
    {
        SenderStory story = SenderStory.InBase(inFlight: 1);
        story.Happens(new SenderInput.Captured(1));
        Assert.Equal("", story.After(1_000));
        Assert.Equal("release 1", story.Happens(new SenderInput.Completed(1)));
        Assert.Equal("state Protected, capture 2 on 1", story.Happens(new SenderInput.Committed(1)));
    }

    [Fact]
    public void The_line_is_empty_again_after_a_new_connection()
    {
        SenderStory story = SenderStory.InProtection(inFlight: 1);
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        Assert.Equal("hold from 3, state Base, capture 3 base", story.Reconnects());
        story.Happens(new SenderInput.Captured(3));
        Assert.Equal("", story.After(1_000));
    }

    [Fact]
    public void Output_is_released_round_by_round()
    {
        SenderStory story = SenderStory.InProtection(inFlight: 3);
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        story.After(10);
        story.Happens(new SenderInput.Captured(3));
        Assert.Equal("release 2", story.Happens(new SenderInput.Completed(2)));
        Assert.Equal("capture 4 on 3, release 3", $"{story.After(10)}, {story.Happens(new SenderInput.Completed(3))}");
        Assert.Equal("", story.Happens(new SenderInput.Committed(2)));
        Assert.Equal("", story.Happens(new SenderInput.Committed(3)));
    }

    public static TheoryData<string, SenderInput> WrongAnswers() => new()
    {
        { "a round complete out of order", new SenderInput.Completed(3) },
        { "a round complete twice", new SenderInput.Completed(1) },
        { "a round complete that was never begun", new SenderInput.Completed(9) },
        { "a round committed twice", new SenderInput.Committed(1) },
        { "a round committed before it was complete", new SenderInput.Committed(2) },
        { "a round committed that was never begun", new SenderInput.Committed(9) },
        { "no round at all", new SenderInput.Completed(0) },
        { "a negative round", new SenderInput.Committed(-1) },
    };

    [Theory]
    [MemberData(nameof(WrongAnswers))]
    public void A_wrong_answer_is_a_lost_link(string what, SenderInput answer)
    {
        SenderStory story = SenderStory.InProtection(inFlight: 3);
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        story.After(10);
        story.Happens(new SenderInput.Captured(3));
        Assert.True(story.Happens(answer) == "close, release all, state Unprotected", what);
        Assert.Equal("connect", story.After(100));
    }

    [Fact]
    public void An_answer_to_a_round_of_an_earlier_connection_is_wrong_too()
    {
        SenderStory story = SenderStory.InProtection();
        story.After(10);
        story.Happens(new SenderInput.Captured(2));
        story.Reconnects();
        Assert.Equal("close, release all, state Unprotected", story.Happens(new SenderInput.Completed(2)));
    }
}
