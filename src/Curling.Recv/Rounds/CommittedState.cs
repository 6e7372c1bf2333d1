using Curling.Hosting.Control;
using Curling.Protocol;

namespace Curling.Recv.Rounds;

/// <summary>What the standby is started from: the stream of a full round, or the device state beside its memory.</summary>
/// <remarks>
/// The session's commits write it one after the other; a promotion reads it when no commit is under way. Disposing deletes it.
/// </remarks>
internal sealed class CommittedState : IDisposable
{
    private StreamFile? _stream;
    private MemoryStream _device = new();
    private MemoryStream _spare = new();

    /// <summary>When the last round was committed.</summary>
    public DateTimeOffset? At { get; private set; }

    /// <summary>The last round.</summary>
    public LastRoundStatus? Last { get; private set; }

    /// <summary>Where the device state of the round being committed is collected.</summary>
    public MemoryStream SpareDeviceState => _spare;

    /// <summary>A full round becomes the state; the one before is deleted.</summary>
    public void SetStream(StreamFile stream)
    {
        StreamFile? old = _stream;
        _stream = stream;
        old?.Dispose();
    }

    /// <summary>What was collected becomes the state.</summary>
    public void SwapDeviceState()
    {
        (_device, _spare) = (_spare, _device);
        _stream?.Dispose();
        _stream = null;
    }

    /// <summary>Notes what was committed, for status.</summary>
    public void Note(RoundBegin begin, RoundEnd end, DateTimeOffset at)
    {
        At = at;
        Last = new LastRoundStatus(begin.Kind.ToString().ToLowerInvariant(), end.Counts.TotalBytes, end.PauseMicroseconds);
    }

    /// <summary>Reads the state for a promotion.</summary>
    public int Read(Span<byte> destination, long offset)
    {
        if (_stream is { } stream)
        {
            return stream.Read(destination, offset);
        }

        int count = (int)Math.Min(destination.Length, _device.Length - offset);
        _device.GetBuffer().AsSpan((int)offset, count).CopyTo(destination);
        return count;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stream?.Dispose();
        _stream = null;
    }
}
