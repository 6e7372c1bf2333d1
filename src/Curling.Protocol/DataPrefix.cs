using System.Buffers.Binary;

namespace Curling.Protocol;

/// <summary>What the content of a data frame is.</summary>
public enum SectionKind : byte
{
    /// <summary>A piece of QEMU's own migration stream: the whole of a full round.</summary>
    Stream = 1,

    /// <summary>Pages of one memory block, with a run table at the payload's end.</summary>
    Memory = 2,

    /// <summary>A piece of the device state, as a migration stream that QEMU loads.</summary>
    DeviceState = 3,

    /// <summary>Blocks of one disk, 4096 bytes each as pages are, with a run table at the payload's end; behind a disk's end is zeros.</summary>
    Disk = 4,
}

/// <summary>
/// The first eight bytes of a data frame's payload: section (1), zero (1), memory block or disk (2), runs in the table at the
/// payload's end (4).
/// </summary>
public readonly record struct DataPrefix(SectionKind Section, ushort Block, int Runs)
{
    /// <summary>The size of the prefix on the wire.</summary>
    public const int Bytes = 8;

    /// <summary>Writes the prefix to the start of a payload.</summary>
    public void Write(Span<byte> payload)
    {
        payload[0] = (byte)Section;
        payload[1] = 0;
        BinaryPrimitives.WriteUInt16LittleEndian(payload[2..], Block);
        BinaryPrimitives.WriteInt32LittleEndian(payload[4..], Runs);
    }

    /// <summary>Reads and checks the prefix of a data frame's payload.</summary>
    /// <exception cref="ProtocolException">The prefix has no meaning or its table does not fit the payload.</exception>
    public static DataPrefix Read(ReadOnlySpan<byte> payload)
    {
        if (payload.Length < Bytes)
        {
            throw new ProtocolException(ProtocolError.Truncated, $"a data frame of {payload.Length} bytes has no room for its prefix");
        }

        SectionKind section = (SectionKind)payload[0];
        ushort block = BinaryPrimitives.ReadUInt16LittleEndian(payload[2..]);
        int runs = BinaryPrimitives.ReadInt32LittleEndian(payload[4..]);
        if (section is < SectionKind.Stream or > SectionKind.Disk || payload[1] != 0)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"section kind {payload[0]} is unknown");
        }

        bool fits = section is SectionKind.Memory or SectionKind.Disk
            ? runs is > 0 and <= ProtocolLimits.MaxRuns && block < (section == SectionKind.Memory ? ProtocolLimits.MaxBlocks : ProtocolLimits.MaxDisks)
                && Bytes + (runs * MemoryRun.Bytes) <= payload.Length
            : runs == 0 && block == 0;
        if (!fits)
        {
            throw new ProtocolException(
                ProtocolError.Malformed, $"a {section} frame of {payload.Length} bytes cannot hold {runs} runs of block {block}");
        }

        return new DataPrefix(section, block, runs);
    }

    /// <summary>The part of <paramref name="payload"/> between the prefix and the run table.</summary>
    public ReadOnlySpan<byte> Content(ReadOnlySpan<byte> payload) => payload[Bytes..^(Runs * MemoryRun.Bytes)];

    /// <summary>The run table at the end of <paramref name="payload"/>.</summary>
    public ReadOnlySpan<byte> Table(ReadOnlySpan<byte> payload) => payload[^(Runs * MemoryRun.Bytes)..];
}
