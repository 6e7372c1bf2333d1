namespace Curling.Replication.Output;

/// <summary>
/// Output commit: decides when a frame that the guest sent may leave the host. Frames of an epoch, the time between two cuts, may
/// leave when the receiver has said that the round which closed the epoch is complete: from then on no failover can lose the
/// state that sent them. It knows numbers only; the frames stay with the caller, one line per network, in order.
/// </summary>
/// <remarks>
/// Thread-safe, no clock, no allocation per frame. The rule of the epochs: <see cref="Cut"/> is called while the guest stands
/// still, before it is let run. A frame that was sent before the cut and is admitted after it belongs to the later epoch and
/// leaves late, which is safe; the other way round cannot be.
/// </remarks>
public sealed class OutputGate
{
    // The epoch of frames that may leave at once.
    private const long Free = 0;
    private readonly Lock _lock = new();
    private readonly Line[] _lines;
    private long _lastCut;
    private long _lastComplete;
    private long _holdsFrom = long.MaxValue;
    private bool _holds;
    private long _framesOfOpenEpoch;

    /// <summary>Creates a gate that lets everything through until <see cref="Protect"/>.</summary>
    /// <param name="networks">How many lines there are.</param>
    public OutputGate(int networks)
    {
        _lines = new Line[networks];
        for (int i = 0; i < networks; i++)
        {
            _lines[i] = new Line();
        }
    }

    /// <summary>Whether frames wait for the next cut: a round is wanted.</summary>
    public bool WantsRound
    {
        get
        {
            lock (_lock)
            {
                return _framesOfOpenEpoch > 0;
            }
        }
    }

    /// <summary>Whether output waits for rounds.</summary>
    public bool Holds
    {
        get
        {
            lock (_lock)
            {
                return _holds;
            }
        }
    }

    /// <summary>Frames that wait, of all lines, those that may leave included.</summary>
    public long Held
    {
        get
        {
            lock (_lock)
            {
                long held = 0;
                foreach (Line line in _lines)
                {
                    held += line.Frames;
                }

                return held;
            }
        }
    }

    /// <summary>A connection begins: from the cut of its first round on, what the guest sends is held.</summary>
    /// <param name="firstRound">The first round of the connection, which stands alone.</param>
    public void Protect(long firstRound)
    {
        lock (_lock)
        {
            _holdsFrom = firstRound;
        }
    }

    /// <summary>The guest runs unprotected: everything may leave, now and from now on.</summary>
    public void Unprotect()
    {
        lock (_lock)
        {
            _holdsFrom = long.MaxValue;
            _holds = false;
            _framesOfOpenEpoch = 0;
            foreach (Line line in _lines)
            {
                line.FreeAll();
            }
        }
    }

    /// <summary>The guest stands still for a round: what it sends afterwards belongs to the next epoch.</summary>
    /// <param name="round">The round; it closes the epoch that was open.</param>
    public void Cut(long round)
    {
        lock (_lock)
        {
            // A round of a connection that is gone closes nothing: nobody will acknowledge it.
            if (round < _holdsFrom)
            {
                return;
            }

            _holds = true;
            _lastCut = round;
            _framesOfOpenEpoch = 0;
        }
    }

    /// <summary>The receiver has a round whole: what was sent before its cut may leave.</summary>
    public void Complete(long round)
    {
        lock (_lock)
        {
            _lastComplete = Math.Max(_lastComplete, Math.Min(round, _lastCut));
        }
    }

    /// <summary>Takes frames in at the end of a line.</summary>
    /// <param name="network">The line.</param>
    /// <param name="frames">How many.</param>
    /// <returns>Whether they are the first to wait for the next cut.</returns>
    public bool Admit(int network, int frames) => Admit(network, frames, out _);

    /// <summary>Takes frames in at the end of a line.</summary>
    /// <param name="network">The line.</param>
    /// <param name="frames">How many.</param>
    /// <param name="epoch">The earliest round that can make them safe; 0 when they need not wait.</param>
    /// <returns>Whether they are the first to wait for the next cut.</returns>
    public bool Admit(int network, int frames, out long epoch)
    {
        lock (_lock)
        {
            epoch = _holds ? _lastCut + 1 : Free;
            if (!_holds)
            {
                _lines[network].Add(Free, frames);
                return false;
            }

            _lines[network].Add(epoch, frames);
            _framesOfOpenEpoch += frames;
            return _framesOfOpenEpoch == frames;
        }
    }

    /// <summary>How many frames at the head of a line may leave.</summary>
    public int Releasable(int network)
    {
        lock (_lock)
        {
            return _lines[network].CountTo(_lastComplete);
        }
    }

    /// <summary>Frames at the head of a line have left, or were dropped by the caller.</summary>
    /// <param name="network">The line.</param>
    /// <param name="frames">How many, at most what <see cref="Releasable"/> said.</param>
    /// <exception cref="InvalidOperationException">They may not leave yet.</exception>
    public void Release(int network, int frames)
    {
        lock (_lock)
        {
            if (frames > _lines[network].CountTo(_lastComplete))
            {
                throw new InvalidOperationException("more frames were released than may leave");
            }

            _lines[network].Remove(frames);
        }
    }

    private sealed class Line
    {
        // One entry per epoch: as many as rounds are in flight, and one more.
        private readonly Queue<(long Epoch, int Frames)> _closed = new();
        private (long Epoch, int Frames) _last;

        public int Frames { get; private set; }

        public void Add(long epoch, int frames)
        {
            if (_last.Frames > 0 && _last.Epoch != epoch)
            {
                _closed.Enqueue(_last);
                _last = default;
            }

            _last = (epoch, _last.Frames + frames);
            Frames += frames;
        }

        public int CountTo(long epoch)
        {
            int count = 0;
            foreach ((long of, int frames) in _closed)
            {
                // In order: what stands behind a frame that waits, waits too.
                if (of > epoch)
                {
                    return count;
                }

                count += frames;
            }

            return _last.Epoch <= epoch ? count + _last.Frames : count;
        }

        public void Remove(int frames)
        {
            Frames -= frames;
            while (frames > 0)
            {
                (long epoch, int there) = _closed.Count > 0 ? _closed.Peek() : _last;
                int now = Math.Min(frames, there);
                frames -= now;
                if (_closed.Count == 0)
                {
                    _last = (epoch, there - now);
                }
                else if (now == there)
                {
                    _closed.Dequeue();
                }
                else
                {
                    ShortenFirst(now);
                }
            }
        }

        public void FreeAll()
        {
            _closed.Clear();
            _last = (Free, Frames);
        }

        private void ShortenFirst(int frames)
        {
            // A queue has no way to change its head: turn it once round.
            int count = _closed.Count;
            for (int i = 0; i < count; i++)
            {
                (long epoch, int there) = _closed.Dequeue();
                _closed.Enqueue((epoch, i == 0 ? there - frames : there));
            }
        }
    }
}
