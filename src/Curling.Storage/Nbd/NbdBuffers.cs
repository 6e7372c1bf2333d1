using System.Numerics;
using Curling.Linux.Storage;

namespace Curling.Storage.Nbd;

/// <summary>Buffers for the payloads of requests, used again; how many are out at once is bounded by those who rent.</summary>
/// <remarks>Safe from any thread. Sizes are powers of two; of each size it keeps what 16 MiB hold, and one of those that are longer.</remarks>
internal sealed class NbdBuffers
{
    private const int SmallestBits = 12;
    private const int LargestBits = 25;
    private const int KeptBytes = 16 << 20;
    private readonly Stack<PinnedBuffer>[] _kept = new Stack<PinnedBuffer>[LargestBits - SmallestBits + 1];

    public NbdBuffers()
    {
        for (int i = 0; i < _kept.Length; i++)
        {
            _kept[i] = new Stack<PinnedBuffer>();
        }
    }

    /// <summary>A buffer of at least that many bytes, 32 MiB at most.</summary>
    public PinnedBuffer Rent(int length)
    {
        Stack<PinnedBuffer> kept = _kept[Class(length)];
        lock (kept)
        {
            if (kept.TryPop(out PinnedBuffer? buffer))
            {
                return buffer;
            }
        }

        return new PinnedBuffer(1 << (Class(length) + SmallestBits));
    }

    /// <summary>Takes a buffer back.</summary>
    public void Return(PinnedBuffer buffer)
    {
        int length = buffer.Bytes.Length;
        Stack<PinnedBuffer> kept = _kept[Class(length)];
        lock (kept)
        {
            if (kept.Count < Math.Max(1, KeptBytes / length))
            {
                kept.Push(buffer);
            }
        }
    }

    private static int Class(int length)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, 1 << LargestBits);
        return Math.Max(0, 32 - BitOperations.LeadingZeroCount((uint)Math.Max(1, length) - 1) - SmallestBits);
    }
}
