using System.Buffers;
using System.Buffers.Binary;
using System.Diagnostics;
using Curling.Hosting.Network;
using Curling.Protocol;

namespace Curling.Recv.Sessions;

/// <summary>
/// Keeps the frames that the guest was given at the primary and that no committed round knows of; after a promotion the guest gets
/// them here.
/// </summary>
/// <remarks>Thread-safe. Bounded: the oldest are dropped, and counted, where there is no more room.</remarks>
internal sealed class InboundBuffer(int networks)
{
    /// <summary>What is kept at most.</summary>
    public const long MaxBytes = 16L << 20;

    // What was safe one round earlier has most likely left, but the last may have been fast.
    private const int SentRounds = 2;
    private const int MaxSentPieces = 512;

    // Nobody waits that long for an answer: what is older would only confuse.
    private static readonly TimeSpan Fresh = TimeSpan.FromSeconds(10);
    private readonly Lock _lock = new();
    private readonly Queue<Segment> _segments = new();
    private readonly Queue<(long Round, long Sequence)> _cuts = new();
    private readonly Queue<(byte[] Buffer, int Length, long Round, long Stamp)> _sent = new();
    private long _committed;
    private long _from;
    private long _bytes;
    private long _frames;
    private long _dropped;

    /// <summary>Frames kept, their bytes, and frames dropped for want of room.</summary>
    public (long Frames, long Bytes, long Dropped) Counters
    {
        get
        {
            lock (_lock)
            {
                return (_frames, _bytes, _dropped);
            }
        }
    }

    /// <summary>Takes in the payload of an <see cref="FrameType.Inbound"/> frame.</summary>
    /// <param name="buffer">From <see cref="ArrayPool{T}.Shared"/>; owned here from now on, also when this throws.</param>
    /// <param name="length">Bytes of payload in it.</param>
    /// <exception cref="ProtocolException">An entry cannot be understood.</exception>
    public void Add(byte[] buffer, int length)
    {
        int frames = 0;
        long last = -1;
        long sent = 0;
        try
        {
            for (int at = 0; at < length;)
            {
                InboundEntry entry = InboundEntry.Read(buffer.AsSpan(at, length - at), networks);
                at += InboundEntry.Bytes;
                if (entry.Kind == InboundKind.Cut)
                {
                    Cut(BinaryPrimitives.ReadInt64LittleEndian(buffer.AsSpan(at)), entry.Sequence);
                }
                else if (entry.Kind == InboundKind.Sent)
                {
                    sent = Math.Max(sent, entry.Sequence);
                }
                else
                {
                    last = Math.Max(last, entry.Sequence);
                    frames++;
                }

                at += entry.Length;
            }
        }
        catch
        {
            ArrayPool<byte>.Shared.Return(buffer);
            throw;
        }

        lock (_lock)
        {
            if (sent > _committed - SentRounds)
            {
                KeepSent(buffer.AsSpan(0, length), sent);
            }

            if (last < _from)
            {
                ArrayPool<byte>.Shared.Return(buffer);
                return;
            }

            _segments.Enqueue(new Segment(buffer, length, frames, last, Stopwatch.GetTimestamp()));
            _bytes += length;
            _frames += frames;
            while (_bytes > MaxBytes && _segments.Count > 1)
            {
                _dropped += _segments.Peek().Frames;
                Drop();
            }
        }
    }

    /// <summary>A round is committed: frames that it knows of are dropped.</summary>
    public void Committed(long round)
    {
        lock (_lock)
        {
            _committed = Math.Max(_committed, round);
            Trim();
        }
    }

    /// <summary>
    /// What the guest had sent at the primary before the committed round was cut, as far as it may not have left there: the last rounds'. A
    /// network may always duplicate.
    /// </summary>
    public ReplayedFrames TakeSent()
    {
        List<(int, ReadOnlyMemory<byte>)> frames = [];
        lock (_lock)
        {
            foreach ((byte[] buffer, int length, _, long stamp) in _sent)
            {
                for (int at = 0; at < length && Stopwatch.GetElapsedTime(stamp) < Fresh;)
                {
                    InboundEntry entry = InboundEntry.Read(buffer.AsSpan(at, length - at), networks);

                    // What was sent after the cut is unsaid: the guest says it anew, or something else.
                    if (entry.Sequence <= _committed && entry.Sequence > _committed - SentRounds)
                    {
                        frames.Add((entry.Network, buffer.AsMemory(at + InboundEntry.FramedAt, sizeof(int) + entry.Length)));
                    }

                    at += InboundEntry.Bytes + entry.Length;
                }
            }

            // Not given back to the pool: whoever plays them reads from there.
            _sent.Clear();
        }

        return new ReplayedFrames(frames);
    }

    /// <summary>What the guest gets after a promotion; the buffer is empty afterwards.</summary>
    public ReplayedFrames Take()
    {
        List<(int, ReadOnlyMemory<byte>)> frames = [];
        lock (_lock)
        {
            foreach (Segment segment in _segments)
            {
                for (int at = 0; at < segment.Length && Stopwatch.GetElapsedTime(segment.Stamp) < Fresh;)
                {
                    InboundEntry entry = InboundEntry.Read(segment.Buffer.AsSpan(at, segment.Length - at), networks);
                    if (entry.Kind == InboundKind.Frame && entry.Sequence >= _from)
                    {
                        frames.Add((entry.Network, segment.Buffer.AsMemory(at + InboundEntry.FramedAt, sizeof(int) + entry.Length)));
                    }

                    at += InboundEntry.Bytes + entry.Length;
                }
            }

            // Not given back to the pool: whoever plays them reads from there.
            _segments.Clear();
            _bytes = 0;
            _frames = 0;
        }

        return new ReplayedFrames(frames);
    }

    private void Cut(long round, long sequence)
    {
        lock (_lock)
        {
            _cuts.Enqueue((round, sequence));
            Trim();
        }
    }

    private void KeepSent(ReadOnlySpan<byte> payload, long round)
    {
        byte[] kept = ArrayPool<byte>.Shared.Rent(payload.Length);
        int length = 0;
        for (int at = 0; at < payload.Length;)
        {
            InboundEntry entry = InboundEntry.Read(payload[at..], networks);
            int whole = InboundEntry.Bytes + entry.Length;
            if (entry.Kind == InboundKind.Sent)
            {
                payload.Slice(at, whole).CopyTo(kept.AsSpan(length));
                length += whole;
            }

            at += whole;
        }

        _sent.Enqueue((kept, length, round, Stopwatch.GetTimestamp()));

        // Rounds that are not committed for long must not fill the memory.
        while (_sent.Count > MaxSentPieces)
        {
            ArrayPool<byte>.Shared.Return(_sent.Dequeue().Buffer);
        }
    }

    private void Trim()
    {
        while (_sent.TryPeek(out (byte[] Buffer, int, long Round, long) sent) && sent.Round <= _committed - SentRounds)
        {
            ArrayPool<byte>.Shared.Return(_sent.Dequeue().Buffer);
        }

        while (_cuts.TryPeek(out (long Round, long Sequence) cut) && cut.Round <= _committed)
        {
            _cuts.Dequeue();
            _from = Math.Max(_from, cut.Sequence);
        }

        while (_segments.TryPeek(out Segment segment) && segment.Last < _from)
        {
            Drop();
        }
    }

    private void Drop()
    {
        Segment segment = _segments.Dequeue();
        _bytes -= segment.Length;
        _frames -= segment.Frames;
        ArrayPool<byte>.Shared.Return(segment.Buffer);
    }

    private readonly record struct Segment(byte[] Buffer, int Length, int Frames, long Last, long Stamp);
}
