namespace Curling.Simulation.Network;

/// <summary>
/// One direction of a connection: bytes that keep their order, cut anywhere on their way, late, and lost or changed when things go wrong.
/// </summary>
internal sealed class Pipe(History history, string name, PairOptions options, Func<bool> faulty)
{
    // An empty piece is the end of the stream.
    private readonly Queue<ReadOnlyMemory<byte>> _underWay = new();
    private readonly Queue<ReadOnlyMemory<byte>> _arrived = new();
    private long _last;
    private long _unreadSince;
    private bool _closed;
    private bool _swallows;

    /// <summary>Whether something arrived before a moment, in milliseconds, and was not read yet.</summary>
    public bool HasUnreadFromBefore(double moment) => _arrived.Count > 0 && _unreadSince < moment;

    /// <summary>The end of the stream is the network's word, after nobody answered: the peer may live.</summary>
    public bool TimedOut { get; private set; }

    /// <summary>Called when there is something to read.</summary>
    public Action Readable { get; set; } = () => { };

    /// <summary>Sends bytes, which belong to the pipe from now on.</summary>
    public void Write(byte[] bytes)
    {
        if (_closed || _swallows)
        {
            return;
        }

        if (options.FlipsPerMille > 0 && history.Between(1, 1_000) <= options.FlipsPerMille && faulty())
        {
            int bit = history.Between(0, (bytes.Length * 8) - 1);
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
            history.Note(name, $"bit {bit} of {bytes.Length} bytes is flipped");
        }

        ReadOnlyMemory<byte> rest = bytes;
        while (rest.Length > 1 && history.Chance(options.Splits))
        {
            int at = history.Between(1, rest.Length - 1);
            Plan(rest[..at]);
            rest = rest[at..];
        }

        Plan(rest);
    }

    /// <summary>The writer ends the stream; what it wrote before still arrives.</summary>
    public void Close()
    {
        if (!_closed)
        {
            _closed = true;
            if (!_swallows)
            {
                Plan(ReadOnlyMemory<byte>.Empty);
            }
        }
    }

    /// <summary>The network swallows what is under way and all that follows; it may tell the reader that the connection is gone.</summary>
    public void Swallow(bool tell)
    {
        if (_swallows)
        {
            return;
        }

        _swallows = true;
        _underWay.Clear();
        if (tell)
        {
            TimedOut = history.Chance(30);
            _last = Math.Max(_last, history.Milliseconds + history.Between(0, 40));
            Plan(ReadOnlyMemory<byte>.Empty);
        }
    }

    /// <summary>The writer's process ends while it writes: of what is under way a part arrives, down to any byte, then the end.</summary>
    public void Tear()
    {
        if (_closed || _swallows)
        {
            return;
        }

        ReadOnlyMemory<byte>[] pieces = [.. _underWay];
        _underWay.Clear();
        int whole = history.Between(0, pieces.Length);
        foreach (ReadOnlyMemory<byte> piece in pieces.Take(whole))
        {
            _underWay.Enqueue(piece);
        }

        if (whole < pieces.Length && pieces[whole].Length > 1)
        {
            _underWay.Enqueue(pieces[whole][..history.Between(1, pieces[whole].Length - 1)]);
        }

        Close();
    }

    /// <summary>Nothing arrives for a while, then everything.</summary>
    public void Stall(int milliseconds) => _last = Math.Max(_last, history.Milliseconds + milliseconds);

    /// <summary>Takes the next piece that has arrived; an empty one is the end of the stream.</summary>
    public bool TryRead(out ReadOnlyMemory<byte> piece) => _arrived.TryDequeue(out piece);

    private void Plan(ReadOnlyMemory<byte> piece)
    {
        _underWay.Enqueue(piece);
        _last = Math.Max(_last, history.Milliseconds + history.Between(0, 6));
        history.In(_last - history.Milliseconds, () =>
        {
            if (_underWay.TryDequeue(out ReadOnlyMemory<byte> next))
            {
                _unreadSince = _arrived.Count == 0 ? history.Milliseconds : _unreadSince;
                _arrived.Enqueue(next);
                Readable();
            }
        });
    }
}
