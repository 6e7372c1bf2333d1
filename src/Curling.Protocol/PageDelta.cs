using System.Buffers.Binary;
using System.Runtime.InteropServices;

namespace Curling.Protocol;

/// <summary>Takes the pieces of a page that a delta overwrites.</summary>
public interface IPagePatch
{
    /// <summary>Overwrites a piece.</summary>
    /// <param name="page">The page of the block.</param>
    /// <param name="offset">Where in the page.</param>
    /// <param name="bytes">What stands there now.</param>
    void Patch(long page, int offset, ReadOnlySpan<byte> bytes);
}

/// <summary>
/// What changed in a page against the content that was sent last: the number of pieces (2 bytes), then for each its offset (2),
/// its length (2) and the bytes that stand there now.
/// </summary>
/// <remarks>
/// Pieces overwrite, they are not combined with what is there: applying a delta twice gives the same page, so a commit can be
/// repeated. Pieces are in rising order and do not overlap.
/// </remarks>
public static class PageDelta
{
    /// <summary>The longest delta of a page; a page that changed more travels whole.</summary>
    public const int MaxBytes = ProtocolLimits.PageBytes / 2;

    private const int CountBytes = 2;
    private const int PieceBytes = 4;
    private const int Word = sizeof(ulong);

    /// <summary>Writes the delta of a page.</summary>
    /// <param name="before">The page as it was sent last.</param>
    /// <param name="now">The page.</param>
    /// <param name="destination">Room for <see cref="MaxBytes"/>.</param>
    /// <returns>Bytes written, or -1 when they would be more than <see cref="MaxBytes"/>.</returns>
    public static int TryWrite(ReadOnlySpan<byte> before, ReadOnlySpan<byte> now, Span<byte> destination)
    {
        ReadOnlySpan<ulong> old = MemoryMarshal.Cast<byte, ulong>(before[..ProtocolLimits.PageBytes]);
        ReadOnlySpan<ulong> fresh = MemoryMarshal.Cast<byte, ulong>(now[..ProtocolLimits.PageBytes]);
        int at = CountBytes;
        int pieces = 0;
        int word = 0;
        while ((word += old[word..].CommonPrefixLength(fresh[word..])) < fresh.Length)
        {
            // One equal word between two pieces costs less than a new piece's head saves.
            int end = word + 1;
            for (int next = end; next < fresh.Length && next <= end; next++)
            {
                if (old[next] != fresh[next])
                {
                    end = next + 1;
                }
            }

            int bytes = (end - word) * Word;
            if (at + PieceBytes + bytes > MaxBytes)
            {
                return -1;
            }

            BinaryPrimitives.WriteUInt16LittleEndian(destination[at..], (ushort)(word * Word));
            BinaryPrimitives.WriteUInt16LittleEndian(destination[(at + 2)..], (ushort)bytes);
            now.Slice(word * Word, bytes).CopyTo(destination[(at + PieceBytes)..]);
            at += PieceBytes + bytes;
            pieces++;
            word = end;
        }

        BinaryPrimitives.WriteUInt16LittleEndian(destination, (ushort)pieces);
        return at;
    }

    /// <summary>Checks that content is the deltas of so many pages and nothing else, so that applying them cannot go wrong.</summary>
    public static bool IsWhole(ReadOnlySpan<byte> content, int pages)
    {
        for (int page = 0; page < pages; page++)
        {
            if (content.Length < CountBytes)
            {
                return false;
            }

            int pieces = BinaryPrimitives.ReadUInt16LittleEndian(content);
            content = content[CountBytes..];
            int end = 0;
            for (int i = 0; i < pieces; i++)
            {
                if (content.Length < PieceBytes)
                {
                    return false;
                }

                int offset = BinaryPrimitives.ReadUInt16LittleEndian(content);
                int length = BinaryPrimitives.ReadUInt16LittleEndian(content[2..]);
                if (length == 0 || offset < end || offset + length > ProtocolLimits.PageBytes || PieceBytes + length > content.Length)
                {
                    return false;
                }

                end = offset + length;
                content = content[(PieceBytes + length)..];
            }
        }

        return content.IsEmpty;
    }

    /// <summary>Applies the deltas of consecutive pages, which were checked before.</summary>
    public static void Apply<T>(ReadOnlySpan<byte> content, long firstPage, int pages, T target)
        where T : IPagePatch
    {
        for (int page = 0; page < pages; page++)
        {
            int pieces = BinaryPrimitives.ReadUInt16LittleEndian(content);
            content = content[CountBytes..];
            for (int i = 0; i < pieces; i++)
            {
                int offset = BinaryPrimitives.ReadUInt16LittleEndian(content);
                int length = BinaryPrimitives.ReadUInt16LittleEndian(content[2..]);
                target.Patch(firstPage + page, offset, content.Slice(PieceBytes, length));
                content = content[(PieceBytes + length)..];
            }
        }
    }
}
