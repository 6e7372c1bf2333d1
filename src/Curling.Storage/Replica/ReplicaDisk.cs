using Curling.Linux.Storage;
using Microsoft.Win32.SafeHandles;

namespace Curling.Storage.Replica;

/// <summary>How a replica is opened.</summary>
/// <param name="Length">The disk's size in bytes.</param>
/// <param name="HistoryId">The disk's history.</param>
/// <param name="Sync">When bytes must be safe from a loss of power.</param>
/// <param name="Replace">What is there is given up if it is not this replica (<c>--replace-replica</c>).</param>
/// <param name="BootId">This start of the kernel (<see cref="DurableFiles.BootId"/>).</param>
public sealed record ReplicaOptions(long Length, Guid HistoryId, ReplicaSync Sync, bool Replace, Guid BootId)
{
    /// <summary>Whether there must be one: none is made, and none begins anew.</summary>
    public bool MustExist { get; init; }
}

/// <summary>A disk's copy on the standby's host: a sparse raw file, and beside it a record of which round it is at.</summary>
/// <remarks>
/// <para>A round is begun, applied in any number of parts, and committed. After a crash in between, <see cref="Interrupted"/> names the round,
/// and applying all of it once more gives the same bytes; until then the replica counts as <see cref="ReplicaState.Copying"/>.</para>
/// <para>The record (<c>PATH.curling-replica</c>) has two places that are written in turn, each with a checksum and a number, so that one is
/// always whole; a rename for each round would cost a change of the directory.</para>
/// <para>Not thread-safe. The record is locked while this is open, so that two receivers never apply to one replica; the file itself
/// may be opened otherwise, for example by what exports it to a QEMU.</para>
/// </remarks>
public sealed partial class ReplicaDisk : IDisposable
{
    private const int NoSpace = 28; // ENOSPC, as the base library hands it on
    private const int NotSupported = 95; // EOPNOTSUPP
    private static readonly byte[] Zeros = new byte[64 << 10];
    private readonly SafeFileHandle _file;
    private readonly SafeFileHandle _recordFile;
    private readonly byte[] _recordBytes = new byte[ReplicaRecord.Bytes];
    private readonly ReplicaOptions _options;
    private ReplicaRecord _record;
    private long _sequence;

    private ReplicaDisk(
        string path, SafeFileHandle file, SafeFileHandle recordFile, ReplicaRecord record, long sequence, ReplicaOptions options)
    {
        Path = path;
        _file = file;
        _recordFile = recordFile;
        _record = record;
        _sequence = sequence;
        _options = options;
    }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>What the replica tells a sender; a round that was begun and not committed makes it <see cref="ReplicaState.Copying"/>.</summary>
    public ReplicaIdentity Identity => _record.BegunRound == 0 ? _record.Identity : _record.Identity with { State = ReplicaState.Copying };

    /// <summary>The round that was begun and not committed; null when there is none.</summary>
    public (Guid Session, long Round)? Interrupted => _record.BegunRound == 0 ? null : (_record.BegunSession, _record.BegunRound);

    /// <summary>Why what was there was given up when it was opened, for people; null when it was not.</summary>
    public string? Distrust { get; private set; }

    /// <summary>How often the device was waited for, for tests.</summary>
    internal int Flushes { get; private set; }

    /// <summary>The file beside a replica.</summary>
    public static string RecordPath(string path) => path + ".curling-replica";

    /// <summary>The history that a replica is of; null when there is none, or its record cannot be read.</summary>
    public static Guid? ReadHistory(string path)
    {
        string recordPath = RecordPath(path);
        if (!File.Exists(recordPath))
        {
            return null;
        }

        byte[] bytes = new byte[2 * ReplicaRecord.Bytes];
        using (FileStream file = new(recordPath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0))
        {
            _ = file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        }

        ReplicaRecord? one = ReplicaRecord.Read(bytes.AsSpan(0, ReplicaRecord.Bytes), out long first, out _);
        ReplicaRecord? two = ReplicaRecord.Read(bytes.AsSpan(ReplicaRecord.Bytes), out long second, out _);
        return (two is not null && (one is null || second > first) ? two : one)?.Identity.HistoryId;
    }

    /// <summary>Opens the replica of a disk, or makes an empty one where there is nothing.</summary>
    /// <exception cref="ReplicaRefusedException">What is there is something else, and replacing it was not asked for.</exception>
    /// <exception cref="DiskException">The files cannot be opened or made.</exception>
    public static ReplicaDisk Open(string path, ReplicaOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(options.Length);
        try
        {
            if (!File.Exists(path))
            {
                return options.MustExist
                    ? throw new ReplicaRefusedException($"{path}: the replica is not there")
                    : Create(path, options, null);
            }

            string? refusal = Check(path, options, out ReplicaRecord? record, out long sequence);
            if (refusal is not null)
            {
                return options.Replace
                    ? Create(path, options, $"{refusal}; it was replaced, as asked for")
                    : throw new ReplicaRefusedException(
                        $"{path}: {refusal}; nothing of it was changed. Name another path, or replace it with --replace-replica");
            }

            bool rebooted = record!.BootId != options.BootId;
            if (options.MustExist && (new FileInfo(path).Length == 0 || (rebooted && record.Sync == ReplicaSync.None)))
            {
                throw new ReplicaRefusedException($"{path}: the replica would have to begin anew");
            }

            if (new FileInfo(path).Length == 0)
            {
                return Create(path, options, null); // a beginning that was cut short: there is nothing to lose
            }

            if (rebooted && record.Sync == ReplicaSync.None)
            {
                return Create(
                    path,
                    options,
                    $"{path}: the host was started anew since round {record.Identity.Round}, and the replica was not synchronized"
                    + " (--replica-sync none): it starts anew, empty, and needs a full copy");
            }

            return Open(path, record, sequence, options);
        }
        catch (Exception e) when (e is not (ReplicaRefusedException or DiskException) and (IOException or UnauthorizedAccessException))
        {
            throw Failed(e, $"{path}: cannot use or make the replica");
        }
    }

    /// <summary>Why the replica is not at a round, for people; null when it is.</summary>
    /// <param name="session">The session of the round.</param>
    /// <param name="round">The round.</param>
    /// <param name="isApplied">Whether it is to be the round; otherwise, whether applying the round (again) makes it that.</param>
    public string? WhyNotAt(Guid session, long round, bool isApplied)
    {
        ReplicaIdentity now = _record.Identity;
        if (Interrupted is { } begun)
        {
            return !isApplied && begun == (session, round) ? null : $"{Path}: round {begun.Round} was applied to the replica in part";
        }

        if (now.Session != session)
        {
            return $"{Path}: the replica is at round {now.Round} of another session, and not at round {round} of this one";
        }

        bool fits = isApplied
            ? now.State == ReplicaState.Consistent && round <= now.Round && round >= (_record.SameSince == 0 ? now.Round : _record.SameSince)
            : now.Round <= round;
        return fits ? null : $"{Path}: the replica is {now.State.ToString().ToLowerInvariant()} at round {now.Round}, and not whole at round {round}";
    }

    /// <summary>A round that carries nothing for this disk is whole: notes that the replica stands at it, with one record.</summary>
    /// <inheritdoc cref="Commit"/>
    public void Pass(Guid session, long round, bool complete)
    {
        ReplicaIdentity now = _record.Identity;
        if (Interrupted is not null || now.Session != session)
        {
            BeginRound(session, round);
            Commit(complete);
            return;
        }

        ArgumentOutOfRangeException.ThrowIfLessThan(round, now.Round);
        Write(_record with
        {
            Identity = now with { State = complete ? ReplicaState.Consistent : ReplicaState.Copying, Round = round },
            SameSince = _record.SameSince == 0 ? now.Round : _record.SameSince,
        });
    }

    /// <summary>A round is going to be applied. One that was begun and is not this one leaves the replica copying until a round completes it.</summary>
    /// <exception cref="DiskException">The record cannot be written.</exception>
    public void BeginRound(Guid session, long round)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(round);
        ReplicaIdentity now = _record.Identity;
        if (session == now.Session && round < now.Round)
        {
            throw new ArgumentOutOfRangeException(nameof(round), $"round {round} is before round {now.Round}, which {Path} is at");
        }

        if (Interrupted is { } begun && begun == (session, round))
        {
            return;
        }

        bool torn = Interrupted is not null;
        Write(_record with
        {
            Identity = torn ? now with { State = ReplicaState.Copying } : now,
            BegunSession = session,
            BegunRound = round,
        });
    }

    /// <summary>Applies a part of the round that was begun. Doing it again gives the same bytes.</summary>
    /// <param name="runs">The runs.</param>
    /// <param name="data">The bytes of those that are not zero, one behind the other.</param>
    /// <exception cref="DiskException">A run is outside the disk or the bytes do not fit the runs (nothing was written), or writing failed.</exception>
    public void Apply(ReadOnlySpan<DiskRun> runs, ReadOnlySpan<byte> data)
    {
        if (_record.BegunRound == 0)
        {
            throw new InvalidOperationException($"{Path}: a round must be begun before it is applied");
        }

        long bytes = 0;
        foreach (DiskRun run in runs)
        {
            if (run.Offset < 0 || run.Length <= 0 || run.Offset > _options.Length - run.Length)
            {
                throw new DiskException(
                    DiskError.Io, $"{Path}: a run of round {_record.BegunRound} at {run.Offset} of {run.Length} bytes is outside the disk");
            }

            bytes += run.IsZero ? 0 : run.Length;
        }

        if (bytes != data.Length)
        {
            throw new DiskException(
                DiskError.Io, $"{Path}: round {_record.BegunRound} came with {data.Length} bytes for runs of {bytes}");
        }

        foreach (DiskRun run in runs)
        {
            if (run.IsZero)
            {
                Punch(run);
            }
            else
            {
                WriteAt(run.Offset, data[..(int)run.Length]);
                data = data[(int)run.Length..];
            }
        }
    }

    /// <summary>The round that was begun is whole: records it, after its bytes are safe where that is the policy.</summary>
    /// <param name="complete">With this round the replica is a true copy (the sender's <c>CompleteRound</c> is not later).</param>
    /// <exception cref="DiskException">The bytes cannot be made safe, or the record cannot be written: the round is not committed.</exception>
    public void Commit(bool complete)
    {
        if (_record.BegunRound == 0)
        {
            throw new InvalidOperationException($"{Path}: a round must be begun before it is committed");
        }

        if (_options.Sync == ReplicaSync.Commit)
        {
            Flush(_file, Path);
        }

        Write(_record with
        {
            Identity = _record.Identity with
            {
                State = complete ? ReplicaState.Consistent : ReplicaState.Copying,
                Session = _record.BegunSession,
                Round = _record.BegunRound,
            },
            BegunSession = Guid.Empty,
            BegunRound = 0,
            SameSince = _record.BegunRound,
        });
    }

    /// <summary>
    /// The guest goes on from this copy: it has a history of its own now, and a sender that knew the old one is refused. Also for a copy that
    /// becomes a primary's disk. It does not wait for the device: see <see cref="MakeSafe"/>.
    /// </summary>
    /// <exception cref="DiskException">The record cannot be written.</exception>
    public void Promote(Guid newHistory)
    {
        if (Identity.State != ReplicaState.Consistent)
        {
            throw new InvalidOperationException($"{Path}: a guest cannot go on from a copy that is not complete");
        }

        Write(_record with { Identity = _record.Identity with { HistoryId = newHistory } });
    }

    /// <summary>
    /// Makes what was promoted safe from a loss of power, first of all the record that keeps others from it. Writing may go on meanwhile,
    /// by whoever has the file open.
    /// </summary>
    /// <exception cref="DiskException">The device does not take it.</exception>
    public void MakeSafe()
    {
        Flush(_recordFile, RecordPath(Path));
        Flush(_file, Path);
    }

    /// <summary>Closes the files; nothing is written.</summary>
    public void Dispose()
    {
        _file.Dispose();
        _recordFile.Dispose();
    }

    private static DiskException Failed(Exception e, string what) =>
        new((e.HResult & 0xffff) == NoSpace ? DiskError.NoSpace : DiskError.Io, $"{what}: {e.Message}", e);

    private void Flush(SafeFileHandle file, string path)
    {
        Flushes++;
        try
        {
            RandomAccess.FlushToDisk(file);
        }
        catch (IOException e)
        {
            throw Failed(e, $"{path}: cannot be made safe from a loss of power");
        }
    }

    private void Punch(DiskRun run)
    {
        int error = DurableFiles.PunchHole(_file, run.Offset, run.Length);
        if (error == NotSupported)
        {
            for (long done = 0; done < run.Length; done += Zeros.Length)
            {
                WriteAt(run.Offset + done, Zeros.AsSpan(0, (int)Math.Min(Zeros.Length, run.Length - done)));
            }
        }
        else if (error != 0)
        {
            throw new DiskException(
                error == NoSpace ? DiskError.NoSpace : DiskError.Io,
                $"{Path}: cannot give {run.Length} bytes at {run.Offset} back: error {error}");
        }
    }

    private void WriteAt(long offset, ReadOnlySpan<byte> bytes)
    {
        try
        {
            RandomAccess.Write(_file, bytes, offset);
        }
        catch (IOException e)
        {
            throw Failed(e, $"{Path}: cannot write {bytes.Length} bytes at {offset}");
        }
    }

    private void Write(ReplicaRecord record)
    {
        record.Write(_recordBytes, _sequence + 1);
        try
        {
            RandomAccess.Write(_recordFile, _recordBytes, (_sequence + 1) % 2 * ReplicaRecord.Bytes);
        }
        catch (IOException e)
        {
            throw Failed(e, $"{RecordPath(Path)}: cannot write the record");
        }

        if (_options.Sync == ReplicaSync.Commit)
        {
            Flush(_recordFile, RecordPath(Path));
        }

        _sequence++;
        _record = record;
    }
}
