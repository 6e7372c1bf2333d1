using Curling.Protocol;

namespace Curling.Simulation.Receiver;

/// <summary>What arrived of a round: frames in the prefetch buffer, or a stream.</summary>
internal sealed class RoundBuffer(ReceiverDisk disk, RoundBegin begin, bool goesStraightIn)
{
    private readonly List<(int Index, int Length)> _places = [];
    private bool _kept;

    public RoundBegin Begin => begin;

    /// <summary>Memory goes into the standby as it arrives: nothing is committed that it could spoil.</summary>
    public bool GoesStraightIn => goesStraightIn;

    /// <summary>The stream of a full round.</summary>
    public string? Stream { get; private set; } = begin.Kind == RoundKind.Full ? disk.NewStream() : null;

    public IReadOnlyList<(int Index, int Length)> Places => _places;

    public void Add(ReadOnlySpan<byte> payload) => _places.Add((disk.Keep(payload.ToArray()), payload.Length));

    public void Append(ReadOnlySpan<byte> content) => disk.Append(Stream!, content);

    /// <summary>The device state among the frames.</summary>
    public byte[] DeviceState()
    {
        List<byte> state = [];
        foreach ((int index, int _) in _places)
        {
            DataPrefix prefix = DataPrefix.Read(disk.Kept(index));
            if (prefix.Section == SectionKind.DeviceState)
            {
                state.AddRange(prefix.Content(disk.Kept(index)));
            }
        }

        return [.. state];
    }

    public string TakeStream()
    {
        string stream = Stream!;
        Stream = null;
        return stream;
    }

    /// <summary>The journal may name its frames: nobody else may write to their places.</summary>
    public void KeepForever() => _kept = true;

    public void Dispose()
    {
        if (_kept)
        {
            return;
        }

        if (Stream is { } stream)
        {
            disk.DeleteStream(stream);
            Stream = null;
        }

        foreach ((int index, int _) in _places)
        {
            disk.GiveBack(index);
        }

        _places.Clear();
    }
}
