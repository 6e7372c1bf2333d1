using Curling.Replication.Sender;

namespace Curling.Replication.Tests.Sender;

/// <summary>A sender's machine and its clock, told in short sentences: what happens, and what the machine then does.</summary>
internal sealed class SenderStory
{
    private readonly List<SenderOutput> _said = [];

    public SenderStory(bool incremental = true, int inFlight = 2)
        : this(new SenderSettings(incremental, inFlight, Ms(100), Ms(1000)), Ms(10))
    {
    }

    public SenderStory(SenderSettings settings, TimeSpan interval)
    {
        Machine = new SenderMachine(settings) { Interval = interval };
    }

    public SenderMachine Machine { get; }

    public TimeSpan Now { get; private set; }

    /// <summary>Everything the machine ever asked for.</summary>
    public IReadOnlyList<SenderOutput> Said => _said;

    /// <summary>A guest that runs, connected, with the first round being captured.</summary>
    public static SenderStory InBase(bool incremental = true, int inFlight = 2)
    {
        SenderStory story = new(incremental, inFlight);
        story.Happens(new SenderInput.GuestStarted());
        story.Happens(new SenderInput.Ready());
        return story;
    }

    /// <summary>A guest whose first round is committed; the next capture is due 10 ms after the last.</summary>
    public static SenderStory InProtection(bool incremental = true, int inFlight = 2)
    {
        SenderStory story = InBase(incremental, inFlight);
        story.Round(1);
        return story;
    }

    public static TimeSpan Ms(int milliseconds) => TimeSpan.FromMilliseconds(milliseconds);

    /// <summary>Steps the machine; the outputs in words, separated by commas.</summary>
    public string Happens(SenderInput input)
    {
        IReadOnlyList<SenderOutput> outputs = Machine.Step(input, Now);
        _said.AddRange(outputs);
        return string.Join(", ", outputs.Select(Words.Of));
    }

    /// <summary>Lets time pass and ticks once.</summary>
    public string After(int milliseconds)
    {
        Now += Ms(milliseconds);
        return Happens(SenderInput.Tick.Instance);
    }

    /// <summary>Takes the round being captured to its commit.</summary>
    public void Round(long round)
    {
        Happens(new SenderInput.Captured(round));
        Happens(new SenderInput.Completed(round));
        Happens(new SenderInput.Committed(round));
    }

    /// <summary>The connection is lost and made again; rounds start over with one that stands alone.</summary>
    public string Reconnects()
    {
        Happens(new SenderInput.LinkLost("cut"));
        Assert.Equal("connect", After(1000));
        return Happens(new SenderInput.Ready());
    }
}
