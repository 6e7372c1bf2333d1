using System.Buffers.Binary;

namespace Curling.Protocol;

/// <summary>What a round held, counted on each side for itself.</summary>
/// <param name="Frames">Data frames.</param>
/// <param name="StreamBytes">Bytes of QEMU's migration stream.</param>
/// <param name="MemoryBytes">Bytes of page content as it travelled.</param>
/// <param name="MemoryPages">Pages named by runs.</param>
/// <param name="DeviceBytes">Bytes of device state.</param>
public readonly record struct RoundCounts(int Frames, long StreamBytes, long MemoryBytes, long MemoryPages, long DeviceBytes)
{
    /// <summary>Bytes of disk content.</summary>
    public long DiskBytes { get; init; }

    /// <summary>Blocks of disks named by runs.</summary>
    public long DiskBlocks { get; init; }

    /// <summary>All content bytes.</summary>
    public long TotalBytes => StreamBytes + MemoryBytes + DeviceBytes + DiskBytes;

    /// <summary>The counts after one more data frame.</summary>
    public RoundCounts Plus(SectionKind section, int contentBytes, long pages) => section switch
    {
        SectionKind.Stream => this with { Frames = Frames + 1, StreamBytes = StreamBytes + contentBytes },
        SectionKind.Memory => this with
        {
            Frames = Frames + 1,
            MemoryBytes = MemoryBytes + contentBytes,
            MemoryPages = MemoryPages + pages,
        },
        SectionKind.Disk => this with { Frames = Frames + 1, DiskBytes = DiskBytes + contentBytes, DiskBlocks = DiskBlocks + pages },
        _ => this with { Frames = Frames + 1, DeviceBytes = DeviceBytes + contentBytes },
    };
}

/// <summary>
/// The end-of-round marker: 0xFEEDCAFE (4), flags (4; 1 = the last round of a switchover, 2 = the copy of the disks is not complete with it), round (8), data frames (4), pause
/// in microseconds (4), stream bytes (8), memory bytes (8), memory pages (8), device bytes (8), digest (16), disk bytes (8), disk
/// blocks (8).
/// </summary>
public readonly record struct RoundEnd(long Round, bool Final, uint PauseMicroseconds, RoundCounts Counts, UInt128 Digest)
{
    /// <summary>Whether the guest cannot be started from this round, because its disks are still being copied.</summary>
    public bool DisksIncomplete { get; init; }

    /// <summary>The marker of the 2013 RFC.</summary>
    public const uint Marker = 0xFEEDCAFE;

    /// <summary>The size of the payload.</summary>
    public const int Bytes = 88;

    /// <summary>Writes the payload.</summary>
    public void Write(Span<byte> payload)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(payload, Marker);
        BinaryPrimitives.WriteUInt32LittleEndian(payload[4..], (Final ? 1u : 0u) | (DisksIncomplete ? 2u : 0u));
        BinaryPrimitives.WriteInt64LittleEndian(payload[8..], Round);
        BinaryPrimitives.WriteInt32LittleEndian(payload[16..], Counts.Frames);
        BinaryPrimitives.WriteUInt32LittleEndian(payload[20..], PauseMicroseconds);
        BinaryPrimitives.WriteInt64LittleEndian(payload[24..], Counts.StreamBytes);
        BinaryPrimitives.WriteInt64LittleEndian(payload[32..], Counts.MemoryBytes);
        BinaryPrimitives.WriteInt64LittleEndian(payload[40..], Counts.MemoryPages);
        BinaryPrimitives.WriteInt64LittleEndian(payload[48..], Counts.DeviceBytes);
        BinaryPrimitives.WriteUInt128LittleEndian(payload[56..], Digest);
        BinaryPrimitives.WriteInt64LittleEndian(payload[72..], Counts.DiskBytes);
        BinaryPrimitives.WriteInt64LittleEndian(payload[80..], Counts.DiskBlocks);
    }

    /// <summary>Reads and checks the payload.</summary>
    /// <exception cref="ProtocolException">The marker or a field has no meaning.</exception>
    public static RoundEnd Read(ReadOnlySpan<byte> payload)
    {
        Payload.Expect(FrameType.RoundEnd, payload, Bytes);
        uint marker = BinaryPrimitives.ReadUInt32LittleEndian(payload);
        uint flags = BinaryPrimitives.ReadUInt32LittleEndian(payload[4..]);
        if (marker != Marker || flags > 3)
        {
            throw new ProtocolException(
                ProtocolError.Malformed, $"an end-of-round marker is 0x{marker:X8} with flags {flags} instead of 0x{Marker:X8}");
        }

        RoundCounts counts = new(
            BinaryPrimitives.ReadInt32LittleEndian(payload[16..]),
            BinaryPrimitives.ReadInt64LittleEndian(payload[24..]),
            BinaryPrimitives.ReadInt64LittleEndian(payload[32..]),
            BinaryPrimitives.ReadInt64LittleEndian(payload[40..]),
            BinaryPrimitives.ReadInt64LittleEndian(payload[48..]))
        {
            DiskBytes = BinaryPrimitives.ReadInt64LittleEndian(payload[72..]),
            DiskBlocks = BinaryPrimitives.ReadInt64LittleEndian(payload[80..]),
        };
        return new RoundEnd(
            BinaryPrimitives.ReadInt64LittleEndian(payload[8..]),
            (flags & 1) != 0,
            BinaryPrimitives.ReadUInt32LittleEndian(payload[20..]),
            counts,
            BinaryPrimitives.ReadUInt128LittleEndian(payload[56..]))
        {
            DisksIncomplete = (flags & 2) != 0,
        };
    }
}
