using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Send.Links;

namespace Curling.Send.Capture;

/// <summary>Where the pages of a block are read from.</summary>
internal interface IPageSource
{
    /// <summary>Copies whole pages.</summary>
    void Read(long firstPage, Span<byte> destination);
}

/// <summary>Fills memory frames with runs of pages and hands them to the line as they become full.</summary>
/// <remarks>One capture thread uses it. It owns at most one chunk, which <see cref="Flush"/> or <see cref="Drop"/> gives away.</remarks>
internal sealed class MemoryFrames
{
    private readonly MemoryRun[] _runs = new MemoryRun[ProtocolLimits.MaxRuns];
    private RoundWriter? _rounds;
    private Chunk? _chunk;
    private bool _waited;
    private int _block;
    private int _content;
    private int _count;
    private long _pages;

    /// <summary>Whether filling had to wait for the link since the last <see cref="Start"/>.</summary>
    public bool Waited => _waited;

    /// <summary>Pages with content since the last <see cref="Start"/>.</summary>
    public long PagesCopied { get; private set; }

    /// <summary>Begins to fill frames for a line.</summary>
    public void Start(RoundWriter rounds)
    {
        _rounds = rounds;
        _waited = false;
        PagesCopied = 0;
    }

    /// <summary>Adds a run of pages; pages that are all zero travel without content.</summary>
    public void Add(int block, IPageSource source, long firstPage, long pages)
    {
        while (pages > 0)
        {
            Chunk chunk = Ready(block);
            int room = (ProtocolLimits.MaxContentBytes - _content) / ProtocolLimits.PageBytes;
            if (room == 0)
            {
                Flush();
                continue;
            }

            int now = (int)Math.Min(room, pages);
            Span<byte> content = chunk.Span.Slice(DataFrame.ContentAt + _content, now * ProtocolLimits.PageBytes);
            source.Read(firstPage, content);
            PagesCopied += now;
            AddCopied(block, firstPage, now, content);
            firstPage += now;
            pages -= now;
        }
    }

    /// <summary>Adds a run of pages that are known to be zero.</summary>
    public void AddZeros(int block, long firstPage, long pages)
    {
        while (pages > 0)
        {
            int now = (int)Math.Min(int.MaxValue, pages);
            Ready(block);
            AddRun(new MemoryRun(firstPage, now, PageEncoding.Zero, 0));
            firstPage += now;
            pages -= now;
        }
    }

    /// <summary>Hands the frame that is open to the line.</summary>
    public void Flush()
    {
        if (_chunk is not { } chunk)
        {
            return;
        }

        if (_count == 0)
        {
            Drop();
            return;
        }

        int table = DataFrame.ContentAt + _content;
        for (int i = 0; i < _count; i++)
        {
            _runs[i].Write(chunk.Span[(table + (i * MemoryRun.Bytes))..]);
        }

        new DataPrefix(SectionKind.Memory, (ushort)_block, _count).Write(chunk.Span[DataFrame.PayloadAt..]);
        chunk.Length = DataPrefix.Bytes + _content + (_count * MemoryRun.Bytes);
        _chunk = null;
        _rounds!.Data(chunk, _pages);
    }

    /// <summary>Gives up the frame that is open.</summary>
    public void Drop()
    {
        if (_chunk is { } chunk)
        {
            _chunk = null;
            _rounds!.GiveBack(chunk);
        }
    }

    /// <summary>Splits what was copied into runs with content and runs of zeros, and moves content together.</summary>
    private void AddCopied(int block, long firstPage, int pages, Span<byte> content)
    {
        int start = 0;
        while (start < pages)
        {
            bool zero = IsZero(content, start);
            int end = start + 1;
            while (end < pages && IsZero(content, end) == zero)
            {
                end++;
            }

            // A full run table means a new chunk: what is not yet described moves there.
            if (_count == ProtocolLimits.MaxRuns)
            {
                Span<byte> rest = content[(start * ProtocolLimits.PageBytes)..];
                Chunk old = _chunk!;
                _chunk = null;
                Chunk fresh = Take();
                Span<byte> moved = fresh.Span.Slice(DataFrame.ContentAt, rest.Length);
                rest.CopyTo(moved);
                Chunk next = fresh;
                _chunk = old;
                Flush();
                _chunk = next;
                Begin(block);
                content = moved;
                firstPage += start;
                pages -= start;
                end -= start;
                start = 0;
            }

            if (zero)
            {
                AddRun(new MemoryRun(firstPage + start, end - start, PageEncoding.Zero, 0));
            }
            else
            {
                int bytes = (end - start) * ProtocolLimits.PageBytes;
                Span<byte> place = _chunk!.Span.Slice(DataFrame.ContentAt + _content, bytes);
                Span<byte> from = content.Slice(start * ProtocolLimits.PageBytes, bytes);
                if (!System.Runtime.CompilerServices.Unsafe.AreSame(ref place[0], ref from[0]))
                {
                    from.CopyTo(place);
                }

                _content += bytes;
                AddRun(new MemoryRun(firstPage + start, end - start, PageEncoding.Raw, bytes));
            }

            start = end;
        }
    }

    private static bool IsZero(ReadOnlySpan<byte> content, int page) =>
        MemoryCopy.IsZero(content.Slice(page * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes));

    private void AddRun(MemoryRun run)
    {
        // Two runs that touch become one, as long as they are of a kind.
        if (_count > 0 && _runs[_count - 1] is { } last && last.Encoding == run.Encoding
            && last.FirstPage + last.Pages == run.FirstPage && (long)last.Pages + run.Pages <= int.MaxValue)
        {
            _runs[_count - 1] = last with { Pages = last.Pages + run.Pages, ContentBytes = last.ContentBytes + run.ContentBytes };
        }
        else
        {
            _runs[_count++] = run;
        }

        _pages += run.Pages;
    }

    private Chunk Ready(int block)
    {
        if (_chunk is not null && (_block != block || _count == ProtocolLimits.MaxRuns))
        {
            Flush();
        }

        if (_chunk is null)
        {
            _chunk = Take();
            Begin(block);
        }

        return _chunk;
    }

    private void Begin(int block)
    {
        _block = block;
        _content = 0;
        _count = 0;
        _pages = 0;
    }

    private Chunk Take() => _rounds!.Rent(ref _waited);
}
