using Curling.Linux.Storage;
using Microsoft.Win32.SafeHandles;

namespace Curling.Storage.Replica;

/// <content>What stands in a replica's place, and what is made there.</content>
public sealed partial class ReplicaDisk
{
    /// <summary>Why a file is not the replica that is asked for; null when it is.</summary>
    private static string? Check(string path, ReplicaOptions options, out ReplicaRecord? record, out long sequence)
    {
        record = null;
        sequence = 0;
        string recordPath = RecordPath(path);
        if (!File.Exists(recordPath))
        {
            return "the file is not a replica of Curling: there is no record beside it";
        }

        using SafeFileHandle handle = File.OpenHandle(recordPath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        byte[] bytes = new byte[2 * ReplicaRecord.Bytes];
        ReadRecord(handle, bytes);
        ReplicaRecord? one = ReplicaRecord.Read(bytes.AsSpan(0, ReplicaRecord.Bytes), out long first, out string? problem);
        ReplicaRecord? two = ReplicaRecord.Read(bytes.AsSpan(ReplicaRecord.Bytes), out long second, out string? otherProblem);
        bool useSecond = two is not null && (one is null || second > first);
        record = useSecond ? two : one;
        sequence = useSecond ? second : first;
        long fileLength = new FileInfo(path).Length;
        return record switch
        {
            null => $"the record beside it ({recordPath}) cannot be used: {(bytes[ReplicaRecord.Bytes] == 0 ? problem : otherProblem)}",
            _ when record.Identity.HistoryId != options.HistoryId => "it is the replica of another guest, or of another history of this disk",
            _ when record.Identity.Length != options.Length =>
                $"it is the replica of a disk of {record.Identity.Length} bytes, and this one has {options.Length}",
            _ when fileLength != options.Length && fileLength != 0 => $"the file has {fileLength} bytes instead of {options.Length}: it was changed by others",
            _ => null,
        };
    }

    private static ReplicaDisk Open(string path, ReplicaRecord record, long sequence, ReplicaOptions options)
    {
        SafeFileHandle file = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        SafeFileHandle? recordFile = null;
        try
        {
            recordFile = File.OpenHandle(RecordPath(path), FileMode.Open, FileAccess.ReadWrite, FileShare.None);
            ReplicaDisk disk = new(path, file, recordFile, record, sequence, options);
            if (options.Sync == ReplicaSync.Commit && record.Sync == ReplicaSync.None)
            {
                disk.Flush(file, path); // what came before becomes as safe as what follows
            }

            if (record.BootId != options.BootId || record.Sync != options.Sync)
            {
                disk.Write(record with { BootId = options.BootId, Sync = options.Sync });
            }

            return disk;
        }
        catch
        {
            recordFile?.Dispose();
            file.Dispose();
            throw;
        }
    }

    private static ReplicaDisk Create(string path, ReplicaOptions options, string? distrust)
    {
        SafeFileHandle? file = null;
        SafeFileHandle? recordFile = null;
        try
        {
            // Whoever else uses what is there keeps it: nothing is changed before all locks are taken.
            file = File.OpenHandle(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.ReadWrite);
            using ImageFile image = LockForReplacing(path, file, options);
            recordFile = File.OpenHandle(RecordPath(path), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);

            // What was there is empty before the record says so; in between, the old record names a file of another size and is refused.
            RandomAccess.SetLength(file, 0);
            RandomAccess.FlushToDisk(file);

            // The record keeps its file, and with it the lock, and its newer place stays whole until the other one is.
            byte[] bytes = new byte[2 * ReplicaRecord.Bytes];
            ReadRecord(recordFile, bytes);
            _ = ReplicaRecord.Read(bytes.AsSpan(0, ReplicaRecord.Bytes), out long first, out _);
            _ = ReplicaRecord.Read(bytes.AsSpan(ReplicaRecord.Bytes), out long second, out _);
            long sequence = Math.Max(first, second) + 1;
            ReplicaIdentity identity = new(Guid.NewGuid(), options.HistoryId, options.Length, ReplicaState.Empty, Guid.Empty, 0);
            ReplicaRecord record = new(identity, Guid.Empty, 0, options.Sync, options.BootId);
            Span<byte> made = bytes.AsSpan(0, ReplicaRecord.Bytes);
            record.Write(made, sequence);
            RandomAccess.Write(recordFile, made, sequence % 2 * ReplicaRecord.Bytes);
            RandomAccess.FlushToDisk(recordFile);
            RandomAccess.Write(recordFile, new byte[ReplicaRecord.Bytes], (sequence + 1) % 2 * ReplicaRecord.Bytes);
            RandomAccess.SetLength(recordFile, bytes.Length);
            RandomAccess.SetLength(file, options.Length);
            RandomAccess.FlushToDisk(file);
            DurableFiles.SyncDirectory(System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path))!);
            return new ReplicaDisk(path, file, recordFile, record, sequence, options) { Distrust = distrust };
        }
        catch
        {
            recordFile?.Dispose();
            file?.Dispose();
            throw;
        }
    }

    /// <summary>Takes QEMU's locks on what stands in the replica's place, and makes sure that nobody has it open who does not lock.</summary>
    private static ImageFile LockForReplacing(string path, SafeFileHandle file, ReplicaOptions options)
    {
        if (options.Replace && DurableFiles.IsOpenElsewhere(file) && TellsWhatIsOpen(path))
        {
            throw new DiskException(DiskError.Io, $"{path}: another program has it open; end that one before it is replaced");
        }

        ImageFile? image = null;
        try
        {
            image = ImageFile.Open(path, readOnly: false);
            image.Lock(forWriting: true);
            return image;
        }
        catch (StorageException e)
        {
            image?.Dispose();
            throw new DiskException(DiskError.Io, e.Message, e);
        }
    }

    /// <summary>Whether the filesystem says of a file that nobody else has that nobody else has it open: some network filesystems do not.</summary>
    private static bool TellsWhatIsOpen(string path)
    {
        using SafeFileHandle probe = File.OpenHandle(
            $"{path}.{Guid.NewGuid():N}", FileMode.CreateNew, FileAccess.ReadWrite, FileShare.None, FileOptions.DeleteOnClose);
        return !DurableFiles.IsOpenElsewhere(probe);
    }

    private static void ReadRecord(SafeFileHandle handle, byte[] bytes)
    {
        int length = 0;
        while (length < bytes.Length && RandomAccess.Read(handle, bytes.AsSpan(length), length) is > 0 and int more)
        {
            length += more;
        }
    }
}
