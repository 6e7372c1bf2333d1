using Curling.Linux.Memory;
using Microsoft.Win32.SafeHandles;

namespace Curling.Recv.Rounds;

/// <summary>
/// Says, to whoever comes after this process, at which round a standby stands. Two slots take turns: a record that was not
/// finished leaves the one before. It lies beside the standby's memory, in the memory filesystem.
/// </summary>
/// <remarks>
/// One writer. What it must survive is the death of the process, not of the host: with the host the memory is gone as well,
/// so nothing is flushed to any disk.
/// <code>
/// applying: state file written → record "round k, these chunks" → memory written → record "round k"
/// a death before the first record: round k-1 stands, its memory untouched; after it: the chunks are written again
/// </code>
/// </remarks>
internal sealed class RoundJournal : IDisposable
{
    /// <summary>The file's name; it is written with every round.</summary>
    internal const string Name = "journal";

    private readonly SafeFileHandle _handle;
    private readonly byte[] _record;
    private readonly int _slotBytes;
    private long _sequence;

    private RoundJournal(SafeFileHandle handle, int slotBytes, long sequence)
    {
        _handle = handle;
        _slotBytes = slotBytes;
        _record = new byte[slotBytes];
        _sequence = sequence;
    }

    /// <summary>Creates an empty journal.</summary>
    /// <param name="directory">Where.</param>
    /// <param name="chunks">The most chunks that a round can have.</param>
    public static RoundJournal Create(string directory, int chunks) => new(
        File.OpenHandle(Path.Combine(directory, Name), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Read),
        SlotBytes(chunks), 0);

    /// <summary>Opens a journal that an earlier process wrote, to go on with it.</summary>
    /// <returns>The journal, and the last record that is whole; null when there is none.</returns>
    public static (RoundJournal Journal, JournalRecord? Last) Open(string directory, int chunks, int chunkBytes)
    {
        SafeFileHandle handle = File.OpenHandle(Path.Combine(directory, Name), FileMode.Open, FileAccess.ReadWrite, FileShare.Read);
        int slotBytes = SlotBytes(chunks);
        byte[] slot = new byte[slotBytes];
        JournalRecord? last = null;
        for (int i = 0; i < 2; i++)
        {
            int got = RandomAccess.Read(handle, slot, (long)i * slotBytes);
            if (JournalRecord.TryRead(slot.AsSpan(0, got), chunks, chunkBytes) is { } record
                && (last is null || record.Sequence > last.Sequence))
            {
                last = record;
            }
        }

        return (new RoundJournal(handle, slotBytes, last?.Sequence ?? 0), last);
    }

    /// <summary>Writes a record; when this returns, it is the one that counts.</summary>
    /// <exception cref="MemoryFileException">The memory filesystem has no room.</exception>
    public void Write(JournalRecord record)
    {
        long sequence = _sequence + 1;
        int length = (record with { Sequence = sequence }).Write(_record);
        try
        {
            RandomAccess.Write(_handle, _record.AsSpan(0, length), sequence % 2 * _slotBytes);
        }
        catch (IOException e)
        {
            throw new MemoryFileException($"no room for the journal of round {record.Round}: {e.Message}", e);
        }

        _sequence = sequence;
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    private static int SlotBytes(int chunks) => (JournalRecord.MaxBytes(chunks) + 4095) / 4096 * 4096;
}
