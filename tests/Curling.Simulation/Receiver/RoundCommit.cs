using Curling.Protocol;
using Curling.Recv.Rounds;

namespace Curling.Simulation.Receiver;

/// <summary>
/// Makes a whole round the standby's state, in the steps of the real receiver, with time between any two. When the process dies, a part of
/// the next step may have been done.
/// </summary>
internal sealed class RoundCommit
{
    private readonly ReceiverDisk _disk;
    private readonly RoundBuffer _content;
    private readonly Queue<(string Name, Action<int> Do)> _steps = new();
    private JournalRecord _record;

    public RoundCommit(ReceiverDisk disk, RoundBuffer content, RoundEnd end, bool skipsTheFirstRecord)
    {
        _disk = disk;
        _content = content;
        Round = end.Round;
        _record = new JournalRecord { Round = end.Round, Kind = content.Begin.Kind, At = DateTimeOffset.UnixEpoch };
        if (content.Begin.Kind == RoundKind.Full)
        {
            string stream = content.TakeStream();
            _record = _record with { StateFile = stream, StateLength = disk.LengthOf(stream) };
            Then("journal", upTo => Journal(_record, upTo));
            Then("the stream is used", _ => disk.UseStream(stream));
        }
        else
        {
            byte[] state = content.DeviceState();
            Then("device state", upTo => _record = disk.WriteDevice(state, _record, upTo));
            if (!content.GoesStraightIn && !skipsTheFirstRecord)
            {
                Then("journal: to apply", upTo => Journal(_record with { ToApply = [.. content.Places] }, upTo));
            }

            foreach ((int index, int _) in content.Places)
            {
                if (DataPrefix.Read(disk.Kept(index)).Section == SectionKind.Memory)
                {
                    Then("memory", upTo => disk.Apply(disk.Kept(index), upTo));
                }
            }

            Then("journal: applied", upTo => Journal(_record, upTo));
            Then("the device state is used", _ => disk.UseDevice());
        }
    }

    public long Round { get; }

    /// <summary>A later process finds this round, not the one before.</summary>
    public bool Stands { get; private set; }

    public bool IsDone => _steps.Count == 0;

    /// <summary>It failed, and is not gone on with.</summary>
    public bool IsGivenUp { get; private set; }

    public int Steps => _steps.Count;

    /// <summary>Does the next step.</summary>
    public void Next() => _steps.Dequeue().Do(100);

    /// <summary>The process dies in the middle of the next step.</summary>
    /// <returns>What was being done.</returns>
    public string Tear(int percent)
    {
        if (IsDone)
        {
            return "nothing";
        }

        (string name, Action<int> step) = _steps.Dequeue();
        step(percent);
        return name;
    }

    /// <summary>Gives the content's room back, or keeps it when the round did not get that far.</summary>
    public void Finish()
    {
        if (IsDone)
        {
            _content.Dispose();
        }
        else
        {
            IsGivenUp = true;
            _content.KeepForever();
        }
    }

    private void Then(string name, Action<int> step) => _steps.Enqueue((name, step));

    private void Journal(JournalRecord record, int upTo)
    {
        _disk.Journal(record, upTo);
        Stands |= upTo == 100;
    }
}
