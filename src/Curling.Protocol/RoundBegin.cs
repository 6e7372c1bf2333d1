using System.Buffers.Binary;

namespace Curling.Protocol;

/// <summary>How a round's content was captured.</summary>
public enum RoundKind : byte
{
    /// <summary>QEMU's whole migration stream.</summary>
    Full = 1,

    /// <summary>Every page that is not zero, and the device state: the start of incremental rounds.</summary>
    Base = 2,

    /// <summary>The pages changed since the parent round, and the device state.</summary>
    Incremental = 3,
}

/// <summary>
/// The first frame of a round: round (8), parent (8; the round it changes, or 0 where it stands alone), kind (1), zero (7),
/// bytes expected (8; an estimate for progress, 0 where unknown).
/// </summary>
public readonly record struct RoundBegin(long Round, long Parent, RoundKind Kind, long ExpectedBytes)
{
    /// <summary>The size of the payload.</summary>
    public const int Bytes = 32;

    /// <summary>Writes the payload.</summary>
    public void Write(Span<byte> payload)
    {
        payload[..Bytes].Clear();
        BinaryPrimitives.WriteInt64LittleEndian(payload, Round);
        BinaryPrimitives.WriteInt64LittleEndian(payload[8..], Parent);
        payload[16] = (byte)Kind;
        BinaryPrimitives.WriteInt64LittleEndian(payload[24..], ExpectedBytes);
    }

    /// <summary>Reads and checks the payload.</summary>
    /// <exception cref="ProtocolException">A field has no meaning.</exception>
    public static RoundBegin Read(ReadOnlySpan<byte> payload)
    {
        Payload.Expect(FrameType.RoundBegin, payload, Bytes);
        RoundBegin begin = new(
            BinaryPrimitives.ReadInt64LittleEndian(payload),
            BinaryPrimitives.ReadInt64LittleEndian(payload[8..]),
            (RoundKind)payload[16],
            BinaryPrimitives.ReadInt64LittleEndian(payload[24..]));
        bool alone = begin.Kind is RoundKind.Full or RoundKind.Base;
        if (begin.Kind is < RoundKind.Full or > RoundKind.Incremental || payload[17..24].ContainsAnyExcept((byte)0))
        {
            throw new ProtocolException(ProtocolError.Malformed, $"round kind {payload[16]} is unknown");
        }

        if (begin.Round <= 0 || begin.ExpectedBytes < 0 || (alone ? begin.Parent != 0 : begin.Parent != begin.Round - 1))
        {
            throw new ProtocolException(
                ProtocolError.Malformed, $"a {begin.Kind} round cannot be number {begin.Round} with parent {begin.Parent}");
        }

        return begin;
    }
}

/// <summary>Checks shared by the payloads of fixed size.</summary>
internal static class Payload
{
    /// <summary>Refuses a payload that is not exactly as long as its type is.</summary>
    public static void Expect(FrameType type, ReadOnlySpan<byte> payload, int bytes)
    {
        if (payload.Length != bytes)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"a {type} frame has {payload.Length} bytes instead of {bytes}");
        }
    }
}
