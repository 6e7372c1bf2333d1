namespace Curling.Storage.Tracking;

/// <summary>What a snapshot's reader takes with one call, and the runs that come of it. One reader's, not thread-safe.</summary>
internal sealed class SnapshotPieces(long diskLength)
{
    /// <summary>Instead of a slot: the blocks are in the image.</summary>
    public const int InImage = -1;

    /// <summary>Instead of a slot: the blocks are a hole in the image.</summary>
    public const int Hole = -2;

    /// <summary>The pieces, ascending.</summary>
    public List<Piece> All { get; } = [];

    /// <summary>How many there are.</summary>
    public int Count => All.Count;

    /// <summary>Forgets them.</summary>
    public void Clear() => All.Clear();

    /// <summary>Adds blocks behind the last, to its piece where they follow it and come from the same place.</summary>
    public void Add(long block, long count, int slot)
    {
        if (slot < 0 && All.Count > 0 && All[^1] is { } before && before.Slot == slot && before.Block + before.Count == block)
        {
            All[^1] = before with { Count = before.Count + count };
        }
        else
        {
            All.Add(new Piece(block, count, slot));
        }
    }

    /// <summary>The bytes of a range of blocks; the disk's last block may be a short one.</summary>
    public int LengthOf(long first, long end) => (int)RangeLength(first, end);

    /// <summary>Makes runs of the pieces; blocks of zeros become zero runs and their bytes are left out.</summary>
    public SnapshotPart BuildRuns(Span<byte> bytes, Span<DiskRun> runs)
    {
        int count = 0;
        int from = 0;
        int kept = 0;
        foreach (Piece piece in All)
        {
            if (piece.Slot == Hole)
            {
                AddRun(runs, ref count, piece.Block * BlockSet.BlockBytes, RangeLength(piece.Block, piece.Block + piece.Count), true);
                continue;
            }

            for (long block = piece.Block; block < piece.Block + piece.Count; block++)
            {
                Span<byte> content = bytes.Slice(from, LengthOf(block, block + 1));
                from += content.Length;
                bool zero = !content.ContainsAnyExcept((byte)0);
                AddRun(runs, ref count, block * BlockSet.BlockBytes, content.Length, zero);
                if (!zero)
                {
                    if (kept != from - content.Length)
                    {
                        content.CopyTo(bytes[kept..]);
                    }

                    kept += content.Length;
                }
            }
        }

        return new SnapshotPart(count, kept);
    }

    private static void AddRun(Span<DiskRun> runs, ref int count, long offset, long length, bool zero)
    {
        if (count > 0 && runs[count - 1] is { } before && before.IsZero == zero && before.Offset + before.Length == offset)
        {
            runs[count - 1] = before with { Length = before.Length + length };
        }
        else
        {
            runs[count++] = new DiskRun(offset, length, zero);
        }
    }

    private long RangeLength(long first, long end) => Math.Min(diskLength, end * BlockSet.BlockBytes) - (first * BlockSet.BlockBytes);

    /// <summary>Consecutive blocks that come from one place: the image, a slot of held memory (one block), or nowhere (a hole).</summary>
    internal readonly record struct Piece(long Block, long Count, int Slot);
}
