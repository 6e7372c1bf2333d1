using Curling.Hosting.Pages;

namespace Curling.Send.Links;

/// <summary>What the sender is asked to do with pages.</summary>
internal enum CompressChoice
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Deltas, and LZ4 for the rest.</summary>
    Lz4 = 1,

    /// <summary>Deltas, and Zstandard for the rest.</summary>
    Zstd = 2,

    /// <summary>Whatever brings pages over soonest.</summary>
    Auto = 3,
}

/// <summary>
/// Chooses the compression by what was seen: how fast the link takes bytes, how fast each way of encoding makes them, and how
/// many it leaves. Pure: it has no clock.
/// </summary>
/// <remarks>One line uses it. A way that was not seen for long is tried on a frame that has to travel anyway.</remarks>
internal sealed class CompressionChooser
{
    // A frame a second costs nothing at usual rates, and content changes its nature seldom.
    private const int TryEvery = 256;
    private const int Wins = 3;

    // The first frame of a way meets cold code and caches and says nothing.
    private const int Cold = 1;
    private const int Enough = 4;
    private const double Better = 0.8;

    // Bytes a second of a link that takes pages faster than any way makes them smaller: nothing is tried there.
    private const double Fast = 1L << 30;
    private static readonly PageCompression[] Ways = [PageCompression.None, PageCompression.Lz4, PageCompression.Zstd];
    private readonly bool[] _allowed = new bool[3];
    private readonly double[] _secondsPerByte = new double[3];
    private readonly double[] _left = [1, 1, 1];
    private readonly int[] _unseen = [0, int.MaxValue / 2, int.MaxValue / 2];
    private readonly int[] _seen = new int[3];
    private double _link;
    private int _wins;
    private PageCompression _challenger;

    /// <summary>Creates a chooser that begins with <see cref="PageCompression.None"/>.</summary>
    /// <param name="lz4">Whether the receiver takes LZ4.</param>
    /// <param name="zstd">Whether the receiver takes Zstandard.</param>
    public CompressionChooser(bool lz4, bool zstd)
    {
        _allowed[0] = true;
        _allowed[(int)PageCompression.Lz4] = lz4;
        _allowed[(int)PageCompression.Zstd] = zstd;
    }

    /// <summary>What is chosen.</summary>
    public PageCompression Current { get; private set; }

    /// <summary>Bytes a second that the link takes, as far as is known; 0 while it is not.</summary>
    public double LinkBytesPerSecond => _link;

    /// <summary>
    /// How the next frame is to be encoded: as is chosen, or another way that has to be seen again, where it could be better at all.
    /// </summary>
    public PageCompression ForNextFrame()
    {
        for (int i = 0; _link > 0 && (_link < Fast || Current != PageCompression.None) && i < Ways.Length; i++)
        {
            if (_allowed[i] && i != (int)Current && i != 0 && (_seen[i] < Enough || _unseen[i] >= TryEvery))
            {
                return Ways[i];
            }
        }

        return Current;
    }

    /// <summary>Notes what the link takes: the last word counts for a quarter.</summary>
    public void SawLink(double bytesPerSecond)
    {
        if (bytesPerSecond > 0)
        {
            _link = _link == 0 ? bytesPerSecond : (_link * 0.75) + (bytesPerSecond * 0.25);
        }
    }

    /// <summary>Notes how a frame was encoded.</summary>
    public void SawFrame(PageCompression way, int bytes, int left, double seconds)
    {
        for (int i = 0; i < _unseen.Length; i++)
        {
            _unseen[i] = i == (int)way ? 0 : Math.Min(_unseen[i] + 1, int.MaxValue / 2);
        }

        if (way == PageCompression.None || bytes == 0)
        {
            return;
        }

        int seen = _seen[(int)way]++ - Cold;
        if (seen < 0)
        {
            return;
        }

        double weight = 1.0 / Math.Min(seen + 1, 8);
        _secondsPerByte[(int)way] += weight * ((seconds / bytes) - _secondsPerByte[(int)way]);
        _left[(int)way] += weight * (((double)left / bytes) - _left[(int)way]);
    }

    /// <summary>Decides anew; a change needs to be clearly better, three times in a row.</summary>
    /// <returns>Whether the choice changed.</returns>
    public bool Decide()
    {
        if (_link <= 0)
        {
            return false;
        }

        PageCompression best = Current;
        foreach (PageCompression way in Ways)
        {
            if (_allowed[(int)way] && (way == PageCompression.None || _seen[(int)way] >= Enough) && Cost(way) < Cost(best))
            {
                best = way;
            }
        }

        if (best == Current || Cost(best) > Cost(Current) * Better)
        {
            _wins = 0;
            return false;
        }

        _wins = best == _challenger ? _wins + 1 : 1;
        _challenger = best;
        if (_wins < Wins)
        {
            return false;
        }

        Current = best;
        _wins = 0;
        return true;
    }

    /// <summary>Seconds until a byte of content is over there.</summary>
    private double Cost(PageCompression way) => _secondsPerByte[(int)way] + (_left[(int)way] / _link);
}
