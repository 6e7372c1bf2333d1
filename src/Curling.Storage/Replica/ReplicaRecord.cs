using System.Buffers.Binary;
using System.IO.Hashing;

namespace Curling.Storage.Replica;

/// <summary>What stands in the file beside a replica.</summary>
/// <param name="Identity">What it is; its state does not count a round that was begun.</param>
/// <param name="BegunSession">The session of <paramref name="BegunRound"/>.</param>
/// <param name="BegunRound">The round that is being applied; 0 for none.</param>
/// <param name="Sync">Whether what was committed is safe from a loss of power.</param>
/// <param name="BootId">The start of the kernel in which it was written.</param>
internal sealed record ReplicaRecord(ReplicaIdentity Identity, Guid BegunSession, long BegunRound, ReplicaSync Sync, Guid BootId)
{
    /// <summary>The place of one of the two records in the file.</summary>
    public const int Bytes = 4096;

    private const int Used = 144; // the fields; the checksum follows
    private const int Version = 1;

    /// <summary>The replica has not changed since this round of the same session; 0 where nobody noted that.</summary>
    public long SameSince { get; init; }

    private static ReadOnlySpan<byte> Magic => "CURLREP\n"u8;

    /// <summary>Writes the record and its checksum.</summary>
    public void Write(Span<byte> to, long sequence)
    {
        to.Clear();
        Magic.CopyTo(to);
        BinaryPrimitives.WriteInt32LittleEndian(to[8..], Version);
        to[12] = (byte)Identity.State;
        to[13] = (byte)Sync;
        BinaryPrimitives.WriteInt64LittleEndian(to[16..], sequence);
        BinaryPrimitives.WriteInt64LittleEndian(to[24..], Identity.Length);
        BinaryPrimitives.WriteInt64LittleEndian(to[32..], Identity.Round);
        BinaryPrimitives.WriteInt64LittleEndian(to[40..], BegunRound);
        Identity.HistoryId.TryWriteBytes(to[48..]);
        Identity.ReplicaId.TryWriteBytes(to[64..]);
        Identity.Session.TryWriteBytes(to[80..]);
        BegunSession.TryWriteBytes(to[96..]);
        BootId.TryWriteBytes(to[112..]);
        BinaryPrimitives.WriteInt64LittleEndian(to[128..], SameSince);
        BinaryPrimitives.WriteUInt64LittleEndian(to[Used..], XxHash3.HashToUInt64(to[..Used]));
    }

    /// <summary>Reads a record; null, and why, when there is none.</summary>
    public static ReplicaRecord? Read(ReadOnlySpan<byte> from, out long sequence, out string? problem)
    {
        sequence = 0;
        problem = null;
        if (!from.StartsWith(Magic))
        {
            problem = "it is not the record of a replica";
        }
        else if (BinaryPrimitives.ReadInt32LittleEndian(from[8..]) is not Version and int version)
        {
            problem = $"it has version {version}, this program writes {Version}";
        }
        else if (BinaryPrimitives.ReadUInt64LittleEndian(from[Used..]) != XxHash3.HashToUInt64(from[..Used]))
        {
            problem = "its checksum is wrong";
        }
        else if (from[12] is < 1 or > 3 || from[13] is < 1 or > 2)
        {
            problem = "its state is none that this program knows";
        }

        if (problem is not null)
        {
            return null;
        }

        sequence = BinaryPrimitives.ReadInt64LittleEndian(from[16..]);
        ReplicaIdentity identity = new(
            new Guid(from.Slice(64, 16)),
            new Guid(from.Slice(48, 16)),
            BinaryPrimitives.ReadInt64LittleEndian(from[24..]),
            (ReplicaState)from[12],
            new Guid(from.Slice(80, 16)),
            BinaryPrimitives.ReadInt64LittleEndian(from[32..]));
        return new ReplicaRecord(
            identity,
            new Guid(from.Slice(96, 16)),
            BinaryPrimitives.ReadInt64LittleEndian(from[40..]),
            (ReplicaSync)from[13],
            new Guid(from.Slice(112, 16)))
        {
            SameSince = BinaryPrimitives.ReadInt64LittleEndian(from[128..]),
        };
    }
}
