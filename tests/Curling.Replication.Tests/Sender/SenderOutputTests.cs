using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>When output asks for rounds.</summary>
public class SenderOutputTests
{
    [Fact]
    public void Output_that_waits_asks_for_a_round_at_once()
    {
        SenderStory story = Protected(minimum: 0);
        Assert.Equal("capture 2 on 1", story.Happens(SenderInput.OutputWaits.Instance));
    }

    [Fact]
    public void The_guest_is_left_alone_for_the_least_interval_all_the_same()
    {
        SenderStory story = Protected(minimum: 5);
        Assert.Equal("", story.Happens(SenderInput.OutputWaits.Instance));
        Assert.Equal(story.Now + SenderStory.Ms(5), story.Machine.NextTick);
        Assert.Equal("capture 2 on 1", story.After(5));
    }

    [Fact]
    public void With_no_output_a_round_comes_after_the_longest_interval()
    {
        SenderStory story = Protected(minimum: 0);
        Assert.Equal("", story.After(999));
        Assert.Equal("capture 2 on 1", story.After(1));
    }

    [Fact]
    public void Output_never_puts_a_round_off()
    {
        SenderStory story = Protected(minimum: 2000);
        story.Happens(SenderInput.OutputWaits.Instance);
        Assert.Equal("capture 2 on 1", story.After(1000));
    }

    [Fact]
    public void Output_that_came_while_a_round_was_captured_asks_again_afterwards()
    {
        SenderStory story = Protected(minimum: 0);
        story.Happens(SenderInput.OutputWaits.Instance);
        Assert.Equal("", story.Happens(SenderInput.OutputWaits.Instance));
        Assert.Equal("", story.Happens(new SenderInput.Captured(2)));
        Assert.Equal("capture 3 on 2", story.Happens(SenderInput.OutputWaits.Instance));
    }

    [Fact]
    public void Periodic_rounds_hurry_only_when_output_has_no_more_room()
    {
        SenderStory story = Protected(minimum: 0, asks: false);
        Assert.Equal("", story.Happens(SenderInput.OutputWaits.Instance));
        Assert.Equal("capture 2 on 1", story.Happens(SenderInput.OutputFull.Instance));
    }

    [Fact]
    public void Output_asks_for_no_round_beyond_those_in_flight()
    {
        SenderStory story = Protected(minimum: 0);
        for (int round = 2; round <= 3; round++)
        {
            Assert.StartsWith("capture", story.Happens(SenderInput.OutputWaits.Instance), StringComparison.Ordinal);
            story.Happens(new SenderInput.Captured(round));
        }

        Assert.Equal("", story.Happens(SenderInput.OutputWaits.Instance));
        story.Happens(new SenderInput.Completed(2));
        Assert.Contains("capture 4 on 3", story.Happens(new SenderInput.Committed(2)));
    }

    private static SenderStory Protected(int minimum, bool asks = true)
    {
        SenderStory story = new(
            new SenderSettings(true, 2, SenderStory.Ms(100), SenderStory.Ms(1000))
            {
                OutputAsksForRounds = asks,
            },
            SenderStory.Ms(1000));
        story.Machine.MinInterval = SenderStory.Ms(minimum);
        story.Happens(new SenderInput.GuestStarted());
        story.Happens(new SenderInput.Ready());
        story.Round(1);
        return story;
    }
}
