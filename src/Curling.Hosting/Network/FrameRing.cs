using System.Buffers.Binary;

namespace Curling.Hosting.Network;

/// <summary>
/// The frames that a guest sent and that have not left yet, as they came from QEMU: each with its length (big-endian, 4 bytes)
/// before it. They are received straight into it and handed on from where they stand.
/// </summary>
/// <remarks>For one thread. Its size is fixed; it allocates nothing after its creation.</remarks>
internal sealed class FrameRing
{
    /// <summary>The longest frame that QEMU passes on (its <c>NET_BUFSIZE</c>); a longer one breaks the stream's rules.</summary>
    public const int MaxFrameBytes = 4096 + 65536;

    private const int PrefixBytes = 4;
    private const int MinFrameBytes = 14;

    // A frame that has arrived in part must have room to become whole.
    private const int MinRoom = MaxFrameBytes + PrefixBytes;
    private readonly byte[] _bytes;
    private readonly (int Offset, int Length, long Stamp)[] _frames;
    private readonly int _longest;
    private int _first;
    private int _fill;
    private int _parse;

    /// <summary>Creates a ring.</summary>
    /// <param name="bytes">Room for content, at least four of the longest frames.</param>
    /// <param name="frames">Room for frames.</param>
    /// <param name="longest">A longer frame cannot leave and is dropped.</param>
    public FrameRing(int bytes, int frames, int longest)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(bytes, 4 * MinRoom);
        _bytes = GC.AllocateUninitializedArray<byte>(bytes, pinned: true);
        _frames = new (int, int, long)[frames];
        _longest = longest;
    }

    /// <summary>Frames that stand in it.</summary>
    public int Count { get; private set; }

    /// <summary>Their bytes.</summary>
    public long Bytes { get; private set; }

    /// <summary>Bytes of a frame that has arrived in part.</summary>
    public int Part => _fill - _parse;

    /// <summary>Frames dropped because they were longer than the network's MTU allows, or shorter than a frame's header.</summary>
    public long Misfits { get; private set; }

    private bool IsWrapped => Count > 0 && _frames[_first].Offset > _parse;

    /// <summary>Where to receive to; empty while it is full.</summary>
    public Span<byte> Room()
    {
        if (Count == _frames.Length)
        {
            return default;
        }

        if (IsWrapped)
        {
            int left = _frames[_first].Offset - PrefixBytes - _fill;
            return left >= MinRoom ? _bytes.AsSpan(_fill, left) : default;
        }

        if (_bytes.Length - _fill < MinRoom)
        {
            int part = _fill - _parse;
            int limit = Count > 0 ? _frames[_first].Offset - PrefixBytes : _bytes.Length;
            if (part + MinRoom > limit)
            {
                return default;
            }

            _bytes.AsSpan(_parse, part).CopyTo(_bytes);
            _parse = 0;
            _fill = part;
            return _bytes.AsSpan(_fill, limit - _fill);
        }

        return _bytes.AsSpan(_fill);
    }

    /// <summary>Bytes were received into <see cref="Room"/>; finds the frames that are whole.</summary>
    /// <param name="received">How many bytes; 0 to look again at what there was no room for.</param>
    /// <param name="stamp">The time.</param>
    /// <returns>How many frames stand in the ring that did not before.</returns>
    /// <exception cref="InvalidDataException">The lengths make no sense: what follows cannot be understood either.</exception>
    public int Take(int received, long stamp)
    {
        _fill += received;
        int found = 0;
        while (_fill - _parse >= PrefixBytes && Count < _frames.Length)
        {
            uint length = BinaryPrimitives.ReadUInt32BigEndian(_bytes.AsSpan(_parse));
            if (length > MaxFrameBytes)
            {
                throw new InvalidDataException($"a frame of {length} bytes was announced; the longest there can be has {MaxFrameBytes}");
            }

            int whole = PrefixBytes + (int)length;
            if (_fill - _parse < whole)
            {
                break;
            }

            if (length < MinFrameBytes || length > _longest)
            {
                Misfits++;
            }
            else
            {
                _frames[(_first + Count) % _frames.Length] = (_parse + PrefixBytes, (int)length, stamp);
                Count++;
                Bytes += length;
                found++;
            }

            _parse += whole;
        }

        return found;
    }

    /// <summary>The frame that came first.</summary>
    public ReadOnlySpan<byte> First(out long stamp)
    {
        (int offset, int length, stamp) = _frames[_first];
        return _bytes.AsSpan(offset, length);
    }

    /// <summary>A frame by its place, 0 for the one that came first.</summary>
    public ReadOnlySpan<byte> At(int place)
    {
        (int offset, int length, _) = _frames[(_first + place) % _frames.Length];
        return _bytes.AsSpan(offset, length);
    }

    /// <summary>Removes it.</summary>
    public void RemoveFirst()
    {
        Bytes -= _frames[_first].Length;
        _first = (_first + 1) % _frames.Length;
        Count--;
    }

    /// <summary>Forgets a frame that arrived in part: its stream has ended.</summary>
    public void ForgetPart() => _fill = _parse;
}
