using System.Buffers.Binary;
using System.Text;

namespace Curling.Protocol;

/// <summary>The payload of <see cref="FrameType.Complete"/>, <see cref="FrameType.Committed"/>,
/// <see cref="FrameType.RoundAbandon"/> and <see cref="FrameType.Promoted"/>: a round (8).</summary>
public static class RoundNumber
{
    /// <summary>The size of the payload.</summary>
    public const int Bytes = 8;

    /// <summary>Writes the payload.</summary>
    public static void Write(Span<byte> payload, long round) => BinaryPrimitives.WriteInt64LittleEndian(payload, round);

    /// <summary>Reads and checks the payload.</summary>
    /// <exception cref="ProtocolException">It is not a round's number.</exception>
    public static long Read(FrameType type, ReadOnlySpan<byte> payload)
    {
        Payload.Expect(type, payload, Bytes);
        long round = BinaryPrimitives.ReadInt64LittleEndian(payload);
        return round > 0
            ? round
            : throw new ProtocolException(ProtocolError.Malformed, $"a {type} frame names round {round}");
    }
}

/// <summary>Why a connection ends well.</summary>
public enum GoodbyeReason : byte
{
    /// <summary>The guest shut itself down: the standby is not promoted.</summary>
    GuestShutdown = 1,

    /// <summary>The operator stopped the sender, and the guest with it: the standby is not promoted.</summary>
    OperatorStop = 2,

    /// <summary>QEMU crashed under a living sender: the standby takes over at once.</summary>
    QemuCrashed = 3,

    /// <summary>The receiver is being stopped by its operator.</summary>
    ReceiverStop = 4,
}

/// <summary>A frame that carries a code (2) and a reason for people in UTF-8: <see cref="FrameType.Goodbye"/> and
/// <see cref="FrameType.Refusal"/>.</summary>
public readonly record struct CodedText(ushort Code, string Text)
{
    /// <summary>The bytes the payload takes; text beyond the bound is cut.</summary>
    public int Write(Span<byte> payload)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(payload, Code);
        Encoding.UTF8.GetEncoder().Convert(
            Text, payload.Slice(2, ProtocolLimits.MaxTextBytes), flush: true, out _, out int bytes, out _);
        return 2 + bytes;
    }

    /// <summary>Reads and checks the payload. Control characters in the text become spaces: it goes to logs.</summary>
    /// <exception cref="ProtocolException">The payload has no code or too long a text.</exception>
    public static CodedText Read(FrameType type, ReadOnlySpan<byte> payload)
    {
        if (payload.Length is < 2 or > 2 + ProtocolLimits.MaxTextBytes)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"a {type} frame has {payload.Length} bytes");
        }

        string text = Encoding.UTF8.GetString(payload[2..]);
        return new CodedText(
            BinaryPrimitives.ReadUInt16LittleEndian(payload),
            string.Create(text.Length, text, static (span, t) =>
            {
                for (int i = 0; i < span.Length; i++)
                {
                    span[i] = char.IsControl(t[i]) ? ' ' : t[i];
                }
            }));
    }
}

/// <summary>Why a peer said no. The text beside it says it for people.</summary>
public enum RefusalCode : ushort
{
    /// <summary>Bytes that break the protocol.</summary>
    Protocol = 1,

    /// <summary>The guest definition is not one this receiver takes.</summary>
    Definition = 2,

    /// <summary>The receiver's limits (guests, memory) are reached.</summary>
    Limit = 3,

    /// <summary>A guest of this name is protected by another sender, or was promoted here.</summary>
    Taken = 4,

    /// <summary>The receiver's host cannot run the guest (QEMU, machine type, accelerator).</summary>
    Host = 5,

    /// <summary>A round was damaged or could not be kept.</summary>
    Round = 6,

    /// <summary>A newer generation of the guest exists: this one must stop.</summary>
    Superseded = 7,
}

/// <summary>The payload of <see cref="FrameType.FileData"/>: file index (4), zero (4), offset (8), then the bytes.</summary>
public readonly record struct FilePiece(int File, long Offset)
{
    /// <summary>The size of the part before the bytes.</summary>
    public const int Bytes = 16;

    /// <summary>Writes the part before the bytes.</summary>
    public void Write(Span<byte> payload)
    {
        BinaryPrimitives.WriteInt32LittleEndian(payload, File);
        BinaryPrimitives.WriteInt32LittleEndian(payload[4..], 0);
        BinaryPrimitives.WriteInt64LittleEndian(payload[8..], Offset);
    }

    /// <summary>Reads and checks the part before the bytes.</summary>
    /// <exception cref="ProtocolException">A field has no meaning.</exception>
    public static FilePiece Read(ReadOnlySpan<byte> payload)
    {
        if (payload.Length < Bytes)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"a FileData frame has only {payload.Length} bytes");
        }

        FilePiece piece = new(
            BinaryPrimitives.ReadInt32LittleEndian(payload), BinaryPrimitives.ReadInt64LittleEndian(payload[8..]));
        return piece.File is >= 0 and < ProtocolLimits.MaxBootFiles
            && piece.Offset is >= 0 and <= ProtocolLimits.MaxBootFileBytes
            && BinaryPrimitives.ReadInt32LittleEndian(payload[4..]) == 0
            ? piece
            : throw new ProtocolException(ProtocolError.Malformed, $"a FileData frame names file {piece.File} at {piece.Offset}");
    }
}

/// <summary>The payload of <see cref="FrameType.Heartbeat"/>: a counter (8).</summary>
public static class Heartbeat
{
    /// <summary>The size of the payload.</summary>
    public const int Bytes = 8;

    /// <summary>Writes the payload.</summary>
    public static void Write(Span<byte> payload, long counter) => BinaryPrimitives.WriteInt64LittleEndian(payload, counter);

    /// <summary>Reads and checks the payload.</summary>
    /// <exception cref="ProtocolException">It has another length.</exception>
    public static long Read(ReadOnlySpan<byte> payload)
    {
        Payload.Expect(FrameType.Heartbeat, payload, Bytes);
        return BinaryPrimitives.ReadInt64LittleEndian(payload);
    }
}

/// <summary>
/// The payload of <see cref="FrameType.VouchAsk"/> and <see cref="FrameType.Vouch"/>: a sequence number (8) that the answer repeats, and for
/// how long the receiver is asked to take nothing over, or promises it, in milliseconds (8).
/// </summary>
public readonly record struct VouchMessage(long Sequence, long Milliseconds)
{
    /// <summary>The size of the payload.</summary>
    public const int Bytes = 16;

    /// <summary>The longest promise: a failover would wait for it.</summary>
    public const long MaxMilliseconds = 600_000;

    /// <summary>Writes the payload.</summary>
    public void Write(Span<byte> payload)
    {
        BinaryPrimitives.WriteInt64LittleEndian(payload, Sequence);
        BinaryPrimitives.WriteInt64LittleEndian(payload[8..], Milliseconds);
    }

    /// <summary>Reads and checks the payload.</summary>
    /// <exception cref="ProtocolException">It has another length, or asks for nothing or for too much.</exception>
    public static VouchMessage Read(FrameType type, ReadOnlySpan<byte> payload)
    {
        Payload.Expect(type, payload, Bytes);
        VouchMessage message = new(
            BinaryPrimitives.ReadInt64LittleEndian(payload), BinaryPrimitives.ReadInt64LittleEndian(payload[8..]));
        return message is { Sequence: > 0, Milliseconds: > 0 and <= MaxMilliseconds }
            ? message
            : throw new ProtocolException(
                ProtocolError.Malformed, $"a {type} frame has number {message.Sequence} and {message.Milliseconds} ms");
    }
}
