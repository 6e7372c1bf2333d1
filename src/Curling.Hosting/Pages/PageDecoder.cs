using Curling.Protocol;
using K4os.Compression.LZ4;
using ZstdSharp;

namespace Curling.Hosting.Pages;

/// <summary>Turns a checked memory frame into one without compressed runs: what is left can be applied as often as wanted.</summary>
/// <remarks>One reader uses it. Nothing is allocated per frame.</remarks>
public sealed class PageDecoder : IDisposable
{
    private readonly Decompressor _zstd = new();

    /// <summary>Decodes a frame.</summary>
    /// <param name="payload">The payload; <see cref="MemoryRun.Check"/> has passed.</param>
    /// <param name="prefix">Its prefix.</param>
    /// <param name="destination">Room for <see cref="ProtocolLimits.MaxDataPayload"/>.</param>
    /// <returns>The length of the decoded payload.</returns>
    /// <exception cref="ProtocolException">A run does not decompress to its pages.</exception>
    public int Decode(ReadOnlySpan<byte> payload, DataPrefix prefix, Span<byte> destination)
    {
        ReadOnlySpan<byte> table = prefix.Table(payload);
        ReadOnlySpan<byte> content = prefix.Content(payload);
        int at = DataPrefix.Bytes;
        for (int i = 0; i < prefix.Runs; i++)
        {
            MemoryRun run = MemoryRun.Read(table, i);
            at += Decode(run, content[..run.ContentBytes], destination[at..]);
            content = content[run.ContentBytes..];
        }

        for (int i = 0; i < prefix.Runs; i++)
        {
            MemoryRun run = MemoryRun.Read(table, i);
            if (run.Encoding is PageEncoding.Lz4 or PageEncoding.Zstd)
            {
                run = run with { Encoding = PageEncoding.Raw, ContentBytes = run.Pages * ProtocolLimits.PageBytes };
            }

            run.Write(destination[at..]);
            at += MemoryRun.Bytes;
        }

        prefix.Write(destination);
        return at;
    }

    /// <inheritdoc/>
    public void Dispose() => _zstd.Dispose();

    private int Decode(MemoryRun run, ReadOnlySpan<byte> content, Span<byte> destination)
    {
        if (run.Encoding is not (PageEncoding.Lz4 or PageEncoding.Zstd))
        {
            content.CopyTo(destination);
            return content.Length;
        }

        int expected = run.Pages * ProtocolLimits.PageBytes;
        Span<byte> pages = destination[..expected];
        int got;
        string why = "";
        try
        {
            got = run.Encoding == PageEncoding.Lz4 ? LZ4Codec.Decode(content, pages) : _zstd.Unwrap(content, pages);
        }
        catch (Exception e) when (e is ZstdException or ArgumentException or IndexOutOfRangeException)
        {
            got = -1;
            why = $" ({e.Message})";
        }

        return got == expected
            ? expected
            : throw new ProtocolException(
                ProtocolError.Malformed,
                $"{content.Length} bytes of {run.Encoding} do not decompress to the {run.Pages} pages from {run.FirstPage} on{why}");
    }
}
