using System.Buffers.Binary;
using System.Diagnostics;
using System.Threading.Channels;
using Curling.Hosting.Transport;
using Curling.Protocol;

namespace Curling.Send.Network;

/// <summary>
/// Sends copies to the receiver: of the frames that the guest was given, of which it plays those that no committed round knows of into the
/// promoted guest; and of the last frames that the guest sent, which may be safe there and not have left here when the primary dies. No
/// client then has to wait for a retransmission timer.
/// </summary>
/// <remarks>
/// Thread-safe. Two buffers of a fixed size, filled and sent in turn: what finds no room because the link is slower is left out
/// and counted, and nobody waits. It allocates nothing per frame.
/// </remarks>
internal sealed class InboundCopy : IAsyncDisposable
{
    private const int LengthBytes = 4;
    private const int MarksKept = 256;
    private const int SentPerRound = 32;

    // What QEMU had not read from its socket yet when the guest was stopped is in no round. How long it may have lain there is not
    // known; a frame too many does no harm.
    private static readonly TimeSpan Unread = TimeSpan.FromMilliseconds(20);
    // Frames of one mark came within this time after it.
    private static readonly long MarkEvery = Stopwatch.Frequency / 2000;
    private readonly Lock _lock = new();
    private readonly (long Stamp, long Sequence)[] _marks = new (long, long)[MarksKept];
    private readonly CancellationTokenSource _cancellation = new();

    // Whether there is something to send; a wait for it allocates nothing.
    private readonly Channel<bool> _some = Channel.CreateBounded<bool>(
        new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite, SingleReader = true });

    private byte[] _filling = NewBuffer();
    private byte[] _sending = NewBuffer();
    private int _filled = FrameHeader.Bytes;
    private long _sequence;
    private long _marked;
    private long _sentRound;
    private int _sentOfRound;
    private FrameConnection? _connection;
    private Task _loop = Task.CompletedTask;
    private long _frames;
    private long _bytes;
    private long _leftOut;

    /// <summary>Frames sent.</summary>
    public long Frames => Volatile.Read(ref _frames);

    /// <summary>Bytes that the copies took on the link.</summary>
    public long Bytes => Volatile.Read(ref _bytes);

    /// <summary>Frames left out because the link was too slow.</summary>
    public long LeftOut => Volatile.Read(ref _leftOut);

    /// <summary>Copies travel on this connection from now on, which stays the caller's.</summary>
    public void Attach(FrameConnection connection)
    {
        lock (_lock)
        {
            _connection = connection;
            _filled = FrameHeader.Bytes;
        }

        Signal();
        _loop = RunAsync(connection, _loop);
    }

    /// <summary>The connection ends.</summary>
    public void Detach(FrameConnection connection)
    {
        lock (_lock)
        {
            if (_connection == connection)
            {
                _connection = null;
            }
        }

        Signal();
    }

    /// <summary>Takes frames that the guest was given.</summary>
    /// <param name="network">The network they came from.</param>
    /// <param name="batch">Each with its length before it (big-endian, 4 bytes).</param>
    public void Take(int network, ReadOnlySpan<byte> batch)
    {
        lock (_lock)
        {
            Mark();
            while (batch.Length > LengthBytes)
            {
                int length = BinaryPrimitives.ReadInt32BigEndian(batch);
                ReadOnlySpan<byte> frame = batch.Slice(LengthBytes, length);
                batch = batch[(LengthBytes + length)..];
                Add(new InboundEntry(_sequence++, network, InboundKind.Frame, length), frame);
            }
        }

        Signal();
    }

    /// <summary>Takes a frame that the guest sent and that waits.</summary>
    /// <param name="network">The network.</param>
    /// <param name="round">The round that makes it safe.</param>
    /// <param name="frame">The frame.</param>
    public void Sent(int network, long round, ReadOnlySpan<byte> frame)
    {
        lock (_lock)
        {
            if (round != _sentRound)
            {
                _sentRound = round;
                _sentOfRound = 0;
            }

            // Who sends more than this in one round has more to say, and its peers miss nothing for long.
            if (_sentOfRound++ < SentPerRound)
            {
                Add(new InboundEntry(round, network, InboundKind.Sent, frame.Length), frame);
            }
        }

        Signal();
    }

    /// <summary>The guest stands still for a round: says from which frame on the round does not know them.</summary>
    public void Cut(long round)
    {
        Span<byte> content = stackalloc byte[InboundEntry.CutBytes];
        BinaryPrimitives.WriteInt64LittleEndian(content, round);
        lock (_lock)
        {
            Add(new InboundEntry(SequenceAt(Stopwatch.GetTimestamp() - (long)(Unread.TotalSeconds * Stopwatch.Frequency)), 0, InboundKind.Cut, content.Length), content);
        }

        Signal();
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        _some.Writer.Complete();
        await _loop;
        _cancellation.Dispose();
    }

    private static byte[] NewBuffer() => GC.AllocateUninitializedArray<byte>(FrameHeader.Bytes + ProtocolLimits.MaxContentBytes);

    private void Mark()
    {
        long now = Stopwatch.GetTimestamp();
        if (_marked == 0 || now - _marks[(_marked - 1) % MarksKept].Stamp > MarkEvery)
        {
            _marks[_marked++ % MarksKept] = (now, _sequence);
        }
    }

    /// <summary>The first frame that was given at this time or later, or earlier where that is not known exactly.</summary>
    private long SequenceAt(long stamp)
    {
        long found = _sequence;
        for (long i = _marked - 1; i >= 0 && i > _marked - 1 - MarksKept; i--)
        {
            (long at, long first) = _marks[i % MarksKept];
            if (at + MarkEvery < stamp)
            {
                break;
            }

            found = first;
        }

        return found;
    }

    private void Add(InboundEntry entry, ReadOnlySpan<byte> content)
    {
        if (_connection is null)
        {
            return;
        }

        if (_filling.Length - _filled < InboundEntry.Bytes + content.Length)
        {
            Volatile.Write(ref _leftOut, _leftOut + (entry.Kind == InboundKind.Frame ? 1 : 0));
            return;
        }

        entry.Write(_filling.AsSpan(_filled));
        content.CopyTo(_filling.AsSpan(_filled + InboundEntry.Bytes));
        _filled += InboundEntry.Bytes + content.Length;
        Volatile.Write(ref _frames, _frames + (entry.Kind == InboundKind.Frame ? 1 : 0));
    }

    private void Signal() => _some.Writer.TryWrite(true);

    private async Task RunAsync(FrameConnection connection, Task before)
    {
        await before;
        try
        {
            while (await _some.Reader.WaitToReadAsync(CancellationToken.None))
            {
                _some.Reader.TryRead(out _);
                int length;
                lock (_lock)
                {
                    if (_connection != connection)
                    {
                        // Whoever comes next must not miss what this signal was for.
                        Signal();
                        return;
                    }

                    length = _filled;
                    _filled = FrameHeader.Bytes;
                    (_filling, _sending) = (_sending, _filling);
                }

                if (length > FrameHeader.Bytes)
                {
                    Memory<byte> frame = _sending.AsMemory(0, length);
                    await connection.SendInPlaceAsync(
                        FrameType.Inbound, frame, FrameHeader.HashOf(frame.Span[FrameHeader.Bytes..]), _cancellation.Token);
                    Volatile.Write(ref _bytes, _bytes + length);
                }
            }
        }
        catch (Exception e) when (e is IOException or OperationCanceledException or ObjectDisposedException)
        {
            // Who reads from the connection notices its end, and tells.
        }
    }
}
