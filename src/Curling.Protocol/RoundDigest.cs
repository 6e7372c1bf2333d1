using System.Buffers.Binary;
using System.IO.Hashing;

namespace Curling.Protocol;

/// <summary>
/// The digest over a whole round: XxHash128 over one 16-byte entry for its first frame and for each data frame, in order:
/// payload checksum (8), payload length (4), type (4). The payload checksums are those of the frame headers, so every byte
/// of the round is hashed once and bound to its place.
/// </summary>
/// <remarks>Not thread-safe. One instance serves many rounds: <see cref="Reset"/> between them.</remarks>
public sealed class RoundDigest
{
    private readonly XxHash128 _hash = new();

    /// <summary>Forgets everything added.</summary>
    public void Reset() => _hash.Reset();

    /// <summary>Adds a frame.</summary>
    public void Add(FrameType type, int payloadLength, ulong payloadHash)
    {
        Span<byte> entry = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(entry, payloadHash);
        BinaryPrimitives.WriteInt32LittleEndian(entry[8..], payloadLength);
        BinaryPrimitives.WriteInt32LittleEndian(entry[12..], (int)type);
        _hash.Append(entry);
    }

    /// <summary>The digest of what was added since the last reset.</summary>
    public UInt128 Current => _hash.GetCurrentHashAsUInt128();
}
