namespace Curling.Hosting.Network;

/// <summary>
/// Frames that had reached the primary and that no committed round knows of: what a promoted guest gets before anything else. A
/// network may always duplicate and delay, so one too many does no harm; one too few waits for its sender's retransmission.
/// </summary>
/// <remarks>Immutable; the memory it names must stay until it has been played.</remarks>
/// <param name="Frames">In order: the network, and the frame with its length before it (big-endian, 4 bytes).</param>
public sealed record ReplayedFrames(IReadOnlyList<(int Network, ReadOnlyMemory<byte> Framed)> Frames)
{
    /// <summary>The frames of one network.</summary>
    internal IReadOnlyList<ReadOnlyMemory<byte>> Of(int network)
    {
        List<ReadOnlyMemory<byte>> frames = [];
        foreach ((int of, ReadOnlyMemory<byte> framed) in Frames)
        {
            if (of == network)
            {
                frames.Add(framed);
            }
        }

        return frames;
    }
}
