namespace Curling.Storage.Tests;

/// <summary>A sparse disk in memory: pages of 4096 bytes where something was written. Any size; a request is one step unless a hook delays it.</summary>
internal sealed class MemoryBackend(long length) : IDiskBackend
{
    private const int Page = 4096;
    private readonly Dictionary<long, byte[]> _pages = [];
    private readonly Lock _lock = new();

    public long Length => length;

    public bool IsReadOnly => false;

    /// <summary>Called before each request with its kind, offset and length; may wait, or throw.</summary>
    public Func<string, long, long, ValueTask>? Before { get; set; }

    /// <summary>Bytes that were read.</summary>
    public long BytesRead { get; private set; }

    public async ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation)
    {
        await Hook("read", offset, into.Length);
        lock (_lock)
        {
            Read(offset, into.Span);
            BytesRead += into.Length;
        }
    }

    public async ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        await Hook("write", offset, data.Length);
        lock (_lock)
        {
            ReadOnlySpan<byte> rest = data.Span;
            while (rest.Length > 0)
            {
                int at = (int)(offset % Page);
                int count = Math.Min(rest.Length, Page - at);
                if (!_pages.TryGetValue(offset / Page, out byte[]? page))
                {
                    _pages.Add(offset / Page, page = new byte[Page]);
                }

                rest[..count].CopyTo(page.AsSpan(at));
                rest = rest[count..];
                offset += count;
            }
        }
    }

    public async ValueTask ZeroAsync(long offset, long count, bool mayDeallocate, CancellationToken cancellation)
    {
        await Hook("zero", offset, count);
        lock (_lock)
        {
            for (long end = offset + count; offset < end;)
            {
                int at = (int)(offset % Page);
                long stop = Math.Min(end, offset - at + Page);
                if (stop - offset == Page)
                {
                    _pages.Remove(offset / Page);
                }
                else if (_pages.TryGetValue(offset / Page, out byte[]? page))
                {
                    page.AsSpan(at, (int)(stop - offset)).Clear();
                }

                offset = stop;
            }
        }
    }

    public ValueTask TrimAsync(long offset, long count, CancellationToken cancellation) => ZeroAsync(offset, count, true, cancellation);

    public ValueTask FlushAsync(CancellationToken cancellation) => default;

    public async ValueTask<int> GetExtentsAsync(long offset, long count, Memory<DiskExtent> into, CancellationToken cancellation)
    {
        await Hook("extents", offset, count);
        lock (_lock)
        {
            int filled = 0;
            long end = offset + count;
            long[] pages = [.. _pages.Keys.Where(page => (page + 1) * Page > offset && page * Page < end).Order()];
            int next = 0;
            while (offset < end && filled < into.Length)
            {
                long stop;
                bool hole = next == pages.Length || pages[next] * Page > offset;
                if (hole)
                {
                    stop = next == pages.Length ? end : pages[next] * Page;
                }
                else
                {
                    stop = (pages[next++] + 1) * Page;
                    while (next < pages.Length && pages[next] * Page == stop)
                    {
                        stop += Page;
                        next++;
                    }
                }

                stop = Math.Min(stop, end);
                into.Span[filled++] = new DiskExtent(stop - offset, hole);
                offset = stop;
            }

            return filled;
        }
    }

    public ValueTask DisposeAsync() => default;

    /// <summary>All bytes now.</summary>
    public byte[] Snapshot()
    {
        lock (_lock)
        {
            byte[] all = new byte[length];
            Read(0, all);
            return all;
        }
    }

    private void Read(long offset, Span<byte> into)
    {
        while (into.Length > 0)
        {
            int at = (int)(offset % Page);
            int count = Math.Min(into.Length, Page - at);
            if (_pages.TryGetValue(offset / Page, out byte[]? page))
            {
                page.AsSpan(at, count).CopyTo(into);
            }
            else
            {
                into[..count].Clear();
            }

            into = into[count..];
            offset += count;
        }
    }

    private ValueTask Hook(string kind, long offset, long count) => Before?.Invoke(kind, offset, count) ?? default;
}
