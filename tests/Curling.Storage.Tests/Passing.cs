namespace Curling.Storage.Tests;

/// <summary>Stands before a backend and passes everything on; tests change what they need.</summary>
internal class Passing(IDiskBackend inner) : IDiskBackend
{
    public long Length => inner.Length;

    public bool IsReadOnly => inner.IsReadOnly;

    public virtual async ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation)
    {
        await BeforeAsync();
        await inner.ReadAsync(offset, into, cancellation);
    }

    public virtual async ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        await BeforeAsync();
        await inner.WriteAsync(offset, data, cancellation);
    }

    public async ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation)
    {
        await BeforeAsync();
        await inner.ZeroAsync(offset, length, mayDeallocate, cancellation);
    }

    public async ValueTask TrimAsync(long offset, long length, CancellationToken cancellation)
    {
        await BeforeAsync();
        await inner.TrimAsync(offset, length, cancellation);
    }

    public async ValueTask FlushAsync(CancellationToken cancellation)
    {
        await BeforeAsync();
        await inner.FlushAsync(cancellation);
    }

    public async ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation)
    {
        await BeforeAsync();
        return await inner.GetExtentsAsync(offset, length, into, cancellation);
    }

    public ValueTask DisposeAsync() => inner.DisposeAsync();

    protected virtual ValueTask BeforeAsync() => ValueTask.CompletedTask;
}
