using System.Numerics;

namespace Curling.Storage.Tracking;

/// <summary>
/// A set of a disk's blocks: a bitmap in leaves of 4096 blocks that exist only where there are blocks, under a summary with a bit for each
/// leaf, so that going through a set, joining and emptying it cost what is in it and not what the disk measures.
/// </summary>
/// <remarks>Not thread-safe; whoever shares one does so under a lock. Leaves come from a pool that sets of one disk share.</remarks>
internal sealed class BlockSet
{
    /// <summary>What one bit stands for, in bytes.</summary>
    public const int BlockBytes = 4096;

    private const int LeafShift = 12;
    private const int LeafBlocks = 1 << LeafShift;
    private readonly ulong[]?[] _leaves;
    private readonly ulong[] _summary;
    private readonly LeafPool _pool;

    /// <summary>Creates an empty set.</summary>
    public BlockSet(long blocks, LeafPool pool)
    {
        Blocks = blocks;
        _pool = pool;
        _leaves = new ulong[]?[(blocks + LeafBlocks - 1) >> LeafShift];
        _summary = new ulong[(_leaves.Length + 63) >> 6];
    }

    /// <summary>The disk's size in blocks.</summary>
    public long Blocks { get; }

    /// <summary>How many blocks are in the set.</summary>
    public long Count { get; private set; }

    /// <summary>Words and leaves that were looked at since the set was made: what its use cost, for tests.</summary>
    public long Work { get; private set; }

    /// <summary>Whether a block is in the set.</summary>
    public bool Contains(long block) =>
        _leaves[block >> LeafShift] is { } leaf && (leaf[(block >> 6) & 63] & (1UL << (int)(block & 63))) != 0;

    /// <summary>Whether any block of a range is in the set.</summary>
    public bool ContainsAny(long first, long end)
    {
        for (long block = first; block < end && Count > 0;)
        {
            if (_leaves[block >> LeafShift] is not { } leaf)
            {
                block = (block | (LeafBlocks - 1)) + 1;
            }
            else if ((leaf[(block >> 6) & 63] & Mask(block, end)) != 0)
            {
                return true;
            }
            else
            {
                block = (block | 63) + 1;
            }
        }

        return false;
    }

    /// <summary>Adds the blocks of a range, without those that are in <paramref name="except"/>.</summary>
    public void Add(long first, long end, BlockSet? except = null)
    {
        for (long block = first; block < end;)
        {
            int index = (int)(block >> LeafShift);
            ulong[]? without = except?._leaves[index];
            long stop = Math.Min(end, (long)(index + 1) << LeafShift);
            ulong[]? leaf = _leaves[index];
            for (; block < stop; block = (block | 63) + 1)
            {
                int word = (int)((block >> 6) & 63);
                ulong mask = Mask(block, stop);
                if (without is not null)
                {
                    mask &= ~without[word];
                }

                if (mask == 0)
                {
                    continue;
                }

                leaf ??= NewLeaf(index);
                Count += BitOperations.PopCount(mask & ~leaf[word]);
                leaf[word] |= mask;
            }

            Work++;
            block = stop;
        }
    }

    /// <summary>Takes the blocks of a range out.</summary>
    public void Remove(long first, long end)
    {
        for (long block = first; block < end;)
        {
            int index = (int)(block >> LeafShift);
            long stop = Math.Min(end, (long)(index + 1) << LeafShift);
            Work++;
            if (_leaves[index] is { } leaf)
            {
                for (; block < stop; block = (block | 63) + 1)
                {
                    int word = (int)((block >> 6) & 63);
                    ulong gone = leaf[word] & Mask(block, stop);
                    Count -= BitOperations.PopCount(gone);
                    leaf[word] &= ~gone;
                }

                DropIfEmpty(index, leaf);
            }

            block = stop;
        }
    }

    /// <summary>The first block in the set from <paramref name="from"/> on; -1 when there is none.</summary>
    public long Next(long from)
    {
        if (from >= Blocks)
        {
            return -1;
        }

        int index = (int)(from >> LeafShift);
        if (_leaves[index] is { } leaf && NextInLeaf(leaf, (int)(from & (LeafBlocks - 1))) is >= 0 and int here)
        {
            return ((long)index << LeafShift) + here;
        }

        index = NextLeaf(index + 1);
        return index < 0 ? -1 : ((long)index << LeafShift) + NextInLeaf(_leaves[index]!, 0);
    }

    /// <summary>Where the run of consecutive blocks that <paramref name="from"/> is in ends; not beyond <paramref name="limit"/>.</summary>
    public long RunEnd(long from, long limit)
    {
        limit = Math.Min(limit, Blocks);
        for (long block = from; block < limit;)
        {
            if (_leaves[block >> LeafShift] is not { } leaf)
            {
                return block;
            }

            Work++;
            ulong missing = ~leaf[(block >> 6) & 63] >> (int)(block & 63);
            if (missing != 0)
            {
                return Math.Min(limit, block + BitOperations.TrailingZeroCount(missing));
            }

            block = (block | 63) + 1;
        }

        return limit;
    }

    /// <summary>Moves the lowest blocks into another set, until about as many were moved as asked for; whole leaves where they fit.</summary>
    public void MoveLowest(BlockSet target, long blocks)
    {
        while (blocks > 0 && Count > 0)
        {
            int index = NextLeaf(0);
            ulong[] leaf = _leaves[index]!;
            ulong[] into = target._leaves[index] ?? target.NewLeaf(index);
            for (int word = 0; word < leaf.Length && blocks > 0; word++)
            {
                ulong moving = leaf[word];
                int bits = BitOperations.PopCount(moving);
                while (bits > blocks)
                {
                    moving &= ~(1UL << (63 - BitOperations.LeadingZeroCount(moving)));
                    bits--;
                }

                leaf[word] &= ~moving;
                Count -= bits;
                target.Count += BitOperations.PopCount(moving & ~into[word]);
                into[word] |= moving;
                blocks -= bits;
            }

            Work++;
            DropIfEmpty(index, leaf);
        }
    }

    /// <summary>Adds all blocks of another set.</summary>
    public void AddAll(BlockSet other)
    {
        for (int index = other.NextLeaf(0); index >= 0; index = other.NextLeaf(index + 1))
        {
            ulong[] from = other._leaves[index]!;
            ulong[] into = _leaves[index] ?? NewLeaf(index);
            for (int word = 0; word < from.Length; word++)
            {
                Count += BitOperations.PopCount(from[word] & ~into[word]);
                into[word] |= from[word];
            }

            Work++;
        }
    }

    /// <summary>Empties the set.</summary>
    public void Clear()
    {
        for (int index = NextLeaf(0); index >= 0; index = NextLeaf(index + 1))
        {
            _pool.Return(_leaves[index]!);
            _leaves[index] = null;
            _summary[index >> 6] &= ~(1UL << (index & 63));
            Work++;
        }

        Count = 0;
    }

    /// <summary>The bits of one word that lie in [block, end).</summary>
    private static ulong Mask(long block, long end)
    {
        ulong mask = ulong.MaxValue << (int)(block & 63);
        long wordEnd = (block | 63) + 1;
        return end >= wordEnd ? mask : mask & (ulong.MaxValue >> (int)(wordEnd - end));
    }

    private int NextInLeaf(ulong[] leaf, int bit)
    {
        ulong rest = leaf[bit >> 6] & (ulong.MaxValue << (bit & 63));
        for (int word = bit >> 6; ;)
        {
            Work++;
            if (rest != 0)
            {
                return (word << 6) + BitOperations.TrailingZeroCount(rest);
            }

            if (++word == leaf.Length)
            {
                return -1;
            }

            rest = leaf[word];
        }
    }

    private int NextLeaf(int from)
    {
        if (from >= _leaves.Length)
        {
            return -1;
        }

        ulong rest = _summary[from >> 6] & (ulong.MaxValue << (from & 63));
        for (int word = from >> 6; ;)
        {
            Work++;
            if (rest != 0)
            {
                return (word << 6) + BitOperations.TrailingZeroCount(rest);
            }

            if (++word == _summary.Length)
            {
                return -1;
            }

            rest = _summary[word];
        }
    }

    private ulong[] NewLeaf(int index)
    {
        _summary[index >> 6] |= 1UL << (index & 63);
        return _leaves[index] = _pool.Rent();
    }

    private void DropIfEmpty(int index, ulong[] leaf)
    {
        if (leaf.AsSpan().IndexOfAnyExcept(0UL) < 0)
        {
            _pool.Return(leaf);
            _leaves[index] = null;
            _summary[index >> 6] &= ~(1UL << (index & 63));
        }
    }

    /// <summary>Leaves that no set uses, all zeros. Thread-safe: sets that nobody else sees any more are emptied outside the disk's lock.</summary>
    internal sealed class LeafPool
    {
        private const int Keep = 4096; // 2 MiB; more is left to the collector
        private readonly Stack<ulong[]> _free = new();
        private readonly Lock _lock = new();

        public ulong[] Rent()
        {
            lock (_lock)
            {
                if (_free.TryPop(out ulong[]? leaf))
                {
                    return leaf;
                }
            }

            return new ulong[LeafBlocks / 64];
        }

        public void Return(ulong[] leaf)
        {
            Array.Clear(leaf);
            lock (_lock)
            {
                if (_free.Count < Keep)
                {
                    _free.Push(leaf);
                }
            }
        }
    }
}
