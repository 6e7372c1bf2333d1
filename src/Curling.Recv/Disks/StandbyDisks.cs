using Curling.Hosting.Control;
using Curling.Linux.Memory;
using Curling.Linux.Storage;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Send.Disks;
using Curling.Storage;
using Curling.Storage.Images;
using Curling.Storage.Nbd;
using Curling.Storage.Replica;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Disks;

/// <summary>The replicas of a guest's disks, and their export to the standby's QEMU.</summary>
/// <remarks>
/// Commits come one after the other, and a promotion when none is under way. Disposing ends the exports and closes the files, which stay: QEMU
/// must have ended.
/// </remarks>
internal sealed partial class StandbyDisks : IAsyncDisposable
{
    private readonly Disk[] _disks;
    private readonly string _guest;
    private readonly Guid _session;
    private readonly ILogger _log;
    private readonly DiskDigestLog? _digests;
    private readonly bool[] _hasBegun;
    private Task _safe = Task.CompletedTask;
    private readonly DiskRun[] _runs = new DiskRun[ProtocolLimits.MaxRuns];

    private StandbyDisks(string guest, Guid session, Disk[] disks, DiskDigestLog? digests, ILogger log)
    {
        _digests = digests;
        _guest = guest;
        _session = session;
        _disks = disks;
        _hasBegun = new bool[disks.Length];
        _log = log;
        Primary = new GuestDisks(guest, [], [], log);
    }

    /// <summary>No disks.</summary>
    public static StandbyDisks None(string guest, ILogger log) => new(guest, Guid.Empty, [], null, log);

    /// <summary>Whether the guest has none.</summary>
    public bool IsEmpty => _disks.Length == 0;

    /// <summary>The disks as those of a guest that runs here; empty before <see cref="Promote"/>.</summary>
    public GuestDisks Primary { get; private set; }

    /// <summary>The disks as the promoted guest's definition names them for its next standby.</summary>
    public DiskList Definitions => new(_disks.Select(d => new DiskDefinition(d.Replica.Path, "raw", null, d.ReadOnly)));

    /// <summary>Blocks of each disk, as a frame's runs may name them.</summary>
    public IReadOnlyList<long> Blocks => [.. _disks.Select(d => (d.Length + ProtocolLimits.PageBytes - 1) / ProtocolLimits.PageBytes)];

    /// <summary>What the replicas hold, for the sender.</summary>
    public IReadOnlyList<HelloReplica> Identities => [.. _disks.Select(d =>
    {
        ReplicaIdentity i = d.Replica.Identity;
        return new HelloReplica(i.ReplicaId, i.HistoryId, i.Length, (int)i.State, i.Session, i.Round);
    })];

    /// <summary>The replicas, for status.</summary>
    public IReadOnlyList<ReplicaStatus>? Status => _disks.Length == 0 ? null : [.. _disks.Select(d =>
    {
        ReplicaIdentity i = d.Replica.Identity;
        return new ReplicaStatus(d.Replica.Path, i.Length, i.State.ToString().ToLowerInvariant(), i.Round);
    })];

    /// <summary>Opens or makes the replicas of a guest and exports them.</summary>
    /// <param name="options">Where replicas are, and how careful to be with them.</param>
    /// <param name="guest">The guest.</param>
    /// <param name="hello">What its sender said of the disks.</param>
    /// <param name="directory">Where QEMU looks for the exports.</param>
    /// <param name="log">Where to log.</param>
    /// <param name="restoring">They belong to a session that was left: they must be there, and nothing takes the place of anything.</param>
    /// <exception cref="IOException">A replica cannot be used; the message says which and why.</exception>
    public static StandbyDisks Open(
        ReceiverOptions options, GuestDefinition guest, Hello hello, string directory, ILogger log, bool restoring = false)
    {
        List<Disk> disks = [];
        try
        {
            for (int i = 0; i < guest.Disks.Count; i++)
            {
                string path = guest.Disks[i].StandbyPath ?? Path.Combine(options.ReplicaDirectory, $"{guest.Name}-disk{i}.img");
                disks.Add(Open(options, path, guest.Disks[i].ReadOnly, hello.Disks[i], i, directory, log, restoring));
                if (disks[i].Replica.Distrust is { } why)
                {
                    Log.StartsAnew(log, guest.Name, disks[i].IsOfEarlierLife ? $"{path} is the disk of an earlier life of the guest" : why);
                }
            }

            DiskDigestLog? digests = options.DiskDigests is { } file ? DiskDigestLog.Open(file) : null;
            return new StandbyDisks(guest.Name, Session(hello), [.. disks], digests, log);
        }
        catch
        {
            foreach (Disk disk in disks)
            {
                disk.DisposeAsync().AsTask().GetAwaiter().GetResult();
            }

            throw;
        }
    }

    /// <summary>Why the replicas do not stand at a round, for people; null when they do.</summary>
    /// <param name="round">The round.</param>
    /// <param name="isApplied">Whether it is theirs already; otherwise, whether <see cref="Commit"/> of it makes it that.</param>
    public string? WhyNotAt(long round, bool isApplied) =>
        _disks.Select(d => d.Replica.WhyNotAt(_session, round, isApplied)).FirstOrDefault(why => why is not null);

    /// <summary>Applies a round's part of the disks and notes that they stand at it. Doing it again gives the same.</summary>
    /// <param name="round">The round.</param>
    /// <param name="isComplete">Whether the guest can be started from it.</param>
    /// <param name="payloads">The round's data frames; others than those of disks are passed over.</param>
    /// <exception cref="DiskException">A replica cannot be written.</exception>
    public void Commit(long round, bool isComplete, PayloadSource payloads)
    {
        if (_disks.Length == 0)
        {
            return;
        }

        Array.Clear(_hasBegun);
        for (int i = 0; payloads(i, out ReadOnlySpan<byte> payload); i++)
        {
            DataPrefix prefix = DataPrefix.Read(payload);
            if (prefix.Section == SectionKind.Disk)
            {
                if (!_hasBegun[prefix.Block])
                {
                    _disks[prefix.Block].Replica.BeginRound(_session, round);
                    _hasBegun[prefix.Block] = true;
                }

                Apply(payload, prefix);
            }
        }

        for (int i = 0; i < _disks.Length; i++)
        {
            if (_hasBegun[i])
            {
                _disks[i].Replica.Commit(isComplete);
            }
            else
            {
                _disks[i].Replica.Pass(_session, round, isComplete);
            }
        }

        if (isComplete)
        {
            AddDigests("commit", round);
        }
    }

    /// <summary>The guest is about to run here: its disks begin a history of their own, and what it writes is tracked.</summary>
    /// <param name="round">The round that it goes on from.</param>
    /// <exception cref="DiskException">A record or a map cannot be written.</exception>
    public void Promote(long round)
    {
        // This is what its QEMU has been served until now, and the guest writes to next.
        AddDigests("promote", round);

        // What may find no room comes first: the replicas are not touched before.
        List<PrimaryDisk> disks = [];
        List<Guid> histories = [];
        try
        {
            foreach (Disk disk in _disks)
            {
                Guid history = Guid.NewGuid();
                disks.Add(PrimaryDisk.Track(
                    _guest, disk.Replica.Path, disk.Image, history,
                    [.. disk.Ancestors.Append(disk.Replica.Identity.HistoryId).TakeLast(ProtocolLimits.MaxAncestors)]));
                disk.IsTracked = true;
                histories.Add(history);
            }
        }
        finally
        {
            // The exports stay this object's, which ends them first.
            Primary = new GuestDisks(_guest, disks, [], _log);
        }

        for (int i = 0; i < _disks.Length; i++)
        {
            _disks[i].Replica.Promote(histories[i]);
            _disks[i].Served.Target = disks[i].Disk;
        }
    }

    /// <summary>After the promotion, while the guest runs: makes what the replicas hold safe from a loss of power, without being waited for.</summary>
    public void MakeSafe() => _safe = Task.Run(() =>
    {
        foreach (Disk disk in _disks)
        {
            try
            {
                disk.Replica.MakeSafe();
            }
            catch (DiskException e)
            {
                Log.NotSafe(_log, _guest, e.Message);
            }
        }
    });

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _safe;
        Primary.LinkLost();
        foreach (Disk disk in _disks)
        {
            await disk.Export.DisposeAsync();
        }

        await Primary.DisposeAsync();
        foreach (Disk disk in _disks)
        {
            await disk.DisposeAsync();
        }

        _digests?.Dispose();
    }

    private static Disk Open(
        ReceiverOptions options, string path, bool readOnly, HelloDisk hello, int index, string directory, ILogger log, bool restoring)
    {
        if (!restoring)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(Path.GetFullPath(path))!);
        }

        // A replica of an earlier life of the same disk may go: the guest has gone on elsewhere since.
        bool isAncestor = !restoring && ReplicaDisk.ReadHistory(path) is { } known && hello.Ancestors.Contains(known);
        ReplicaDisk replica = ReplicaDisk.Open(
            path,
            new ReplicaOptions(
                hello.Length, hello.History, options.ReplicaSync, !restoring && (options.ReplaceReplica || isAncestor), DurableFiles.BootId)
            {
                MustExist = restoring,
            });
        RawImage? image = null;
        try
        {
            image = RawImage.Open(path, readOnly);
            SwitchedBackend served = new(image);
            return new Disk(
                replica, image, served, NbdServer.Start(QemuCommandLine.DiskSocket(directory, index), $"disk{index}", served, log), hello.Ancestors,
                hello.Length, readOnly)
            {
                IsOfEarlierLife = isAncestor,
            };
        }
        catch
        {
            image?.DisposeAsync().AsTask().GetAwaiter().GetResult();
            replica.Dispose();
            throw;
        }
    }

    private void AddDigests(string when, long round)
    {
        for (int i = 0; _digests is not null && i < _disks.Length; i++)
        {
            _digests.Add(when, round, i, _disks[i].Served);
        }
    }

    private static Guid Session(Hello hello) => Guid.TryParseExact(hello.Sender, "N", out Guid session) ? session : Guid.Empty;

    private void Apply(ReadOnlySpan<byte> payload, DataPrefix prefix)
    {
        Disk disk = _disks[prefix.Block];
        ReadOnlySpan<byte> table = prefix.Table(payload);
        ReadOnlySpan<byte> content = prefix.Content(payload);
        int bytes = 0;
        for (int i = 0; i < prefix.Runs; i++)
        {
            // Each run was checked against the disk when it arrived; the last block may reach over its end.
            MemoryRun run = MemoryRun.Read(table, i);
            long offset = run.FirstPage * ProtocolLimits.PageBytes;
            long length = Math.Min((long)run.Pages * ProtocolLimits.PageBytes, disk.Length - offset);
            _runs[i] = new DiskRun(offset, length, run.Encoding == PageEncoding.Zero);
            bytes += run.Encoding == PageEncoding.Zero ? 0 : (int)length;
        }

        disk.Replica.Apply(_runs.AsSpan(0, prefix.Runs), content[..bytes]);
    }

    private sealed class Disk(
        ReplicaDisk replica, RawImage image, SwitchedBackend served, NbdServer export, IReadOnlyList<Guid> ancestors, long length, bool readOnly)
        : IAsyncDisposable
    {
        public ReplicaDisk Replica => replica;

        public RawImage Image => image;

        public SwitchedBackend Served => served;

        public NbdServer Export => export;

        public IReadOnlyList<Guid> Ancestors => ancestors;

        public long Length => length;

        public bool ReadOnly => readOnly;

        public bool IsOfEarlierLife { get; init; }

        // The tracked disk owns the image then.
        public bool IsTracked { get; set; }

        public async ValueTask DisposeAsync()
        {
            await export.DisposeAsync();
            if (!IsTracked)
            {
                await image.DisposeAsync();
            }

            replica.Dispose();
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "ReplicaStartsAnew", Level = LogLevel.Warning,
            Message = "{Guest}: {Reason}. All of the disk is copied again; the guest is protected when that is complete")]
        public static partial void StartsAnew(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "DiskNotSafe", Level = LogLevel.Error,
            Message = "{Guest}: what its disk held when it was promoted may be lost with the power of this host: {Reason}. Look after that disk")]
        public static partial void NotSafe(ILogger log, string guest, string reason);
    }
}

/// <summary>Gives the data frames of a round, one after the other.</summary>
/// <param name="index">Which.</param>
/// <param name="payload">Its payload.</param>
/// <returns>False behind the last.</returns>
internal delegate bool PayloadSource(int index, out ReadOnlySpan<byte> payload);
