using System.Numerics;

namespace Curling.Send.Capture;

/// <summary>Which regions of a block are tracked: stretches of <see cref="RegionPages"/> pages.</summary>
/// <remarks>For one thread. A region is added and never taken out. Nothing is allocated after construction.</remarks>
internal sealed class RegionSet
{
    /// <summary>
    /// Pages of a region, 2 MiB, what one page of a page table maps: looking through one that is tracked takes a microsecond, asking the
    /// memory's file whether anything is in those that are not takes less, however many lie side by side.
    /// </summary>
    public const long RegionPages = 512;

    private const int WordBits = 64;
    private readonly ulong[] _words;

    public RegionSet(long pages)
    {
        Regions = (int)((pages + RegionPages - 1) / RegionPages);
        _words = new ulong[(Regions + WordBits - 1) / WordBits];
    }

    /// <summary>How many regions there are; the last one may be shorter.</summary>
    public int Regions { get; }

    /// <summary>How many are in the set.</summary>
    public int Count { get; private set; }

    /// <summary>Adds regions.</summary>
    public void Add(int first, int end)
    {
        for (int region = first; region < end; region++)
        {
            ulong bit = 1UL << (region % WordBits);
            Count += (_words[region / WordBits] & bit) == 0 ? 1 : 0;
            _words[region / WordBits] |= bit;
        }
    }

    /// <summary>The region before which about half of those in the set lie, a multiple of 64.</summary>
    public int Middle()
    {
        int before = 0;
        for (int word = 0; word < _words.Length; word++)
        {
            int here = BitOperations.PopCount(_words[word]);
            if (before + here > Count / 2)
            {
                return word * WordBits;
            }

            before += here;
        }

        return Regions;
    }

    /// <summary>The first region from <paramref name="region"/> on that is, or is not, in the set; <see cref="Regions"/> when there is none.</summary>
    public int Next(int region, bool isIn)
    {
        for (; region < Regions; region = (region / WordBits * WordBits) + WordBits)
        {
            ulong word = isIn ? _words[region / WordBits] : ~_words[region / WordBits];
            word &= ulong.MaxValue << (region % WordBits);
            if (word != 0)
            {
                return Math.Min(Regions, (region / WordBits * WordBits) + BitOperations.TrailingZeroCount(word));
            }
        }

        return Regions;
    }
}
