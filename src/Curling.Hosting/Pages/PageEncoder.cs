using Curling.Protocol;
using K4os.Compression.LZ4;
using ZstdSharp;

namespace Curling.Hosting.Pages;

/// <summary>How the content of pages is made smaller.</summary>
public enum PageCompression
{
    /// <summary>Not at all.</summary>
    None = 0,

    /// <summary>LZ4, fast.</summary>
    Lz4 = 1,

    /// <summary>Zstandard, level 1.</summary>
    Zstd = 2,
}

/// <summary>
/// Makes memory frames smaller: a page that was sent before travels as what changed in it, the rest is compressed, and what
/// does not shrink stays as it is.
/// </summary>
/// <remarks>
/// One sender's line uses it, for one connection, and passes every memory frame through <see cref="Encode"/> or tells
/// <see cref="Forget"/>. Nothing is allocated per frame.
/// </remarks>
public sealed class PageEncoder : IDisposable
{
    /// <summary>What the contents sent last may take on a sender, in bytes.</summary>
    public const long DefaultCacheBytes = 64L << 20;

    // Less than a sixteenth saved is not worth the receiver's time.
    private const int WorthIt = 16;
    private const int ZstdLevel = 1;
    private readonly DeltaCache? _cache;
    private readonly Compressor _zstd = new(ZstdLevel);
    private readonly MemoryRun[] _runs = new MemoryRun[ProtocolLimits.MaxRuns];
    private int _skip;
    private int _fruitless;
    private int _count;
    private int _at;

    /// <summary>Creates an encoder.</summary>
    /// <param name="cacheBytes">What the contents sent last may take; 0 for no deltas.</param>
    public PageEncoder(long cacheBytes)
    {
        _cache = cacheBytes > 0 ? new DeltaCache(cacheBytes) : null;
    }

    /// <summary>Forgets what was sent: something was or will be sent past this encoder.</summary>
    public void Forget() => _cache?.Clear();

    /// <summary>Encodes a memory frame of raw and zero runs.</summary>
    /// <param name="payload">Its payload.</param>
    /// <param name="compression">How to compress what is no delta.</param>
    /// <param name="deltas">Whether deltas may be used; if not, what was sent last is not noted either.</param>
    /// <param name="destination">Room for <see cref="ProtocolLimits.MaxDataPayload"/>.</param>
    /// <returns>The length of the encoded payload.</returns>
    public int Encode(ReadOnlySpan<byte> payload, PageCompression compression, bool deltas, Span<byte> destination)
    {
        DataPrefix prefix = DataPrefix.Read(payload);
        ReadOnlySpan<byte> table = prefix.Table(payload);
        ReadOnlySpan<byte> content = prefix.Content(payload);
        DeltaCache? cache = deltas ? _cache : null;
        _count = 0;
        _at = DataPrefix.Bytes;
        int spare = ProtocolLimits.MaxRuns - prefix.Runs;
        for (int i = 0; i < prefix.Runs; i++)
        {
            MemoryRun run = MemoryRun.Read(table, i);
            if (run.Encoding == PageEncoding.Zero)
            {
                cache?.Forget(prefix.Block, run.FirstPage, run.Pages);
                _runs[_count++] = run;
            }
            else
            {
                Encode(prefix.Block, run, content[..run.ContentBytes], compression, cache, ref spare, destination);
            }

            content = content[run.ContentBytes..];
        }

        for (int i = 0; i < _count; i++)
        {
            _runs[i].Write(destination[_at..]);
            _at += MemoryRun.Bytes;
        }

        new DataPrefix(SectionKind.Memory, prefix.Block, _count).Write(destination);
        return _at;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _zstd.Dispose();
        _cache?.Dispose();
    }

    private void Encode(
        int block, MemoryRun run, ReadOnlySpan<byte> content, PageCompression compression, DeltaCache? cache, ref int spare,
        Span<byte> destination)
    {
        int page = 0;
        while (page < run.Pages)
        {
            // With no room left in the run table the rest of the run stays together.
            int first = page;
            int start = _at;
            if (cache is not null && spare > 0)
            {
                while (page < run.Pages && TryDelta(cache, block, run.FirstPage + page, Page(content, page), destination))
                {
                    page++;
                }
            }

            if (page > first)
            {
                _runs[_count++] = new MemoryRun(run.FirstPage + first, page - first, PageEncoding.Delta, _at - start);
            }
            else
            {
                do
                {
                    cache?.Put(block, run.FirstPage + page, Page(content, page));
                    page++;
                }
                while (page < run.Pages && (cache is null || spare == 0 || !Promising(cache, block, run.FirstPage + page, Page(content, page), destination)));
                Compress(run.FirstPage + first, page - first,
                    content[(first * ProtocolLimits.PageBytes)..(page * ProtocolLimits.PageBytes)], compression, destination);
            }

            if (page < run.Pages)
            {
                spare--;
            }
        }
    }

    private bool TryDelta(DeltaCache cache, int block, long page, ReadOnlySpan<byte> content, Span<byte> destination)
    {
        if (!cache.Holds(block, page))
        {
            return false;
        }

        Span<byte> last = cache.Place(block, page);
        int length = PageDelta.TryWrite(last, content, destination[_at..]);
        if (length < 0)
        {
            return false;
        }

        content.CopyTo(last);
        _at += length;
        return true;
    }

    /// <summary>Whether a page would make a delta; what is written for it is overwritten again.</summary>
    private bool Promising(DeltaCache cache, int block, long page, ReadOnlySpan<byte> content, Span<byte> destination) =>
        cache.Holds(block, page) && PageDelta.TryWrite(cache.Place(block, page), content, destination[_at..]) >= 0;

    private void Compress(long firstPage, int pages, ReadOnlySpan<byte> content, PageCompression compression, Span<byte> destination)
    {
        int limit = content.Length - (content.Length / WorthIt);
        int length = -1;
        if (_skip > 0)
        {
            _skip--;
        }
        else if (compression != PageCompression.None)
        {
            Span<byte> room = destination.Slice(_at, limit);
            length = compression == PageCompression.Lz4
                ? LZ4Codec.Encode(content, room, LZ4Level.L00_FAST)
                : _zstd.TryWrap(content, room, out int written) ? written : -1;

            // Content that does not shrink comes in rows: look again only now and then.
            _fruitless = length < 0 ? Math.Min(_fruitless + 1, 5) : 0;
            _skip = length < 0 ? (1 << _fruitless) - 2 : 0;
        }

        if (length > 0)
        {
            _runs[_count++] = new MemoryRun(
                firstPage, pages, compression == PageCompression.Lz4 ? PageEncoding.Lz4 : PageEncoding.Zstd, length);
            _at += length;
            return;
        }

        content.CopyTo(destination[_at..]);
        _runs[_count++] = new MemoryRun(firstPage, pages, PageEncoding.Raw, content.Length);
        _at += content.Length;
    }

    private static ReadOnlySpan<byte> Page(ReadOnlySpan<byte> content, int page) =>
        content.Slice(page * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes);
}
