namespace Curling.Storage;

/// <summary>Where a disk's bytes are: an image, or something that stands before one and watches what passes.</summary>
/// <remarks>
/// Any number of requests may be under way at once, from any thread; overlapping ones have no order among themselves. A request is in the
/// image when its task has completed, and safe from a loss of the host's power after the next <see cref="FlushAsync"/>. Buffers belong to
/// the caller and may be used again when the task has completed. All offsets and lengths are bytes and lie within <see cref="Length"/>.
/// Failures are a <see cref="DiskException"/>.
/// </remarks>
public interface IDiskBackend : IAsyncDisposable
{
    /// <summary>The disk's size in bytes, a multiple of 512; it never changes.</summary>
    long Length { get; }

    /// <summary>Whether writes are refused.</summary>
    bool IsReadOnly { get; }

    /// <summary>Reads from <paramref name="offset"/> until <paramref name="into"/> is full.</summary>
    ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation);

    /// <summary>Writes all of <paramref name="data"/>.</summary>
    ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation);

    /// <summary>Makes a range read as zeros; with <paramref name="mayDeallocate"/> its room may be given back.</summary>
    ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation);

    /// <summary>The guest needs a range no more: it reads as zeros afterwards, and its room is given back where that can be done.</summary>
    ValueTask TrimAsync(long offset, long length, CancellationToken cancellation);

    /// <summary>Makes what has completed safe from a loss of power.</summary>
    ValueTask FlushAsync(CancellationToken cancellation);

    /// <summary>Tells how a range is made up, from its beginning: as many extents as fit into <paramref name="into"/>, at least one.</summary>
    /// <returns>How many were filled in; together they may cover less than the range.</returns>
    ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation);
}
