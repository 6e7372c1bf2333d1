using System.Buffers.Binary;
using System.IO.Hashing;

namespace Curling.Protocol;

/// <summary>
/// The 32 bytes before every payload, little-endian: magic "CRLG", version (1), type (1), zero (2), payload length (4),
/// sequence number in this direction (4), XxHash3-64 of the payload (8), zero (4), low half of XxHash3-64 over the 28 bytes
/// before (4). The header's own checksum is looked at before any field but the magic and the version is believed.
/// </summary>
public readonly record struct FrameHeader(FrameType Type, int PayloadLength, uint Sequence, ulong PayloadHash)
{
    /// <summary>The size of a header on the wire.</summary>
    public const int Bytes = 32;

    /// <summary>"CRLG", read as a little-endian number.</summary>
    public const uint Magic = 0x474C5243;

    /// <summary>The checksum a header carries for <paramref name="payload"/>.</summary>
    public static ulong HashOf(ReadOnlySpan<byte> payload) => XxHash3.HashToUInt64(payload);

    /// <summary>Writes the header into the first <see cref="Bytes"/> bytes of <paramref name="destination"/>.</summary>
    public void Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(destination, Magic);
        destination[4] = ProtocolLimits.Version;
        destination[5] = (byte)Type;
        BinaryPrimitives.WriteUInt16LittleEndian(destination[6..], 0);
        BinaryPrimitives.WriteInt32LittleEndian(destination[8..], PayloadLength);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[12..], Sequence);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[16..], PayloadHash);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[24..], 0);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[28..], (uint)XxHash3.HashToUInt64(destination[..28]));
    }

    /// <summary>Reads and checks a header.</summary>
    /// <exception cref="ProtocolException">
    /// The bytes are not Curling's, of another version, damaged, of an unknown type or longer than their type allows.
    /// </exception>
    public static FrameHeader Read(ReadOnlySpan<byte> source)
    {
        if (source.Length < Bytes)
        {
            throw new ProtocolException(ProtocolError.Truncated, $"a frame header of {Bytes} bytes has only {source.Length}");
        }

        uint magic = BinaryPrimitives.ReadUInt32LittleEndian(source);
        if (magic != Magic)
        {
            throw new ProtocolException(
                ProtocolError.NotCurling,
                $"the peer is not Curling: a frame begins with {Convert.ToHexString(source[..4])} instead of 43524C47");
        }

        // The version is looked at before the checksum: another version may well compute it in another way.
        byte version = source[4];
        if (version != ProtocolLimits.Version)
        {
            string advice = version > ProtocolLimits.Version ? "upgrade Curling here" : "upgrade Curling there";
            throw new ProtocolException(
                ProtocolError.Version,
                $"the peer speaks protocol version {version}, this side version {ProtocolLimits.Version}; {advice}");
        }

        uint hash = BinaryPrimitives.ReadUInt32LittleEndian(source[28..]);
        if (hash != (uint)XxHash3.HashToUInt64(source[..28]))
        {
            throw new ProtocolException(ProtocolError.DamagedHeader, "a frame header does not match its checksum");
        }

        FrameType type = (FrameType)source[5];
        int length = BinaryPrimitives.ReadInt32LittleEndian(source[8..]);
        if (!Enum.IsDefined(type))
        {
            throw new ProtocolException(ProtocolError.UnexpectedFrame, $"frame type {(byte)type} is unknown");
        }

        if (BinaryPrimitives.ReadUInt16LittleEndian(source[6..]) != 0 || BinaryPrimitives.ReadUInt32LittleEndian(source[24..]) != 0)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"reserved bytes of a {type} header are not zero");
        }

        if (length < 0 || length > MaxPayload(type))
        {
            throw new ProtocolException(
                ProtocolError.TooLong, $"a {type} frame of {(uint)length} bytes is longer than {MaxPayload(type)}");
        }

        return new FrameHeader(
            type,
            length,
            BinaryPrimitives.ReadUInt32LittleEndian(source[12..]),
            BinaryPrimitives.ReadUInt64LittleEndian(source[16..]));
    }

    /// <summary>Checks a payload against the header that announced it.</summary>
    /// <exception cref="ProtocolException">The payload is damaged.</exception>
    public void Check(ReadOnlySpan<byte> payload)
    {
        if (payload.Length != PayloadLength || HashOf(payload) != PayloadHash)
        {
            throw new ProtocolException(
                ProtocolError.DamagedPayload, $"the payload of {Type} frame {Sequence} does not match its checksum");
        }
    }

    /// <summary>The largest payload that a frame of this type may have.</summary>
    public static int MaxPayload(FrameType type) => type switch
    {
        FrameType.Hello or FrameType.Welcome => ProtocolLimits.MaxHandshakePayload,
        FrameType.RoundData or FrameType.FileData or FrameType.Inbound => ProtocolLimits.MaxDataPayload,
        _ => ProtocolLimits.MaxControlPayload,
    };
}
