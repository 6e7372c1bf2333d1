using System.Buffers.Binary;

namespace Curling.Protocol;

/// <summary>What an entry of an <see cref="FrameType.Inbound"/> frame is.</summary>
public enum InboundKind : ushort
{
    /// <summary>A frame that the guest was given.</summary>
    Frame = 1,

    /// <summary>A cut: the round is the content, and entries before <see cref="InboundEntry.Sequence"/> are in it.</summary>
    Cut = 2,

    /// <summary>A frame that the guest sent and that waits: <see cref="InboundEntry.Sequence"/> is the round that makes it safe.</summary>
    Sent = 3,
}

/// <summary>
/// The head of an entry of an <see cref="FrameType.Inbound"/> frame: sequence (8), network (2), kind (2), then the length of the
/// content (4). The last is big-endian, for that is how QEMU wants it before a frame; the others are little-endian.
/// </summary>
/// <param name="Sequence">Counts the frames that the guest was given, over all its networks; see <see cref="InboundKind"/> for the others.</param>
/// <param name="Network">The guest's network, 0 for a cut.</param>
/// <param name="Kind">What the content is.</param>
/// <param name="Length">Bytes of content behind the head.</param>
public readonly record struct InboundEntry(long Sequence, int Network, InboundKind Kind, int Length)
{
    /// <summary>The size of the head.</summary>
    public const int Bytes = 16;

    /// <summary>Where in the head the length stands that QEMU wants before a frame.</summary>
    public const int FramedAt = 12;

    /// <summary>The content of a cut: a round's number.</summary>
    public const int CutBytes = sizeof(long);

    /// <summary>Writes the head.</summary>
    public void Write(Span<byte> entry)
    {
        BinaryPrimitives.WriteInt64LittleEndian(entry, Sequence);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[8..], (ushort)Network);
        BinaryPrimitives.WriteUInt16LittleEndian(entry[10..], (ushort)Kind);
        BinaryPrimitives.WriteInt32BigEndian(entry[FramedAt..], Length);
    }

    /// <summary>Reads and checks the entry at the beginning of what is left of a payload.</summary>
    /// <param name="payload">What is left.</param>
    /// <param name="networks">Networks that the guest has.</param>
    /// <exception cref="ProtocolException">It is cut short, or a field has no meaning.</exception>
    public static InboundEntry Read(ReadOnlySpan<byte> payload, int networks)
    {
        if (payload.Length < Bytes)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"{payload.Length} bytes are left where an inbound entry begins");
        }

        InboundEntry entry = new(
            BinaryPrimitives.ReadInt64LittleEndian(payload),
            BinaryPrimitives.ReadUInt16LittleEndian(payload[8..]),
            (InboundKind)BinaryPrimitives.ReadUInt16LittleEndian(payload[10..]),
            BinaryPrimitives.ReadInt32BigEndian(payload[FramedAt..]));
        bool good = entry.Sequence >= 0 && entry.Length >= 0 && entry.Length <= payload.Length - Bytes && entry.Kind switch
        {
            InboundKind.Frame or InboundKind.Sent => entry.Network < networks && entry.Length >= 14,
            InboundKind.Cut => entry.Network == 0 && entry.Length == CutBytes,
            _ => false,
        };
        return good ? entry : throw new ProtocolException(
            ProtocolError.Malformed,
            $"an inbound entry says sequence {entry.Sequence}, network {entry.Network}, kind {(int)entry.Kind}, {entry.Length} bytes, which cannot be");
    }
}
