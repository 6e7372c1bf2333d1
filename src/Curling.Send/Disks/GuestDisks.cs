using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Send.Links;
using Curling.Storage;
using Curling.Storage.Nbd;
using Curling.Storage.Replica;
using Curling.Storage.Tracking;
using Microsoft.Extensions.Logging;

namespace Curling.Send.Disks;

/// <summary>The disks of a guest that runs here: exported to its QEMU, and read for its rounds as they were at each cut.</summary>
/// <remarks>
/// <see cref="OpenGate"/>, <see cref="Cut"/>, <see cref="Send"/> and <see cref="Abandon"/> are the capture's; the rest is called from the sender's
/// loop and its tasks. Disposing ends the exports and closes the images: QEMU must have ended.
/// </remarks>
internal sealed partial class GuestDisks : IAsyncDisposable
{
    // A portion of a copy that travels with one round: enough to fill a link, and little beside a receiver's buffer.
    private const long PortionBytes = 16L << 20;

    // What a round may carry at once so that a standby that was one stays one: a part of what the receiver can hold. Scattered regions of 64 KiB
    // take four times their size there, as each comes in a frame of its own, and memory travels with them.
    private const int WholeShare = 8;
    private const long MaxWholeBytes = 1L << 30;

    // From here on a round is cut early.
    private const long HurryBytes = 64L << 20;
    private readonly PrimaryDisk[] _disks;
    private readonly IReadOnlyList<NbdServer> _exports;
    private readonly DiskSnapshot?[] _snapshots;
    private readonly DiskRun[] _runs = new DiskRun[ProtocolLimits.MaxRuns - 16];
    private readonly string _guest;
    private readonly ILogger _log;
    private long _backlogAtOnce = PortionBytes;
    private volatile bool _tooMuchAtOnce;
    private DiskDigestLog? _digests;

    /// <summary>Creates it around disks that are exported already.</summary>
    public GuestDisks(string guest, IEnumerable<PrimaryDisk> disks, IReadOnlyList<NbdServer> exports, ILogger log)
    {
        _guest = guest;
        _disks = [.. disks];
        _exports = exports;
        _snapshots = new DiskSnapshot?[_disks.Length];
        _log = log;
    }

    /// <summary>Whether the guest has none.</summary>
    public bool IsEmpty => _disks.Length == 0;

    /// <summary>How they are named to the receiver.</summary>
    public IReadOnlyList<HelloDisk> Hello => [.. _disks.Select(d => d.Hello)];

    /// <summary>Whether so much was written since the last cut that the next should come soon.</summary>
    public bool WantsRound => _disks.Length > 0 && _disks.Any(d => d.Disk.IsBounded && d.Disk.DirtyBytes > HurryBytes);

    /// <summary>Whether the copies are complete: what the backlogs held has travelled, or is cut.</summary>
    public bool IsCopied => _disks.All(d => d.Disk.CompleteRound is not null);

    /// <summary>The disks, for status.</summary>
    public IReadOnlyList<DiskStatus> Status => [.. _disks.Select(d =>
    {
        BacklogStatus backlog = d.Disk.Backlog;
        TrackedDiskCounters counters = d.Disk.Counters;
        return new DiskStatus(
            d.Path, d.Disk.Length, d.Disk.CompleteRound is not null, backlog.BytesLeft, backlog.BytesTotal, d.BytesSent, counters.HeldBytes,
            counters.SnapshotWaits + counters.GateWaits);
    })];

    /// <summary>Opens and exports the disks of a guest that is about to be started.</summary>
    /// <exception cref="OperatorException">One cannot be used; the message says which and why.</exception>
    public static async Task<GuestDisks> OpenAsync(GuestDefinition guest, string directory, ILogger log, CancellationToken cancellation)
    {
        List<PrimaryDisk> disks = [];
        List<NbdServer> exports = [];
        try
        {
            foreach (DiskDefinition definition in guest.Disks)
            {
                PrimaryDisk disk = await PrimaryDisk.OpenAsync(guest.Name, definition, directory, cancellation);
                disks.Add(disk);
                exports.Add(NbdServer.Start(QemuCommandLine.DiskSocket(directory, exports.Count), $"disk{exports.Count}", disk.Disk, log));
            }

            return new GuestDisks(guest.Name, disks, exports, log);
        }
        catch (Exception e)
        {
            await new GuestDisks(guest.Name, disks, exports, log).DisposeAsync();
            if (e is DiskException or IOException)
            {
                throw new OperatorException($"disk {disks.Count} of guest {guest.Name}: {e.Message}");
            }

            throw;
        }
    }

    /// <summary>A connection stands: decides for each disk whether all of it must travel or only what changed. No round is being captured.</summary>
    /// <param name="replicas">What the receiver holds.</param>
    /// <param name="session">This run of the sender.</param>
    /// <param name="cancellation">Gives it up.</param>
    /// <exception cref="DiskException">An image cannot be read.</exception>
    public async Task BeginAsync(ReplicasMessage replicas, Guid session, CancellationToken cancellation)
    {
        long outstanding = 0;
        bool full = false;
        for (int i = 0; i < _disks.Length; i++)
        {
            PrimaryDisk disk = _disks[i];
            disk.BytesSent = 0;
            HelloReplica said = replicas.Replicas[i];
            ReplicaIdentity replica = new(said.ReplicaId, said.History, said.Length, (ReplicaState)said.State, said.Session, said.Round);
            (ChangeMapRecord record, string? distrust) = disk.Disk.Map;
            CopyPlan plan = ReplicaMatch.Decide(record, distrust, replica, disk.Disk.OutstandingBytes);
            if (plan.IsFull)
            {
                await disk.Disk.BeginBaseCopyAsync(replica.ReplicaId, session, replica.State == ReplicaState.Empty, cancellation);
                full = true;
            }
            else
            {
                disk.Disk.BeginResync(session, replica.Session, replica.Round);
            }

            long bytes = disk.Disk.Backlog.BytesTotal;
            outstanding += bytes;
            Log.Copying(_log, _guest, disk.Path, plan.IsFull ? "all of it" : "only what changed", ByteSize.Format(bytes), plan.Why);
        }

        // A standby that can take over stays one if all that changed comes with one round.
        _backlogAtOnce = !full && !_tooMuchAtOnce && outstanding <= Math.Min(MaxWholeBytes, replicas.MaxRoundBytes / WholeShare) ? long.MaxValue : PortionBytes;
    }

    /// <summary>The receiver had no room for a round: from now on what is outstanding comes in portions.</summary>
    public void SendLessAtOnce() => _tooMuchAtOnce = true;

    /// <summary>For tests: from now on a file is told what each disk holds at each cut, while the guest stands still for it.</summary>
    /// <exception cref="OperatorException">The file cannot be written.</exception>
    public void AddDigestsTo(string path)
    {
        try
        {
            _digests = DiskDigestLog.Open(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new OperatorException($"--test-disk-digests: {path} cannot be written: {e.Message}");
        }
    }

    /// <summary>The guest is about to be stopped for a cut: writes that wait for it pass, for QEMU stops only when they are answered.</summary>
    public void OpenGate()
    {
        foreach (PrimaryDisk disk in _disks)
        {
            disk.Disk.OpenGate();
        }
    }

    /// <summary>The guest stands still: what the disks hold now is what the round carries.</summary>
    /// <exception cref="IOException">The connection was lost meanwhile, or QEMU still writes.</exception>
    public void Cut(long round)
    {
        for (int i = 0; i < _disks.Length; i++)
        {
            try
            {
                _snapshots[i] = _disks[i].Disk.Cut(round, _backlogAtOnce);
            }
            catch (InvalidOperationException e)
            {
                Abandon();
                throw new IOException($"{_disks[i].Path}: {e.Message}", e);
            }
        }

        _backlogAtOnce = PortionBytes;
        if (_digests is not null)
        {
            AddDigests(_digests, round);
        }
    }

    /// <summary>Reads the round's part of the disks into frames, while the guest runs again.</summary>
    /// <exception cref="IOException">An image cannot be read.</exception>
    /// <exception cref="OperationCanceledException">The connection was lost.</exception>
    public void Send(RoundWriter rounds)
    {
        for (int i = 0; i < _disks.Length; i++)
        {
            if (_snapshots[i] is { } snapshot)
            {
                if (snapshot.Bytes > 0)
                {
                    Send(rounds, i, snapshot);
                }

                _snapshots[i] = null;
            }
        }
    }

    /// <summary>Whether the guest can be started from a round, its disks included.</summary>
    public bool IsComplete(long round) => _disks.All(d => d.Disk.CompleteRound is { } first && round >= first);

    /// <summary>The round came to nothing: what it would have carried travels with the next.</summary>
    public void Abandon()
    {
        for (int i = 0; i < _disks.Length; i++)
        {
            DiskSnapshot? snapshot = _snapshots[i];
            _snapshots[i] = null;
            snapshot?.Abandon();
        }
    }

    /// <summary>The receiver has committed a round.</summary>
    public void Committed(long round)
    {
        foreach (PrimaryDisk disk in _disks)
        {
            disk.Disk.Committed(round);
        }
    }

    /// <summary>The connection is gone: what was not committed is outstanding, and no write waits any more.</summary>
    public void LinkLost()
    {
        foreach (PrimaryDisk disk in _disks)
        {
            disk.Disk.LinkLost();
        }
    }

    /// <summary>Called every second or so, see <see cref="PrimaryDisk.Touch"/>.</summary>
    public void Touch()
    {
        foreach (PrimaryDisk disk in _disks)
        {
            disk.Touch();
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        LinkLost();
        foreach (NbdServer export in _exports)
        {
            await export.DisposeAsync();
        }

        foreach (PrimaryDisk disk in _disks)
        {
            await disk.DisposeAsync();
        }

        _digests?.Dispose();
    }

    private void AddDigests(DiskDigestLog digests, long round)
    {
        try
        {
            for (int i = 0; i < _disks.Length; i++)
            {
                digests.Add("cut", round, i, _disks[i].Disk);
            }
        }
        catch
        {
            Abandon();
            throw;
        }
    }

    private void Send(RoundWriter rounds, int index, DiskSnapshot snapshot)
    {
        bool waited = false;
        while (true)
        {
            Chunk chunk = rounds.Rent(ref waited);
            long blocks;
            try
            {
                Memory<byte> content = chunk.Memory.Slice(DataFrame.ContentAt, ProtocolLimits.MaxContentBytes);
                ValueTask<SnapshotPart> reading = snapshot.ReadAsync(content, _runs, rounds.Lost);
                SnapshotPart part = reading.IsCompletedSuccessfully ? reading.Result : reading.AsTask().GetAwaiter().GetResult();
                if (part.Runs == 0)
                {
                    rounds.GiveBack(chunk);
                    return;
                }

                blocks = Frame(chunk, index, part);
                _disks[index].BytesSent += part.Bytes;
            }
            catch
            {
                rounds.GiveBack(chunk);
                throw;
            }

            rounds.Data(chunk, blocks);
        }
    }

    /// <summary>Writes the run table behind the content.</summary>
    /// <returns>The blocks that the runs cover.</returns>
    private long Frame(Chunk chunk, int index, SnapshotPart part)
    {
        // The last block of a disk may end before its 4096 bytes do.
        int content = (part.Bytes + ProtocolLimits.PageBytes - 1) / ProtocolLimits.PageBytes * ProtocolLimits.PageBytes;
        chunk.Span.Slice(DataFrame.ContentAt + part.Bytes, content - part.Bytes).Clear();
        Span<byte> table = chunk.Span[(DataFrame.ContentAt + content)..];
        int count = 0;
        long blocks = 0;
        for (int i = 0; i < part.Runs; i++)
        {
            long first = _runs[i].Offset / ProtocolLimits.PageBytes;
            long left = (_runs[i].Length + ProtocolLimits.PageBytes - 1) / ProtocolLimits.PageBytes;
            blocks += left;
            while (left > 0)
            {
                int now = (int)Math.Min(left, int.MaxValue);
                MemoryRun run = _runs[i].IsZero
                    ? new MemoryRun(first, now, PageEncoding.Zero, 0)
                    : new MemoryRun(first, now, PageEncoding.Raw, now * ProtocolLimits.PageBytes);
                run.Write(table[(count++ * MemoryRun.Bytes)..]);
                first += now;
                left -= now;
            }
        }

        new DataPrefix(SectionKind.Disk, (ushort)index, count).Write(chunk.Span[DataFrame.PayloadAt..]);
        chunk.Length = DataPrefix.Bytes + content + (count * MemoryRun.Bytes);
        return blocks;
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "DiskCopying", Level = LogLevel.Information,
            Message = "{Guest}: disk {Path}: {What} travels to the standby, at most {Bytes}: {Why}")]
        public static partial void Copying(ILogger log, string guest, string path, string what, string bytes, string why);
    }
}
