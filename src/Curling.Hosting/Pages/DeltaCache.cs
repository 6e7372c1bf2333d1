using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Hosting.Pages;

/// <summary>
/// The content in which pages were sent last, for a bounded number of pages: where two pages fall on the same place, the later
/// one takes it.
/// </summary>
/// <remarks>
/// One encoder uses it, for one connection. It must see everything that is sent there, or it must be cleared: a page that stands
/// here in another content than at the receiver would be torn there. Its pages are native memory: a connection that ends gives them back at
/// once, not when the garbage collector finds the time.
/// </remarks>
internal sealed class DeltaCache : IDisposable
{
    private readonly ulong[] _keys;
    private readonly ChunkPool _pool;
    private readonly Chunk _pages;

    /// <summary>Creates an empty cache.</summary>
    /// <param name="bytes">What its pages may take.</param>
    public DeltaCache(long bytes)
    {
        int slots = (int)Math.Clamp(bytes / ProtocolLimits.PageBytes, 1, Array.MaxLength / ProtocolLimits.PageBytes);
        _keys = new ulong[slots];

        // Zeroed by the kernel when first touched: a guest that writes little leaves most of it untouched.
        _pool = new ChunkPool(slots * ProtocolLimits.PageBytes, slots * ProtocolLimits.PageBytes);
        _pool.TryRent(out _pages);
    }

    /// <summary>Forgets everything.</summary>
    public void Clear() => Array.Clear(_keys);

    /// <summary>Whether a page is here.</summary>
    public bool Holds(int block, long page) => _keys[Slot(block, page)] == Key(block, page);

    /// <summary>The place of a page, whatever is in it.</summary>
    public Span<byte> Place(int block, long page) => _pages.Span.Slice(Slot(block, page) * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes);

    /// <summary>Notes what a page was sent as.</summary>
    public void Put(int block, long page, ReadOnlySpan<byte> content)
    {
        content.CopyTo(Place(block, page));
        _keys[Slot(block, page)] = Key(block, page);
    }

    /// <summary>Forgets pages that travel without content.</summary>
    public void Forget(int block, long firstPage, int pages)
    {
        // A run as long as the cache meets every place: no need to go round twice.
        if (pages >= _keys.Length)
        {
            Clear();
            return;
        }

        for (long page = firstPage; page < firstPage + pages; page++)
        {
            if (Holds(block, page))
            {
                _keys[Slot(block, page)] = 0;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _pages.Return();
        _pool.Dispose();
    }

    private static ulong Key(int block, long page) => ((ulong)(uint)(block + 1) << 48) | (ulong)page;

    private int Slot(int block, long page) => (int)((ulong)(page + (block * 7919L)) % (ulong)_keys.Length);
}
