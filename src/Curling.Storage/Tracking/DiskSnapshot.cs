using System.Runtime.CompilerServices;

namespace Curling.Storage.Tracking;

/// <summary>The blocks of one round, as they were at its cut.</summary>
/// <remarks>One reader at a time; <see cref="Abandon"/> may be called while it reads. The state is guarded by the disk's lock; the rules are
/// those of <see cref="TrackedDisk"/>.</remarks>
public sealed class DiskSnapshot
{
    private const int Saving = 1 << 30;
    private const int LongRun = 16; // blocks from which asking for holes costs less than reading them
    private const long MaxRun = 1 << 18; // blocks that one call looks at: 1 GiB
    private readonly TrackedDisk _disk;
    private readonly BlockSet _set;
    private readonly Dictionary<long, int> _held; // block → slot, with Saving until its content is there
    private readonly SnapshotPieces _pieces;
    private readonly DiskExtent[] _extents = new DiskExtent[64];
    private long _position; // blocks before it were read
    private long _readEnd; // blocks from the position to here are being read
    private long _left;
    private SnapshotEnd _end;
    private Exception? _failure;

    internal DiskSnapshot(TrackedDisk disk, BlockSet set, long round, Dictionary<long, int> held)
    {
        _disk = disk;
        _set = set;
        _held = held;
        _pieces = new SnapshotPieces(disk.Length);
        _left = set.Count;
        Round = round;
        Bytes = set.Count * BlockSet.BlockBytes;
        if (_left == 0)
        {
            End(SnapshotEnd.Read);
        }
    }

    /// <summary>The round it belongs to.</summary>
    public long Round { get; }

    /// <summary>What it holds, in bytes of whole blocks.</summary>
    public long Bytes { get; }

    /// <summary>How it ended; under the lock.</summary>
    internal SnapshotEnd Ended => _end;

    /// <summary>The memory of what is held, for the next snapshot; under the lock.</summary>
    internal Dictionary<long, int> HeldTable => _held;

    /// <summary>
    /// Reads on: the next runs in ascending order, as many as fit, as they were at the cut. Blocks of zeros and holes are zero runs.
    /// </summary>
    /// <param name="buffer">For the bytes, at least a block of 4096.</param>
    /// <param name="runs">For the runs; a block takes at most one.</param>
    /// <param name="cancellation">Ends the wait for a block that a write is saving; the call can be made again.</param>
    /// <exception cref="DiskException">The image cannot be read; the call can be made again, or the round abandoned.</exception>
    /// <exception cref="OperationCanceledException">Cancelled, or the round was given up (also by <see cref="TrackedDisk.LinkLost"/>).</exception>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    public async ValueTask<SnapshotPart> ReadAsync(Memory<byte> buffer, Memory<DiskRun> runs, CancellationToken cancellation)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(buffer.Length, BlockSet.BlockBytes);
        ArgumentOutOfRangeException.ThrowIfZero(runs.Length);
        while (true)
        {
            Task? wait = null;
            long first;
            long longRun;
            lock (_disk.Guard)
            {
                ThrowIfLost();
                if (_end == SnapshotEnd.Read)
                {
                    return default;
                }

                first = _set.Next(_position);
                longRun = ChooseWindow(first, buffer.Length, runs.Length);
                if (longRun == 0 && _pieces.Count == 0)
                {
                    wait = _disk.Changed.Next();
                }
            }

            if (wait is not null)
            {
                await wait.WaitAsync(cancellation).ConfigureAwait(false);
                continue;
            }

            try
            {
                if (longRun > 0)
                {
                    await ChooseExtentsAsync(first, longRun, buffer.Length, runs.Length, cancellation).ConfigureAwait(false);
                }

                int bytes = await ReadPiecesAsync(buffer, cancellation).ConfigureAwait(false);
                if (FinishWindow(whole: true))
                {
                    _disk.PrepareSpare();
                }

                return _pieces.BuildRuns(buffer.Span[..bytes], runs.Span);
            }
            catch
            {
                _ = FinishWindow(whole: false);
                throw;
            }
        }
    }

    /// <summary>
    /// Gives the round up: the receiver must never commit it. All its blocks count as changed since the cut before, so that nothing is lost.
    /// Only for the newest round.
    /// </summary>
    public void Abandon() => _disk.Abandon(this);

    /// <summary>Whether a write to a range must look closer.</summary>
    internal bool Touches(long first, long end) => _end == SnapshotEnd.None && _set.ContainsAny(Math.Max(first, _position), end);

    /// <summary>
    /// Claims the next blocks of a range whose old content must be saved before a write to it: consecutive ones, as many as there are slots
    /// for. Moves <paramref name="first"/> over what is settled.
    /// </summary>
    /// <returns>True when nothing of the range needs saving any more; otherwise, with no blocks claimed, wait for a change.</returns>
    internal bool Claim(ref long first, long end, Span<int> slots, out long from, out int count)
    {
        from = 0;
        count = 0;
        bool settled = true;
        for (long block = _set.Next(Math.Max(first, _position)); block >= 0 && block < end && count < slots.Length;
            block = _set.Next(block + 1))
        {
            if (_held.TryGetValue(block, out int held))
            {
                settled &= (held & Saving) == 0;
                if (count > 0)
                {
                    break;
                }

                first = settled ? block + 1 : first;
            }
            else if (block < _readEnd)
            {
                settled = false;
            }
            else if (count > 0 && block != from + count)
            {
                break;
            }
            else if (_disk.Held.TryRent(out int slot))
            {
                from = count == 0 ? block : from;
                slots[count++] = slot;
                _held.Add(block, slot | Saving);
            }
            else
            {
                settled = false;
                break;
            }
        }

        return settled && count == 0;
    }

    /// <summary>A claimed block's old content is in its slot.</summary>
    internal void Saved(long block, int slot)
    {
        if (_end == SnapshotEnd.None)
        {
            _held[block] = slot;
        }
        else
        {
            _held.Remove(block);
            _disk.Held.Return(slot);
        }
    }

    /// <summary>The snapshot cannot be read any more.</summary>
    internal void Fail(Exception failure)
    {
        if (_end == SnapshotEnd.None)
        {
            _failure = failure;
            End(SnapshotEnd.Failed);
        }
    }

    /// <summary>Nothing needs to be saved any more. What a write is saving just now is given back by that write.</summary>
    internal void End(SnapshotEnd how)
    {
        if (_end is SnapshotEnd.None or SnapshotEnd.Failed)
        {
            _end = how;
            foreach ((long block, int slot) in _held)
            {
                if ((slot & Saving) == 0)
                {
                    _disk.Held.Return(slot);
                    _held.Remove(block); // allowed while enumerating a dictionary
                }
            }

            _disk.Changed.Fire();
        }
    }

    private void ThrowIfLost()
    {
        if (_failure is not null)
        {
            throw new DiskException(
                _failure is DiskException disk ? disk.Error : DiskError.Io,
                $"the disk's content at the cut of round {Round} could not be saved: {_failure.Message}",
                _failure);
        }

        if (_end == SnapshotEnd.Abandoned)
        {
            throw new OperationCanceledException($"round {Round} was given up");
        }
    }

    /// <summary>Chooses what is read next. Returns the end of a long run that is in the image, or fills the pieces, or neither: wait.</summary>
    private long ChooseWindow(long block, int room, int runs)
    {
        _pieces.Clear();
        if (!_held.ContainsKey(block))
        {
            long end = _set.RunEnd(block, block + (_held.Count == 0 ? MaxRun : Math.Max(LongRun, room / BlockSet.BlockBytes)));
            for (long next = block; _held.Count > 0 && next < end; next++)
            {
                end = _held.ContainsKey(next) ? next : end;
            }

            if (end - block >= LongRun)
            {
                _readEnd = end;
                return end;
            }
        }

        long last = -1;
        for (; block >= 0 && runs > 0; runs--, block = _set.Next(block + 1))
        {
            bool saved = _held.TryGetValue(block, out int slot);
            int length = _pieces.LengthOf(block, block + 1);
            if (length > room || (saved && (slot & Saving) != 0))
            {
                break;
            }

            room -= length;
            _pieces.Add(block, 1, saved ? slot : SnapshotPieces.InImage);
            last = block;
        }

        _readEnd = last < 0 ? _position : last + 1;
        return 0;
    }

    /// <summary>Splits a long run into holes, which need no reading, and as much else as there is room for.</summary>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask ChooseExtentsAsync(long block, long end, int room, int runs, CancellationToken cancellation)
    {
        long offset = block * BlockSet.BlockBytes;
        long endOffset = Math.Min(_disk.Length, end * BlockSet.BlockBytes);
        int count = await _disk.Image.GetExtentsAsync(offset, endOffset - offset, _extents, cancellation).ConfigureAwait(false);
        for (int i = 0; i < count && runs > 0; i++)
        {
            long stop = Math.Min(endOffset, offset + _extents[i].Length);
            long stopBlock = stop == endOffset ? end : stop / BlockSet.BlockBytes; // a block that is only partly a hole is read
            if (_extents[i].IsHole)
            {
                long holeBlock = (offset + BlockSet.BlockBytes - 1) / BlockSet.BlockBytes;
                if (holeBlock < stopBlock)
                {
                    if (!AddData(ref block, holeBlock, ref room, ref runs) || runs == 0)
                    {
                        break;
                    }

                    _pieces.Add(holeBlock, stopBlock - holeBlock, SnapshotPieces.Hole);
                    block = stopBlock;
                    runs--;
                }
            }
            else if (!AddData(ref block, stopBlock, ref room, ref runs))
            {
                break;
            }

            offset = stop;
        }

        if (_pieces.Count == 0)
        {
            _pieces.Add(block, 1, SnapshotPieces.InImage);
            block++;
        }

        lock (_disk.Guard)
        {
            _readEnd = block; // writes behind it need not wait
            _disk.Changed.Fire();
        }
    }

    private bool AddData(ref long block, long end, ref int room, ref int runs)
    {
        long count = Math.Min(end - block, Math.Min(runs, room / BlockSet.BlockBytes));
        if (count > 0)
        {
            _pieces.Add(block, count, SnapshotPieces.InImage);
            block += count;
            room -= (int)count * BlockSet.BlockBytes;
            runs -= (int)count;
        }

        return block == end;
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<int> ReadPiecesAsync(Memory<byte> buffer, CancellationToken cancellation)
    {
        int bytes = 0;
        foreach (SnapshotPieces.Piece piece in _pieces.All)
        {
            if (piece.Slot == SnapshotPieces.Hole)
            {
                continue;
            }

            Memory<byte> into = buffer.Slice(bytes, _pieces.LengthOf(piece.Block, piece.Block + piece.Count));
            if (piece.Slot == SnapshotPieces.InImage)
            {
                await _disk.Image.ReadAsync(piece.Block * BlockSet.BlockBytes, into, cancellation).ConfigureAwait(false);
            }
            else
            {
                lock (_disk.Guard)
                {
                    ThrowIfLost();
                    _disk.Held[piece.Slot][..into.Length].CopyTo(into);
                }
            }

            bytes += into.Length;
        }

        return bytes;
    }

    /// <summary>The window was read, or not: writes to its blocks go on. True when it was the last.</summary>
    private bool FinishWindow(bool whole)
    {
        lock (_disk.Guard)
        {
            if (_end == SnapshotEnd.None && whole)
            {
                foreach (SnapshotPieces.Piece piece in _pieces.All)
                {
                    _left -= piece.Count;
                    if (piece.Slot >= 0)
                    {
                        _held.Remove(piece.Block);
                        _disk.Held.Return(piece.Slot);
                    }
                }

                _position = _readEnd;
                if (_left == 0)
                {
                    End(SnapshotEnd.Read);
                }
            }

            _readEnd = _position;
            _disk.Changed.Fire();
            if (whole && _end != SnapshotEnd.Read)
            {
                ThrowIfLost();
            }

            return _end == SnapshotEnd.Read;
        }
    }
}
