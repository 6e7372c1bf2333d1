using System.Runtime.CompilerServices;
using Curling.Linux.Storage;

namespace Curling.Storage.Tracking;

/// <summary>
/// Stands before a disk's image and knows which blocks a round has to carry. A write marks its blocks; a cut takes the marked set as the
/// round's <see cref="DiskSnapshot"/>; a write to a block of the snapshot that nobody has read yet saves the old content first.
/// </summary>
/// <remarks>
/// <para>One lock guards all sets, the snapshot's state and the map. No I/O and no waiting happens under it. The rules:</para>
/// <para>1. A write takes the lock, marks its blocks in the current set and the map, and is under way until the image has answered.</para>
/// <para>2. If it touches blocks of the open snapshot that were neither read nor saved, it marks them "saving", reads their old content
/// outside the lock, marks them "saved", and only then passes on. A block that is being saved by another write, or being read by the reader, is
/// waited for: both end without waiting for anything but the image.</para>
/// <para>3. The reader marks a window "being read" only over blocks that are not being saved, reads outside the lock, and then moves its
/// position behind the window. It never waits for memory, so writes that wait for memory always go on.</para>
/// <para>4. At a cut no write is under way, so the image then is the snapshot.</para>
/// <para>Requests come from any thread. <see cref="Cut"/>, the snapshot's reader, and the rest are each called by one thread at a time,
/// which need not be the same one. Owns the image and the map.</para>
/// </remarks>
public sealed partial class TrackedDisk : IDiskBackend
{
    private readonly IDiskBackend _image;
    private readonly ChangeMap _map;
    private readonly TrackedDiskOptions _options;
    private readonly BlockSet.LeafPool _leaves = new();
    private readonly Lock _lock = new();
    private readonly Pulse _changed = new();
    private BlockSet _current;
    private int _underWay;
    private bool _gateOpen;
    private bool _disposed;
    private long _gateWaits;

    /// <summary>Takes over an image and its map. What the map says is not at the replica becomes the backlog.</summary>
    /// <exception cref="ArgumentException">The map is of a disk of another size.</exception>
    public TrackedDisk(IDiskBackend image, ChangeMap map, TrackedDiskOptions options)
    {
        if (map.Record.DiskLength != image.Length)
        {
            throw new ArgumentException("the map is of a disk of another size", nameof(map));
        }

        _image = image;
        _map = map;
        _options = options;
        Blocks = (image.Length + BlockSet.BlockBytes - 1) / BlockSet.BlockBytes;
        _current = NewSet();
        _spare.Push(NewSet());
        _backlog = NewSet();
        Held = new HeldBlocks(options.MaxHeldBytes);
        if (map.Distrust is null)
        {
            for (long region = map.NextMarked(0); region >= 0; region = map.NextMarked(region + 1))
            {
                long first = region * map.RegionBlocks;
                _backlog.Add(first, Math.Min(Blocks, first + map.RegionBlocks));
            }
        }
    }

    /// <inheritdoc/>
    public long Length => _image.Length;

    /// <inheritdoc/>
    public bool IsReadOnly => _image.IsReadOnly;

    /// <summary>What changed since the last cut, in bytes of whole blocks. For a caller that cuts early beyond a bound.</summary>
    public long DirtyBytes
    {
        get
        {
            lock (_lock)
            {
                return _current.Count * BlockSet.BlockBytes;
            }
        }
    }

    /// <summary>Counters, for status.</summary>
    public TrackedDiskCounters Counters
    {
        get
        {
            lock (_lock)
            {
                return new TrackedDiskCounters(
                    (long)Held.Rented * BlockSet.BlockBytes, _savedBlocks, _snapshotWaits, _gateWaits, new TimeSpan(_waitTicks));
            }
        }
    }

    /// <summary>The disk's size in blocks.</summary>
    internal long Blocks { get; }

    /// <summary>The image itself, for the snapshot's reader.</summary>
    internal IDiskBackend Image => _image;

    /// <summary>What guards everything here and in the open snapshot.</summary>
    internal Lock Guard => _lock;

    /// <summary>Fired under the lock when a waiting write may go on.</summary>
    internal Pulse Changed => _changed;

    /// <summary>The memory for old content, under the lock.</summary>
    internal HeldBlocks Held { get; }

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation) =>
        _image.ReadAsync(offset, into, cancellation);

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation) => _image.FlushAsync(cancellation);

    /// <inheritdoc/>
    public ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation) =>
        _image.GetExtentsAsync(offset, length, into, cancellation);

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        if (!TryEnter(offset, data.Length))
        {
            return EnterAndWriteAsync(offset, data, cancellation);
        }

        ValueTask write;
        try
        {
            write = _image.WriteAsync(offset, data, cancellation);
        }
        catch
        {
            Leave();
            throw;
        }

        return LeaveAfter(write);
    }

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation)
    {
        await EnterAsync(offset, length, cancellation).ConfigureAwait(false);
        try
        {
            await _image.ZeroAsync(offset, length, mayDeallocate, cancellation).ConfigureAwait(false);
        }
        finally
        {
            Leave();
        }
    }

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask TrimAsync(long offset, long length, CancellationToken cancellation)
    {
        await EnterAsync(offset, length, cancellation).ConfigureAwait(false);
        try
        {
            await _image.TrimAsync(offset, length, cancellation).ConfigureAwait(false);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Called every second or so: notes in the map that how the image looks now was seen.</summary>
    public void See()
    {
        FileStamp? now = _options.ImagePath is { } path ? FileStamp.Of(path) : null;
        lock (_lock)
        {
            if (!_disposed)
            {
                _map.See(now);
            }
        }
    }

    /// <summary>Lets writes that wait at the gate end with an error, and closes the image and the map.</summary>
    public async ValueTask DisposeAsync()
    {
        lock (_lock)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            _open?.End(SnapshotEnd.Abandoned);
            _changed.Fire();
        }

        await _image.DisposeAsync().ConfigureAwait(false);
        FileStamp? left = _options.ImagePath is { } path ? FileStamp.Of(path) : null;
        lock (_lock)
        {
            if (_options.ImagePath is not null)
            {
                _map.SeeLast(left);
            }

            _map.Dispose();
        }
    }

    private BlockSet NewSet() => new(Blocks, _leaves);

    /// <summary>The common case: the gate is open and no block of the open snapshot is touched.</summary>
    private bool TryEnter(long offset, long length)
    {
        (long first, long end) = BlocksOf(offset, length);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (GateIsClosed || (_open is { } snapshot && snapshot.Touches(first, end)))
            {
                return false;
            }

            Mark(first, end);
            _underWay++;
            return true;
        }
    }

    private bool GateIsClosed =>
        IsBounded && !_gateOpen && _current.Count * BlockSet.BlockBytes >= _options.MaxDirtyBytes;

    private void Mark(long first, long end)
    {
        // What waits in the backlog travels as of a later cut anyway. The map comes first: the write may reach the image after this process.
        _map.Mark(first, end);
        _current.Add(first, end, _backlog.Count == 0 ? null : _backlog);
    }

    private (long First, long End) BlocksOf(long offset, long length)
    {
        if (offset < 0 || length < 0 || offset > Length - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), $"{offset}+{length} is not inside a disk of {Length} bytes");
        }

        long first = offset / BlockSet.BlockBytes;
        return (first, length == 0 ? first : ((offset + length - 1) / BlockSet.BlockBytes) + 1);
    }

    private void Leave()
    {
        lock (_lock)
        {
            _underWay--;
        }
    }

    private ValueTask LeaveAfter(ValueTask request)
    {
        if (!request.IsCompletedSuccessfully)
        {
            return LeaveAfterAsync(request);
        }

        Leave();
        request.GetAwaiter().GetResult();
        return default;
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask LeaveAfterAsync(ValueTask request)
    {
        try
        {
            await request.ConfigureAwait(false);
        }
        finally
        {
            Leave();
        }
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask EnterAndWriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        await EnterAsync(offset, data.Length, cancellation).ConfigureAwait(false);
        try
        {
            await _image.WriteAsync(offset, data, cancellation).ConfigureAwait(false);
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Waits at the gate, marks the blocks and saves what the open snapshot still needs of them.</summary>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask EnterAsync(long offset, long length, CancellationToken cancellation)
    {
        (long first, long end) = BlocksOf(offset, length);
        bool counted = false;
        while (true)
        {
            Task wait;
            lock (_lock)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                if (!GateIsClosed)
                {
                    Mark(first, end);
                    _underWay++;
                    break;
                }

                wait = _changed.Next();
                _gateWaits += counted ? 0 : 1;
                counted = true;
            }

            await WaitAsync(wait, cancellation).ConfigureAwait(false);
        }

        try
        {
            await SaveAsync(first, end, cancellation).ConfigureAwait(false);
        }
        catch
        {
            Leave();
            throw;
        }
    }
}
