using System.Buffers.Binary;

namespace Curling.Protocol;

/// <summary>How the content of a run's pages is written.</summary>
public enum PageEncoding : byte
{
    /// <summary>The pages as they are.</summary>
    Raw = 1,

    /// <summary>Every byte is zero; no content travels.</summary>
    Zero = 2,

    /// <summary>One LZ4 block that holds all of the run's pages.</summary>
    Lz4 = 3,

    /// <summary>One Zstandard frame that holds all of the run's pages.</summary>
    Zstd = 4,

    /// <summary>What changed in each page against the last content sent, see <see cref="PageDelta"/>.</summary>
    Delta = 5,
}

/// <summary>
/// One entry of a memory frame's run table: first page (8), pages (4), content length in the low 24 bits and encoding in
/// the high 8 (4). The content of runs stands one after the other, in the table's order.
/// </summary>
public readonly record struct MemoryRun(long FirstPage, int Pages, PageEncoding Encoding, int ContentBytes)
{
    /// <summary>The size of an entry on the wire.</summary>
    public const int Bytes = 16;

    /// <summary>Writes the entry.</summary>
    public void Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteInt64LittleEndian(destination, FirstPage);
        BinaryPrimitives.WriteInt32LittleEndian(destination[8..], Pages);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[12..], (uint)ContentBytes | ((uint)Encoding << 24));
    }

    /// <summary>Reads entry <paramref name="index"/> of a table.</summary>
    public static MemoryRun Read(ReadOnlySpan<byte> table, int index)
    {
        ReadOnlySpan<byte> entry = table.Slice(index * Bytes, Bytes);
        uint packed = BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]);
        return new MemoryRun(
            BinaryPrimitives.ReadInt64LittleEndian(entry),
            BinaryPrimitives.ReadInt32LittleEndian(entry[8..]),
            (PageEncoding)(packed >> 24),
            (int)(packed & 0xFFFFFF));
    }

    /// <summary>
    /// Checks every run of a memory frame against the block it names, so that applying the frame cannot go wrong: pages
    /// inside the block, a known encoding, content lengths that add up.
    /// </summary>
    /// <param name="payload">The whole payload of the frame.</param>
    /// <param name="prefix">Its prefix, already checked.</param>
    /// <param name="blockPages">Pages of the block.</param>
    /// <returns>The pages that the frame covers.</returns>
    /// <exception cref="ProtocolException">A run has no meaning.</exception>
    public static long Check(ReadOnlySpan<byte> payload, DataPrefix prefix, long blockPages)
    {
        ReadOnlySpan<byte> table = prefix.Table(payload);
        int content = payload.Length - DataPrefix.Bytes - table.Length;
        long used = 0;
        long decoded = 0;
        long pages = 0;
        for (int i = 0; i < prefix.Runs; i++)
        {
            MemoryRun run = Read(table, i);
            if (run.FirstPage < 0 || run.Pages <= 0 || run.FirstPage > blockPages - run.Pages)
            {
                throw new ProtocolException(
                    ProtocolError.Malformed,
                    $"pages {run.FirstPage}+{run.Pages} are not inside block {prefix.Block} of {blockPages} pages");
            }

            bool fits = run.Encoding switch
            {
                PageEncoding.Raw => run.Pages <= ProtocolLimits.MaxContentBytes / ProtocolLimits.PageBytes
                    && run.ContentBytes == run.Pages * ProtocolLimits.PageBytes,
                PageEncoding.Zero => run.ContentBytes == 0,
                PageEncoding.Lz4 or PageEncoding.Zstd => run.Pages <= ProtocolLimits.MaxContentBytes / ProtocolLimits.PageBytes
                    && run.ContentBytes > 0 && run.ContentBytes < run.Pages * ProtocolLimits.PageBytes,
                PageEncoding.Delta => run.Pages <= ProtocolLimits.MaxContentBytes / ProtocolLimits.PageBytes
                    && run.ContentBytes <= content - used
                    && PageDelta.IsWhole(payload.Slice(DataPrefix.Bytes + (int)used, run.ContentBytes), run.Pages),
                _ => throw new ProtocolException(ProtocolError.Malformed, $"page encoding {(byte)run.Encoding} is unknown"),
            };
            if (!fits)
            {
                throw new ProtocolException(
                    ProtocolError.Malformed, $"{run.Pages} {run.Encoding} pages cannot have {run.ContentBytes} bytes of content");
            }

            used += run.ContentBytes;
            decoded += run.Encoding is PageEncoding.Lz4 or PageEncoding.Zstd ? (long)run.Pages * ProtocolLimits.PageBytes : run.ContentBytes;
            pages += run.Pages;
        }

        if (used != content)
        {
            throw new ProtocolException(
                ProtocolError.Malformed, $"the runs of a memory frame name {used} bytes of content, it has {content}");
        }

        if (decoded > ProtocolLimits.MaxContentBytes)
        {
            throw new ProtocolException(
                ProtocolError.Malformed,
                $"the runs of a memory frame decode to {decoded} bytes, more than {ProtocolLimits.MaxContentBytes}");
        }

        return pages;
    }

    /// <summary>Whether a checked memory frame holds runs that must be decompressed before they can be applied.</summary>
    public static bool AnyCompressed(ReadOnlySpan<byte> payload, DataPrefix prefix)
    {
        ReadOnlySpan<byte> table = prefix.Table(payload);
        for (int i = 0; i < prefix.Runs; i++)
        {
            if (Read(table, i).Encoding is PageEncoding.Lz4 or PageEncoding.Zstd)
            {
                return true;
            }
        }

        return false;
    }
}
