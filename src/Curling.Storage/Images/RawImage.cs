using Curling.Linux.Storage;

namespace Curling.Storage.Images;

/// <summary>A disk whose bytes are those of a file or a block device, one for one.</summary>
/// <remarks>
/// Small requests whose bytes are in the page cache are carried out at once on the caller's thread; what may have to wait for the
/// device goes to threads of the image's own, so that requests do not wait for each other. A request that is under way is not broken
/// off by its cancellation. A file stays as sparse as it was: zeros that may give room back, and trims, make holes.
/// </remarks>
public sealed class RawImage : IDiskBackend
{
    /// <summary>The unit of a disk's size, in bytes.</summary>
    public const int SectorBytes = 512;

    // Up to this size a copy takes no longer than handing it to another thread and hearing of its end; more is copied by another processor.
    private const int MaxInline = 1 << 20;
    private const int MaxThreads = 16;
    private const int ZeroBytes = 1 << 20;
    private static readonly byte[] Zeros = new byte[ZeroBytes];

    private readonly ImageFile _file;
    private readonly ImageWorkers _workers;
    private readonly Lock _gate = new();
    private ImageWork? _free;
    private volatile DiskException? _lostWrites;
    private int _disposed;

    private RawImage(ImageFile file, bool readOnly)
    {
        _file = file;
        IsReadOnly = readOnly;
        _workers = new ImageWorkers("disk", MaxThreads);
    }

    /// <inheritdoc/>
    public long Length => _file.Length;

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <summary>The file or block device.</summary>
    public string Path => _file.Path;

    /// <summary>Opens an image that exists, and locks it against use by other programs for as long as it is open.</summary>
    /// <exception cref="DiskException">It cannot be used; the message says why.</exception>
    public static RawImage Open(string path, bool readOnly)
    {
        ImageFile file;
        try
        {
            file = ImageFile.Open(path, readOnly);
        }
        catch (StorageException e)
        {
            throw e.Kind switch
            {
                StorageErrorKind.ReadOnly or StorageErrorKind.NoAccess when !readOnly =>
                    new DiskException(DiskError.ReadOnly, $"{e.Message}; is it meant to be written, or should the disk be read-only?", e),
                StorageErrorKind.WrongKind when Directory.Exists(path) =>
                    new DiskException(DiskError.Io, $"{path} is a directory; a disk image is a file or a block device", e),
                _ => new DiskException(DiskError.Io, e.Message, e),
            };
        }

        try
        {
            if (file.Length % SectorBytes != 0 || file.Length == 0)
            {
                throw new DiskException(
                    DiskError.Io,
                    $"{path} is {file.Length} bytes long; a disk's size is a multiple of {SectorBytes} bytes and not 0 (qemu-img resize -f raw {path} SIZE)");
            }

            file.Lock(forWriting: !readOnly);
            return new RawImage(file, readOnly);
        }
        catch (StorageException e)
        {
            file.Dispose();
            throw new DiskException(DiskError.Io, e.Message, e);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation)
    {
        Check(offset, into.Length);
        if (into.Length <= MaxInline)
        {
            int got = _file.TryRead(offset, into.Span);
            if (got == into.Length)
            {
                return ValueTask.CompletedTask;
            }

            offset += got;
            into = into[got..];
        }

        ImageWork work = Rent();
        work.SetRead(offset, into);
        return Queue(work);
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        CheckWrite(offset, data.Length);
        if (data.Length <= MaxInline && !_file.IsBlockDevice)
        {
            try
            {
                _file.Write(offset, data.Span);
                return ValueTask.CompletedTask;
            }
            catch (StorageException e)
            {
                return ValueTask.FromException(Translate(e));
            }
        }

        ImageWork work = Rent();
        work.SetWrite(offset, data);
        return Queue(work);
    }

    /// <inheritdoc/>
    public ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation)
    {
        CheckWrite(offset, length);
        ImageWork work = Rent();
        work.Set(ImageOperation.Zero, offset, length, mayDeallocate);
        return Queue(work);
    }

    /// <inheritdoc/>
    public ValueTask TrimAsync(long offset, long length, CancellationToken cancellation)
    {
        CheckWrite(offset, length);
        ImageWork work = Rent();
        work.Set(ImageOperation.Trim, offset, length, mayDeallocate: true);
        return Queue(work);
    }

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation)
    {
        if (IsReadOnly)
        {
            return ValueTask.CompletedTask;
        }

        ImageWork work = Rent();
        work.Set(ImageOperation.Flush, 0, 0);
        return Queue(work);
    }

    /// <inheritdoc/>
    public ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation)
    {
        Check(offset, length);
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfZero(into.Length);
        ImageWork work = Rent();
        work.SetExtents(offset, length, into);
        _workers.Queue(work);
        return new ValueTask<int>(work, work.Version);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            // What is under way uses the file still.
            _workers.Dispose();
            _file.Dispose();
        }

        return ValueTask.CompletedTask;
    }

    /// <summary>Carries out a piece of work on a worker's thread.</summary>
    internal int Carry(ImageWork work)
    {
        try
        {
            switch (work.Operation)
            {
                case ImageOperation.Read:
                    _file.Read(work.Offset, work.Into.Span);
                    return 0;
                case ImageOperation.Write:
                    _file.Write(work.Offset, work.Data.Span);
                    return 0;
                case ImageOperation.Zero:
                    Zero(work.Offset, work.Length, work.MayDeallocate);
                    return 0;
                case ImageOperation.Trim:
                    Zero(work.Offset, work.Length, mayDeallocate: true);
                    return 0;
                case ImageOperation.Flush:
                    Flush();
                    return 0;
                case ImageOperation.Extents:
                    return Extents(work.Offset, work.Length, work.Extents.Span);
                default:
                    throw new InvalidOperationException($"{work.Operation} is no operation of an image");
            }
        }
        catch (StorageException e)
        {
            throw Translate(e);
        }
        finally
        {
            _workers.Finished();
        }
    }

    /// <summary>Takes a piece of work back.</summary>
    internal void Return(ImageWork work)
    {
        lock (_gate)
        {
            work.Next = _free;
            _free = work;
        }
    }

    private static DiskException Translate(StorageException e) => new(
        e.Kind switch
        {
            StorageErrorKind.NoSpace => DiskError.NoSpace,
            StorageErrorKind.ReadOnly or StorageErrorKind.NoAccess => DiskError.ReadOnly,
            _ => DiskError.Io,
        },
        e.Message,
        e);

    private ImageWork Rent()
    {
        lock (_gate)
        {
            if (_free is { } work)
            {
                _free = work.Next;
                return work;
            }
        }

        return new ImageWork(this);
    }

    private ValueTask Queue(ImageWork work)
    {
        _workers.Queue(work);
        return new ValueTask(work, work.Version);
    }

    private void Zero(long offset, long length, bool mayDeallocate)
    {
        if (length == 0)
        {
            return;
        }

        if (mayDeallocate && _file.TryPunchHole(offset, length))
        {
            return;
        }

        // A filesystem that cannot zero in place can mostly make a hole and take room for it again (qemu does the same).
        if (_file.TryZeroRange(offset, length) || (_file.TryPunchHole(offset, length) && _file.TryReserve(offset, length)))
        {
            return;
        }

        while (length > 0)
        {
            int part = (int)Math.Min(length, ZeroBytes);
            _file.Write(offset, Zeros.AsSpan(0, part));
            offset += part;
            length -= part;
        }
    }

    /// <summary>
    /// After a flush that failed the kernel takes the pages for clean, and the next one would succeed though they never reached the
    /// device: no flush succeeds any more (qemu: block/file-posix.c, page_cache_inconsistent).
    /// </summary>
    private void Flush()
    {
        if (_lostWrites is { } lost)
        {
            throw new DiskException(lost.Error, $"{lost.Message} (at an earlier flush; open the image anew)", lost);
        }

        try
        {
            _file.Sync();
        }
        catch (StorageException e)
        {
            _lostWrites = Translate(e);
            throw;
        }
    }

    private int Extents(long offset, long length, Span<DiskExtent> into)
    {
        long end = offset + length;
        int count = 0;
        while (offset < end && count < into.Length)
        {
            (long until, bool isHole) = _file.Stretch(offset);
            until = Math.Min(until, end);
            if (count > 0 && into[count - 1].IsHole == isHole)
            {
                into[count - 1] = into[count - 1] with { Length = into[count - 1].Length + until - offset };
            }
            else
            {
                into[count++] = new DiskExtent(until - offset, isHole);
            }

            offset = until;
        }

        return count;
    }

    private void Check(long offset, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - length);
    }

    private void CheckWrite(long offset, long length)
    {
        Check(offset, length);
        if (IsReadOnly)
        {
            throw new DiskException(DiskError.ReadOnly, $"{Path} is open for reading only");
        }
    }
}
