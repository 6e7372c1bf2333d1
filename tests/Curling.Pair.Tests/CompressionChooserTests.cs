using Curling.Hosting.Pages;
using Curling.Send.Links;

namespace Curling.Pair.Tests;

public class CompressionChooserTests
{
    private const int Frame = 256 * 1024;

    // An encoder of 500 MB/s that halves, and one of 200 MB/s that leaves a third: each wins on some link.
    [Theory]
    [InlineData(3e9, PageCompression.None)]
    [InlineData(120e6, PageCompression.Lz4)]
    [InlineData(5e6, PageCompression.Zstd)]
    public void The_link_decides(double link, PageCompression expected)
    {
        CompressionChooser chooser = new(lz4: true, zstd: true);
        Run(chooser, link, 2000);
        Assert.Equal(expected, chooser.Current);
    }

    [Fact]
    public void Nothing_is_tried_on_a_link_that_is_not_known_or_faster_than_any_way()
    {
        CompressionChooser chooser = new(lz4: true, zstd: true);
        Assert.Equal(PageCompression.None, chooser.ForNextFrame());
        for (int i = 0; i < 1000; i++)
        {
            Step(chooser, 3e9);
            Assert.Equal(PageCompression.None, chooser.ForNextFrame());
        }

        // It was fast: now there may be something to gain.
        Run(chooser, 100e6, 20);
        Assert.NotEqual(PageCompression.None, chooser.ForNextFrame());
    }

    [Fact]
    public void What_the_receiver_does_not_take_is_never_used()
    {
        CompressionChooser chooser = new(lz4: false, zstd: true);
        for (int i = 0; i < 2000; i++)
        {
            Assert.NotEqual(PageCompression.Lz4, chooser.ForNextFrame());
            Step(chooser, 120e6);
        }
    }

    [Fact]
    public void A_link_that_becomes_slow_changes_the_choice_and_back()
    {
        CompressionChooser chooser = new(lz4: true, zstd: true);
        Run(chooser, 3e9, 2000);
        Run(chooser, 5e6, 2000);
        Assert.Equal(PageCompression.Zstd, chooser.Current);
        Run(chooser, 3e9, 2000);
        Assert.Equal(PageCompression.None, chooser.Current);
    }

    [Fact]
    public void Two_ways_that_cost_the_same_do_not_take_turns()
    {
        // 1/500 + 0.5/link equals 1/link where the link takes 250 MB/s.
        CompressionChooser chooser = new(lz4: true, zstd: false);
        Random random = new(1);
        int changes = 0;
        for (int i = 0; i < 20000; i++)
        {
            changes += Step(chooser, 250e6 * (0.9 + (random.NextDouble() * 0.2))) ? 1 : 0;
        }

        Assert.InRange(changes, 0, 1);
    }

    [Fact]
    public void Nothing_is_decided_before_the_link_is_known()
    {
        CompressionChooser chooser = new(lz4: true, zstd: true);
        Run(chooser, 0, 100);
        Assert.Equal(PageCompression.None, chooser.Current);
    }

    private static void Run(CompressionChooser chooser, double link, int frames)
    {
        for (int i = 0; i < frames; i++)
        {
            Step(chooser, link);
        }
    }

    private static bool Step(CompressionChooser chooser, double link)
    {
        PageCompression way = chooser.ForNextFrame();
        (double speed, double left) = way switch
        {
            PageCompression.Lz4 => (500e6, 0.5),
            PageCompression.Zstd => (200e6, 0.33),
            _ => (double.PositiveInfinity, 1.0),
        };
        chooser.SawFrame(way, Frame, (int)(Frame * left), Frame / speed);
        chooser.SawLink(link);
        return chooser.Decide();
    }
}
