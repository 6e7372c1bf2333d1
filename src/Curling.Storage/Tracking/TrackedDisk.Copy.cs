namespace Curling.Storage.Tracking;

/// <content>The copy of what the replica does not have: all of the disk, or what changed while there was no link.</content>
public sealed partial class TrackedDisk
{
    private const long Portion = 1 << 18; // blocks that are added under one hold of the lock
    private readonly BlockSet _backlog;
    private long _backlogTotal;
    private bool _copying; // a copy was begun and the link was not lost since
    private bool _beginning;

    /// <summary>What the copy has still to carry.</summary>
    public BacklogStatus Backlog
    {
        get
        {
            lock (_lock)
            {
                return new BacklogStatus(_backlog.Count * BlockSet.BlockBytes, _backlogTotal * BlockSet.BlockBytes);
            }
        }
    }

    /// <summary>The replica is the one the map is about: everything outstanding becomes the backlog, and rounds may be cut.</summary>
    /// <param name="session">This sender's session: what a replica's record says of rounds committed from now on.</param>
    /// <param name="replicaSession">The session of the replica's last round, as it said.</param>
    /// <param name="replicaRound">The replica's last round, as it said.</param>
    /// <exception cref="InvalidOperationException">The map cannot tell (see <see cref="Map"/>), or the link was not lost.</exception>
    public void BeginResync(Guid session, Guid replicaSession, long replicaRound)
    {
        lock (_lock)
        {
            BeginAllowed();
            if (_map.Distrust is { } why)
            {
                throw new InvalidOperationException($"only a full copy is possible: {why}");
            }

            _map.Set(_map.Record with { KnownSession = replicaSession, KnownRound = replicaRound, Session = session }, null);
            _backlog.AddAll(_current);
            _current.Clear();
            Started();
        }
    }

    /// <summary>A full copy: all that takes room in the image becomes the backlog, and rounds may be cut.</summary>
    /// <param name="replicaId">The replica.</param>
    /// <param name="session">This sender's session.</param>
    /// <param name="replicaIsEmpty">The replica reads as zeros everywhere, so that holes need not travel.</param>
    /// <param name="cancellation">Ends the look through the image; the copy must then be begun again.</param>
    /// <exception cref="DiskException">The image cannot tell its extents.</exception>
    public async Task BeginBaseCopyAsync(Guid replicaId, Guid session, bool replicaIsEmpty, CancellationToken cancellation)
    {
        lock (_lock)
        {
            BeginAllowed();
            _beginning = true;
            _epoch++;

            // Until all is marked, the file says that nothing is known.
            _map.Set(_map.Record with { ReplicaId = Guid.Empty, Session = Guid.Empty, KnownSession = Guid.Empty, KnownRound = 0 }, "a full copy was begun");
            _map.ClearAll();
            MarkAll(_current);

            // What waits there stays: a write to it may be under way still, and reach the image after the look through it has found a hole.
            MarkAll(_backlog);
        }

        try
        {
            await FillBacklogAsync(replicaIsEmpty, cancellation).ConfigureAwait(false);
            lock (_lock)
            {
                _map.Set(_map.Record with { ReplicaId = replicaId, Session = session, KnownSession = session }, null);
                Started();
            }
        }
        finally
        {
            lock (_lock)
            {
                _beginning = false;
            }
        }
    }

    private void MarkAll(BlockSet set)
    {
        for (long block = set.Next(0); block >= 0;)
        {
            long end = set.RunEnd(block, Blocks);
            _map.Mark(block, end);
            block = set.Next(end);
        }
    }

    private void BeginAllowed()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (_copying || _beginning)
        {
            throw new InvalidOperationException("a copy is under way; it ends with the link");
        }
    }

    private void Started()
    {
        _backlogTotal = _backlog.Count;
        _newest = -1;
        _copying = true;
        IsBounded = true;
        _completeRound = null;
    }

    private async Task FillBacklogAsync(bool replicaIsEmpty, CancellationToken cancellation)
    {
        DiskExtent[] extents = new DiskExtent[256];
        for (long offset = 0; offset < Length;)
        {
            extents[0] = new DiskExtent(Length - offset, IsHole: false);
            int count = replicaIsEmpty
                ? await _image.GetExtentsAsync(offset, Length - offset, extents, cancellation).ConfigureAwait(false)
                : 1;
            long before = offset;
            for (int i = 0; i < count; i++)
            {
                long length = Math.Min(extents[i].Length, Length - offset);
                if (!extents[i].IsHole && length > 0)
                {
                    AddToBacklog(offset, length);
                }

                offset += length;
            }

            if (offset == before)
            {
                throw new DiskException(DiskError.Io, $"the image does not tell how it is made up from {offset} on");
            }
        }
    }

    private void AddToBacklog(long offset, long length)
    {
        (long first, long end) = BlocksOf(offset, length);
        for (; first < end; first += Portion)
        {
            lock (_lock)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                long stop = Math.Min(end, first + Portion);
                _map.Mark(first, stop);
                _backlog.Add(first, stop);
                _current.Remove(first, stop);
            }
        }
    }
}
