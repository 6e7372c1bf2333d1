using Curling.Storage;

namespace Curling.Recv.Disks;

/// <summary>What a standby's QEMU is served: the replica while it waits, and the tracked disk once the guest runs here.</summary>
/// <remarks>Thread-safe, except that no request may be under way while the target changes: QEMU makes none before the guest runs.</remarks>
internal sealed class SwitchedBackend(IDiskBackend target) : IDiskBackend
{
    private volatile IDiskBackend _target = target;

    /// <summary>What is served now; it stays its owner's.</summary>
    public IDiskBackend Target
    {
        get => _target;
        set => _target = value;
    }

    /// <inheritdoc/>
    public long Length => _target.Length;

    /// <inheritdoc/>
    public bool IsReadOnly => _target.IsReadOnly;

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation) => _target.ReadAsync(offset, into, cancellation);

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation) =>
        _target.WriteAsync(offset, data, cancellation);

    /// <inheritdoc/>
    public ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation) =>
        _target.ZeroAsync(offset, length, mayDeallocate, cancellation);

    /// <inheritdoc/>
    public ValueTask TrimAsync(long offset, long length, CancellationToken cancellation) => _target.TrimAsync(offset, length, cancellation);

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation) => _target.FlushAsync(cancellation);

    /// <inheritdoc/>
    public ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation) =>
        _target.GetExtentsAsync(offset, length, into, cancellation);

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => default;
}
