using System.Buffers.Binary;
using System.IO.Hashing;
using Curling.Linux.Storage;

namespace Curling.Storage.Tracking;

/// <summary>What a change map says about itself: which disk's history it follows, and what it holds the replica against.</summary>
/// <param name="DiskLength">The disk's size in bytes.</param>
/// <param name="RegionBytes">What one bit of the map stands for; a power of two.</param>
/// <param name="HistoryId">The history of the disk: changes when another side's copy becomes the disk.</param>
/// <param name="ReplicaId">The replica the bits are about; empty when no copy was begun, or its beginning was not finished.</param>
/// <param name="KnownSession">The session of <paramref name="KnownRound"/>.</param>
/// <param name="KnownRound">The replica has at least this round of that session.</param>
/// <param name="Session">The session that was begun last; the replica may have rounds of it that nobody here knows of.</param>
/// <param name="BootId">The start of the kernel in which the map was made.</param>
public sealed record ChangeMapRecord(
    long DiskLength, int RegionBytes, Guid HistoryId, Guid ReplicaId, Guid KnownSession, long KnownRound, Guid Session, Guid BootId)
{
    /// <summary>A record's size in the file: one of its two places.</summary>
    internal const int Bytes = 4096;

    private const int Used = 192; // the fields; the checksum follows
    private const int Version = 2;

    /// <summary>The image as it was seen last; null when it was not.</summary>
    public FileStamp? Image { get; init; }

    /// <summary>When that was, in nanoseconds since 1970; 0 when nobody had the image open from then on.</summary>
    public long SeenAt { get; init; }

    private static ReadOnlySpan<byte> Magic => "CURLMAP\n"u8;

    /// <summary>Writes the record and its checksum.</summary>
    internal void Write(Span<byte> to, long sequence)
    {
        Magic.CopyTo(to);
        BinaryPrimitives.WriteInt32LittleEndian(to[8..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(to[12..], RegionBytes);
        BinaryPrimitives.WriteInt64LittleEndian(to[16..], sequence);
        BinaryPrimitives.WriteInt64LittleEndian(to[24..], DiskLength);
        BinaryPrimitives.WriteInt64LittleEndian(to[32..], KnownRound);
        HistoryId.TryWriteBytes(to[40..]);
        ReplicaId.TryWriteBytes(to[56..]);
        KnownSession.TryWriteBytes(to[72..]);
        Session.TryWriteBytes(to[88..]);
        BootId.TryWriteBytes(to[104..]);
        to[120..Used].Clear();
        if (Image is { } image)
        {
            to[120] = image.IsBlockDevice ? (byte)2 : (byte)1;
            BinaryPrimitives.WriteUInt64LittleEndian(to[128..], image.Device);
            BinaryPrimitives.WriteUInt64LittleEndian(to[136..], image.Inode);
            BinaryPrimitives.WriteInt64LittleEndian(to[144..], image.ChangedAt);
            BinaryPrimitives.WriteInt64LittleEndian(to[152..], image.Length);
            BinaryPrimitives.WriteInt64LittleEndian(to[160..], SeenAt);
        }

        BinaryPrimitives.WriteUInt64LittleEndian(to[Used..], XxHash3.HashToUInt64(to[..Used]));
    }

    /// <summary>Reads a record; null, and why, when there is none.</summary>
    internal static ChangeMapRecord? Read(ReadOnlySpan<byte> from, out long sequence, out string? problem)
    {
        sequence = 0;
        problem = null;
        if (!from.StartsWith(Magic))
        {
            problem = "it is not a change map";
        }
        else if (BinaryPrimitives.ReadInt32LittleEndian(from[8..]) is not Version and int version)
        {
            problem = $"it has version {version}, this program writes {Version}";
        }
        else if (BinaryPrimitives.ReadUInt64LittleEndian(from[Used..]) != XxHash3.HashToUInt64(from[..Used]))
        {
            problem = "its checksum is wrong";
        }

        if (problem is not null)
        {
            return null;
        }

        sequence = BinaryPrimitives.ReadInt64LittleEndian(from[16..]);
        return new ChangeMapRecord(
            BinaryPrimitives.ReadInt64LittleEndian(from[24..]),
            BinaryPrimitives.ReadInt32LittleEndian(from[12..]),
            new Guid(from.Slice(40, 16)),
            new Guid(from.Slice(56, 16)),
            new Guid(from.Slice(72, 16)),
            BinaryPrimitives.ReadInt64LittleEndian(from[32..]),
            new Guid(from.Slice(88, 16)),
            new Guid(from.Slice(104, 16)))
        {
            Image = from[120] == 0 ? null : new FileStamp(
                BinaryPrimitives.ReadUInt64LittleEndian(from[128..]),
                BinaryPrimitives.ReadUInt64LittleEndian(from[136..]),
                BinaryPrimitives.ReadInt64LittleEndian(from[144..]),
                BinaryPrimitives.ReadInt64LittleEndian(from[152..]),
                from[120] == 2),
            SeenAt = BinaryPrimitives.ReadInt64LittleEndian(from[160..]),
        };
    }
}
