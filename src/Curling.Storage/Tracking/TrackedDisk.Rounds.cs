using System.Diagnostics;

namespace Curling.Storage.Tracking;

/// <content>Cuts and commits.</content>
public sealed partial class TrackedDisk
{
    private const int MaxSpare = 8;
    private readonly List<CutRound> _rounds = []; // cut and not committed, ascending
    private readonly Stack<BlockSet> _spare = new(); // empty sets, so that a cut makes none
    private DiskSnapshot? _open; // the newest snapshot
    private long _newest = -1;
    private long? _completeRound;
    private int _epoch; // raised when what the rounds are held against changes

    /// <summary>Whether writes wait at <see cref="TrackedDiskOptions.MaxDirtyBytes"/>: while rounds are cut.</summary>
    public bool IsBounded { get; private set; }

    /// <summary>The first round with which a replica that has committed it is a true copy; null while the copy is not that far.</summary>
    public long? CompleteRound
    {
        get
        {
            lock (_lock)
            {
                return _completeRound;
            }
        }
    }

    /// <summary>What is not known to be at the replica and would travel with <see cref="BeginResync"/>, in bytes; at most, as what
    /// changed in several rounds counts for each.</summary>
    public long OutstandingBytes
    {
        get
        {
            lock (_lock)
            {
                long blocks = _backlog.Count + _current.Count;
                foreach (CutRound round in _rounds)
                {
                    blocks += round.Blocks.Count;
                }

                return blocks * BlockSet.BlockBytes;
            }
        }
    }

    /// <summary>What the map says, to be held against what a replica says (<c>ReplicaMatch</c>).</summary>
    public (ChangeMapRecord Record, string? Distrust) Map
    {
        get
        {
            lock (_lock)
            {
                return (_map.Record, _map.Distrust);
            }
        }
    }

    /// <summary>Leaves looked at in the sets that a cut touches, for tests.</summary>
    internal long CutWork { get; private set; }

    /// <summary>
    /// Cuts a round: what changed since the cut before, and a portion of the backlog, lowest first, become its snapshot. The guest stands
    /// still and QEMU has answered all its writes. The snapshot of the round before must have been read to its end or abandoned.
    /// </summary>
    /// <param name="round">The round; larger than all before since the last <c>Begin…</c>.</param>
    /// <param name="backlogBytes">At most so much of the backlog.</param>
    /// <exception cref="InvalidOperationException">Writes are under way and stay so, the snapshot before is open, or no copy was begun.</exception>
    public DiskSnapshot Cut(long round, long backlogBytes)
    {
        long began = Stopwatch.GetTimestamp();
        while (true)
        {
            int underWay;
            lock (_lock)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                if (_underWay == 0)
                {
                    return CutNow(round, backlogBytes);
                }

                underWay = _underWay;
            }

            if (Stopwatch.GetElapsedTime(began) > _options.DrainLimit)
            {
                throw new InvalidOperationException(
                    $"round {round} cannot be cut: {underWay} writes to the disk are still under way after {_options.DrainLimit};"
                    + " QEMU must have answered them before the cut");
            }

            Thread.Sleep(0);
        }
    }

    /// <summary>
    /// Lets the writes pass that wait for the next cut, until that cut. Call it before QEMU is stopped for the cut: QEMU stops only when
    /// its writes are answered, and would wait for them as they wait for it.
    /// </summary>
    public void OpenGate()
    {
        lock (_lock)
        {
            _gateOpen = true;
            _changed.Fire();
        }
    }

    /// <summary>Whether writes wait when much changed since the last cut. <c>Begin…</c> sets it, <see cref="LinkLost"/> takes it back.</summary>
    public void SetTracking(bool bounded)
    {
        lock (_lock)
        {
            IsBounded = bounded;
            _changed.Fire();
        }
    }

    /// <summary>
    /// The receiver has this round and all before it: what they carried and nothing newer touches is known to be at the replica. Rounds that
    /// are not known (any more) are ignored.
    /// </summary>
    /// <exception cref="InvalidOperationException">The round's snapshot has not been read.</exception>
    public void Committed(long round)
    {
        while (true)
        {
            BlockSet blocks;
            int epoch;
            lock (_lock)
            {
                if (_disposed || _rounds.Count == 0 || _rounds[0].Round > round)
                {
                    return;
                }

                if (_open?.Round == _rounds[0].Round && _open.Ended != SnapshotEnd.Read)
                {
                    throw new InvalidOperationException($"round {_open.Round} cannot be committed: the disk's part was not read yet");
                }

                // The position first: a replica that is behind it must never be taken for one that has what the bits say.
                _map.Set(_map.Record with { KnownSession = _map.Record.Session, KnownRound = _rounds[0].Round }, _map.Distrust);
                blocks = _rounds[0].Blocks;
                _rounds.RemoveAt(0);
                epoch = _epoch;
            }

            ClearRegions(blocks, epoch);
            Reuse(blocks);
        }
    }

    /// <summary>
    /// Nothing that was cut and not committed may be taken to be at the replica: it joins the backlog, the open snapshot is given up, and no
    /// write waits any more. Writes go on being tracked; rounds are cut again after <see cref="BeginResync"/> or <see cref="BeginBaseCopyAsync"/>.
    /// </summary>
    public void LinkLost()
    {
        lock (_lock)
        {
            _epoch++;
            _open?.End(SnapshotEnd.Abandoned);
            _open = null;
            foreach (CutRound round in _rounds)
            {
                _backlog.AddAll(round.Blocks);
                Reuse(round.Blocks);
            }

            _rounds.Clear();
            _completeRound = null;
            IsBounded = false;
            _copying = false;
            _changed.Fire();
        }
    }

    /// <summary>Has an empty set ready for the next cut; called where time matters less.</summary>
    internal void PrepareSpare()
    {
        lock (_lock)
        {
            if (_spare.Count > 0)
            {
                return;
            }
        }

        Reuse(NewSet());
    }

    /// <summary>Gives the newest round up; see <see cref="DiskSnapshot.Abandon"/>.</summary>
    internal void Abandon(DiskSnapshot snapshot)
    {
        lock (_lock)
        {
            if (snapshot.Ended == SnapshotEnd.Abandoned || _disposed || _open is null)
            {
                return; // the link was lost meanwhile: all of it is outstanding
            }

            if (_open != snapshot || _rounds.Count == 0 || _rounds[^1].Round != snapshot.Round)
            {
                throw new InvalidOperationException($"round {snapshot.Round} is not the newest, or it is committed: it cannot be abandoned");
            }

            snapshot.End(SnapshotEnd.Abandoned);
            BlockSet blocks = _rounds[^1].Blocks;
            _rounds.RemoveAt(_rounds.Count - 1);
            _current.AddAll(blocks);
            Reuse(blocks);
            _completeRound = _completeRound == snapshot.Round ? null : _completeRound;
            _open = null;
            _changed.Fire();
        }
    }

    private DiskSnapshot CutNow(long round, long backlogBytes)
    {
        if (!_copying)
        {
            throw new InvalidOperationException("a copy to a replica must be begun before rounds are cut");
        }

        if (_open is { Ended: SnapshotEnd.None or SnapshotEnd.Failed })
        {
            throw new InvalidOperationException($"the snapshot of round {_open.Round} was neither read to its end nor abandoned");
        }

        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(round, _newest);
        BlockSet blocks = _current;
        BlockSet empty = _spare.TryPop(out BlockSet? spare) ? spare : NewSet();
        long work = blocks.Work + empty.Work + _backlog.Work;
        _current = empty;
        if (backlogBytes > 0)
        {
            _backlog.MoveLowest(blocks, Math.Max(1, backlogBytes / BlockSet.BlockBytes));
        }

        if (_backlog.Count == 0)
        {
            _completeRound ??= round;
        }

        _newest = round;
        _rounds.Add(new CutRound(round, blocks));
        _gateOpen = false;

        // A table that a write still has to clean up stays with its snapshot.
        Dictionary<long, int> held = _open?.HeldTable is { Count: 0 } table ? table : [];
        _open = new DiskSnapshot(this, blocks, round, held);
        CutWork += blocks.Work + empty.Work + _backlog.Work - work;
        _changed.Fire();
        return _open;
    }

    /// <summary>Clears the regions of a committed round of which no other set has a block.</summary>
    private void ClearRegions(BlockSet committed, int epoch)
    {
        int blocksInRegion = _map.RegionBlocks;
        for (long block = committed.Next(0); block >= 0;)
        {
            lock (_lock)
            {
                for (int i = 0; i < 256 && block >= 0 && _epoch == epoch && !_disposed; i++)
                {
                    long region = block / blocksInRegion;
                    if (!IsOutstanding(region * blocksInRegion, Math.Min(Blocks, (region + 1) * blocksInRegion)))
                    {
                        _map.Clear(region);
                    }

                    block = committed.Next((region + 1) * blocksInRegion);
                }

                if (_epoch != epoch || _disposed)
                {
                    return;
                }
            }
        }
    }

    private bool IsOutstanding(long first, long end)
    {
        if (_current.ContainsAny(first, end) || _backlog.ContainsAny(first, end))
        {
            return true;
        }

        foreach (CutRound round in _rounds)
        {
            if (round.Blocks.ContainsAny(first, end))
            {
                return true;
            }
        }

        return false;
    }

    private void Reuse(BlockSet blocks)
    {
        blocks.Clear();
        lock (_lock)
        {
            if (_spare.Count < MaxSpare)
            {
                _spare.Push(blocks);
            }
        }
    }

    private readonly record struct CutRound(long Round, BlockSet Blocks);
}
