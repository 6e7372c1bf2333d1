using System.Buffers.Binary;
using System.Text;
using Curling.Protocol;

namespace Curling.Recv.Rounds;

/// <summary>Where a guest's standby stands, as one record of its <see cref="RoundJournal"/>.</summary>
internal sealed record JournalRecord
{
    /// <summary>The longest record, for so many chunks.</summary>
    public static int MaxBytes(int chunks) => FixedBytes + ProtocolLimits.MaxTextBytes + (chunks * EntryBytes);

    private const int FixedBytes = 96;
    private const int EntryBytes = 8;
    private const uint Magic = 0x4A4C5243; // "CRLJ"
    private const uint Version = 1;

    /// <summary>Rises with every record; the highest one that is whole counts.</summary>
    public long Sequence { get; init; }

    /// <summary>The round.</summary>
    public long Round { get; init; }

    /// <summary>Its kind.</summary>
    public RoundKind Kind { get; init; }

    /// <summary>When it was whole.</summary>
    public DateTimeOffset At { get; init; }

    /// <summary>Bytes of its content, for status.</summary>
    public long Bytes { get; init; }

    /// <summary>How long the guest stood still, in microseconds, for status.</summary>
    public long PauseMicroseconds { get; init; }

    /// <summary>The file that holds the device state, or the stream of a full round; a name beside the journal.</summary>
    public string StateFile { get; init; } = "";

    /// <summary>The length of the state.</summary>
    public long StateLength { get; init; }

    /// <summary>The hash of the device state; 0 for a stream.</summary>
    public ulong StateHash { get; init; }

    /// <summary>Whether the guest cannot be started from the round, because its disks were still being copied.</summary>
    public bool IsIncomplete { get; init; }

    /// <summary>What is still to be put into memory, in this order: chunks of the prefetch file, and how much of each.</summary>
    public IReadOnlyList<(int Index, int Length)> ToApply { get; init; } = [];

    /// <summary>Writes the record.</summary>
    /// <returns>Its length.</returns>
    public int Write(Span<byte> destination)
    {
        int name = Encoding.UTF8.GetBytes(StateFile, destination[FixedBytes..]);
        int at = FixedBytes + name;
        foreach ((int index, int length) in ToApply)
        {
            BinaryPrimitives.WriteInt32LittleEndian(destination[at..], index);
            BinaryPrimitives.WriteInt32LittleEndian(destination[(at + 4)..], length);
            at += EntryBytes;
        }

        BinaryPrimitives.WriteInt32LittleEndian(destination[8..], at);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[12..], Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[16..], Version);
        BinaryPrimitives.WriteInt32LittleEndian(destination[20..], (int)Kind);
        BinaryPrimitives.WriteInt64LittleEndian(destination[24..], Sequence);
        BinaryPrimitives.WriteInt64LittleEndian(destination[32..], Round);
        BinaryPrimitives.WriteInt64LittleEndian(destination[40..], At.ToUnixTimeMilliseconds());
        BinaryPrimitives.WriteInt64LittleEndian(destination[48..], Bytes);
        BinaryPrimitives.WriteInt64LittleEndian(destination[56..], PauseMicroseconds);
        BinaryPrimitives.WriteInt64LittleEndian(destination[64..], StateLength);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[72..], StateHash);
        BinaryPrimitives.WriteInt32LittleEndian(destination[80..], name);
        BinaryPrimitives.WriteInt32LittleEndian(destination[84..], ToApply.Count);
        BinaryPrimitives.WriteInt32LittleEndian(destination[88..], IsIncomplete ? 1 : 0);
        destination[92..FixedBytes].Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(destination, FrameHeader.HashOf(destination[8..at]));
        return at;
    }

    /// <summary>Reads a record; null when it is not whole, or says what cannot be.</summary>
    /// <param name="slot">The bytes of a slot.</param>
    /// <param name="chunks">How many chunks the prefetch file has.</param>
    /// <param name="chunkBytes">Their size.</param>
    public static JournalRecord? TryRead(ReadOnlySpan<byte> slot, int chunks, int chunkBytes)
    {
        if (slot.Length < FixedBytes)
        {
            return null;
        }

        int length = BinaryPrimitives.ReadInt32LittleEndian(slot[8..]);
        if (length < FixedBytes || length > slot.Length
            || FrameHeader.HashOf(slot[8..length]) != BinaryPrimitives.ReadUInt64LittleEndian(slot)
            || BinaryPrimitives.ReadUInt32LittleEndian(slot[12..]) != Magic
            || BinaryPrimitives.ReadUInt32LittleEndian(slot[16..]) != Version)
        {
            return null;
        }

        int name = BinaryPrimitives.ReadInt32LittleEndian(slot[80..]);
        int count = BinaryPrimitives.ReadInt32LittleEndian(slot[84..]);
        RoundKind kind = (RoundKind)BinaryPrimitives.ReadInt32LittleEndian(slot[20..]);
        long round = BinaryPrimitives.ReadInt64LittleEndian(slot[32..]);
        long state = BinaryPrimitives.ReadInt64LittleEndian(slot[64..]);
        if (name is < 1 or > ProtocolLimits.MaxTextBytes || count < 0 || count > chunks
            || length != FixedBytes + name + ((long)count * EntryBytes) || round <= 0 || state <= 0
            || kind is < RoundKind.Full or > RoundKind.Incremental)
        {
            return null;
        }

        (int, int)[] toApply = new (int, int)[count];
        for (int i = 0; i < count; i++)
        {
            ReadOnlySpan<byte> entry = slot[(FixedBytes + name + (i * EntryBytes))..];
            int index = BinaryPrimitives.ReadInt32LittleEndian(entry);
            int used = BinaryPrimitives.ReadInt32LittleEndian(entry[4..]);
            if (index < 0 || index >= chunks || used < 0 || used > chunkBytes)
            {
                return null;
            }

            toApply[i] = (index, used);
        }

        string file = Encoding.UTF8.GetString(slot.Slice(FixedBytes, name));
        return Path.GetFileName(file) != file
            ? null
            : new JournalRecord
            {
                Sequence = BinaryPrimitives.ReadInt64LittleEndian(slot[24..]),
                Round = round,
                Kind = kind,
                At = DateTimeOffset.FromUnixTimeMilliseconds(
                    Math.Clamp(BinaryPrimitives.ReadInt64LittleEndian(slot[40..]), 0, 253402300799999)),
                Bytes = BinaryPrimitives.ReadInt64LittleEndian(slot[48..]),
                PauseMicroseconds = BinaryPrimitives.ReadInt64LittleEndian(slot[56..]),
                StateFile = file,
                StateLength = state,
                StateHash = BinaryPrimitives.ReadUInt64LittleEndian(slot[72..]),
                ToApply = toApply,
                IsIncomplete = BinaryPrimitives.ReadInt32LittleEndian(slot[88..]) != 0,
            };
    }
}
