using Curling.Protocol;
using Curling.Replication.Receiver;

namespace Curling.Replication.Tests.Receiver;

/// <summary>A receiver's machine and its clock, told in short sentences: what happens, and what the machine then does.</summary>
internal sealed class ReceiverStory
{
    private readonly List<ReceiverOutput> _said = [];

    public ReceiverStory(FailureAction onFailure = FailureAction.Promote)
    {
        Machine = new ReceiverMachine(new ReceiverSettings(onFailure, Ms(500)));
    }

    public ReceiverStory(ReceiverSettings settings)
    {
        Machine = new ReceiverMachine(settings);
    }

    private ReceiverStory(long restoredRound)
    {
        Machine = new ReceiverMachine(new ReceiverSettings(FailureAction.Promote, Ms(500)), restoredRound);
    }

    public ReceiverMachine Machine { get; }

    public TimeSpan Now { get; private set; } = Ms(1_000);

    /// <summary>Everything the machine ever asked for.</summary>
    public IReadOnlyList<ReceiverOutput> Said => _said;

    /// <summary>A sender is connected and was told that rounds may come.</summary>
    public static ReceiverStory Connected(FailureAction onFailure = FailureAction.Promote)
    {
        ReceiverStory story = new(onFailure);
        story.Happens(new ReceiverInput.StandbyReady());
        story.Happens(new ReceiverInput.LinkUp());
        return story;
    }

    /// <summary>A receiver that was started anew stands at a round of the one before; losses would be promoted.</summary>
    public static ReceiverStory Restored(long round, bool standbyReady = true)
    {
        ReceiverStory story = new(round);
        if (standbyReady)
        {
            story.Happens(new ReceiverInput.StandbyReady());
        }

        return story;
    }

    /// <summary>Round 1 is committed.</summary>
    public static ReceiverStory InProtection(FailureAction onFailure = FailureAction.Promote)
    {
        ReceiverStory story = Connected(onFailure);
        story.Began(1);
        story.Whole(1);
        story.CommitDone(1);
        return story;
    }

    public static TimeSpan Ms(int milliseconds) => TimeSpan.FromMilliseconds(milliseconds);

    /// <summary>Steps the machine; the outputs in words, separated by commas.</summary>
    public string Happens(ReceiverInput input)
    {
        IReadOnlyList<ReceiverOutput> outputs = Machine.Step(input, Now);
        _said.AddRange(outputs);
        return string.Join(", ", outputs.Select(Words.Of));
    }

    /// <summary>A round begins; round 1, or one that is said to, stands alone.</summary>
    public string Began(long round, bool alone = false) => Happens(new ReceiverInput.RoundBegan(
        round == 1 || alone ? new RoundBegin(round, 0, RoundKind.Base, 0) : new RoundBegin(round, round - 1, RoundKind.Incremental, 0)));

    public string Whole(long round, bool final = false) =>
        Happens(new ReceiverInput.RoundWhole(new RoundEnd(round, final, 0, default, default)));

    public string CommitDone(long round) => Happens(new ReceiverInput.CommitDone(round));

    public string LinkLost() => Happens(new ReceiverInput.LinkLost("reset by peer"));

    /// <summary>Time passes; the sender was heard all along, or was last heard when this began.</summary>
    public string After(int milliseconds, bool heard = true)
    {
        TimeSpan before = Now;
        Now += Ms(milliseconds);
        return Happens(new ReceiverInput.Tick(heard ? Now : before));
    }
}
