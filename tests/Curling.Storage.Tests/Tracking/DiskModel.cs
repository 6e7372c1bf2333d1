using Curling.Storage.Replica;
using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

/// <summary>What can be planted to see that the comparison finds it.</summary>
internal enum Defect
{
    None,

    /// <summary>A write reaches the image before the old content was saved.</summary>
    NoCopyBeforeWrite,

    /// <summary>A round counts as committed when it was sent.</summary>
    ClearedWhenSent,

    /// <summary>Bytes are those of the moment of reading.</summary>
    NotAsOfTheCut,
}

/// <summary>
/// A primary with a tracked disk and a standby with a replica, both real but for the image, which is in memory. Each cut keeps a copy of
/// the whole disk, and each committed complete round is held against it.
/// </summary>
internal sealed class DiskModel : IAsyncDisposable
{
    public static readonly Guid History = Guid.Parse("11111111-2222-3333-4444-555555555555");
    public static readonly Guid Boot = Guid.Parse("99999999-2222-3333-4444-555555555555");
    private readonly TemporaryDirectory _directory = new();
    private readonly Dictionary<long, byte[]> _atCut = [];
    private readonly TrackedDiskOptions _options;
    private readonly Guid _started = Guid.NewGuid();
    private int _sessions;
    private Guid _session;

    public DiskModel(long length, TrackedDiskOptions options, Defect defect = Defect.None)
    {
        Defect = defect;
        _options = options;
        Image = new MemoryBackend(length);
        Disk = OpenDisk();
        Replica = OpenReplica();
    }

    public Defect Defect { get; }

    public MemoryBackend Image { get; }

    public TrackedDisk Disk { get; private set; }

    public ReplicaDisk Replica { get; private set; }

    public long Round { get; private set; }

    /// <summary>Bytes of data runs that travelled.</summary>
    public long Sent { get; private set; }

    /// <summary>Rounds that were held against the primary.</summary>
    public int Compared { get; private set; }

    public string MapPath => _directory["disk.img.curling-map"];

    public string ReplicaPath => _directory["replica.img"];

    /// <summary>Begins the copy that the map and the replica allow.</summary>
    public async Task<CopyPlan> BeginAsync()
    {
        (ChangeMapRecord map, string? distrust) = Disk.Map;
        ReplicaIdentity replica = Replica.Identity;
        CopyPlan plan = ReplicaMatch.Decide(map, distrust, replica, Disk.OutstandingBytes);
        _session = new Guid(++_sessions, 1, 2, _started.ToByteArray()[..8]);
        Round = 0;
        if (plan.IsFull)
        {
            await Disk.BeginBaseCopyAsync(replica.ReplicaId, _session, replica.State == ReplicaState.Empty, CancellationToken.None);
        }
        else
        {
            Disk.BeginResync(_session, replica.Session, replica.Round);
        }

        return plan;
    }

    /// <summary>Cuts the next round. No write may be under way.</summary>
    public DiskSnapshot Cut(long backlogBytes = long.MaxValue)
    {
        Disk.OpenGate();
        byte[] now = Image.Snapshot();
        DiskSnapshot snapshot = Disk.Cut(++Round, backlogBytes);
        _atCut[Round] = now;
        return snapshot;
    }

    /// <summary>The guest writes.</summary>
    public async Task WriteAsync(long offset, byte[] data)
    {
        if (Defect == Defect.NoCopyBeforeWrite)
        {
            await Image.WriteAsync(offset, data, CancellationToken.None);
        }

        await Disk.WriteAsync(offset, data, CancellationToken.None).AsTask().WaitAsync(TimeSpan.FromSeconds(60));
    }

    /// <summary>Reads a snapshot to its end.</summary>
    public async Task<List<(DiskRun[] Runs, byte[] Data)>> ReadAsync(DiskSnapshot snapshot, int bufferBytes = 64 << 10)
    {
        List<(DiskRun[], byte[])> parts = [];
        byte[] buffer = new byte[bufferBytes];
        DiskRun[] runs = new DiskRun[32];
        long before = -1;
        while (await snapshot.ReadAsync(buffer, runs, CancellationToken.None).AsTask().WaitAsync(TimeSpan.FromSeconds(60)) is { Runs: > 0 } part)
        {
            foreach (DiskRun run in runs.AsSpan(0, part.Runs))
            {
                Assert.True(run.Offset > before && run.Length > 0, $"run at {run.Offset} after {before}");
                before = run.Offset + run.Length - 1;
            }

            Sent += part.Bytes;
            if (Defect == Defect.NotAsOfTheCut)
            {
                int at = 0;
                foreach (DiskRun run in runs[..part.Runs].Where(run => !run.IsZero))
                {
                    await Image.ReadAsync(run.Offset, buffer.AsMemory(at, (int)run.Length), CancellationToken.None);
                    at += (int)run.Length;
                }
            }

            parts.Add((runs[..part.Runs], buffer[..part.Bytes]));
        }

        if (Defect == Defect.ClearedWhenSent)
        {
            Disk.Committed(snapshot.Round);
        }

        return parts;
    }

    /// <summary>Applies and commits a round at the replica, not yet telling the sender.</summary>
    public void CommitAtReplica(long round, List<(DiskRun[] Runs, byte[] Data)> parts)
    {
        bool complete = Disk.CompleteRound is { } first && round >= first;
        Replica.BeginRound(_session, round);
        foreach ((DiskRun[] runs, byte[] data) in parts)
        {
            Replica.Apply(runs, data);
        }

        Replica.Commit(complete);
        if (complete)
        {
            Compare(round);
        }
    }

    /// <summary>Holds the replica against the primary as of a cut.</summary>
    public void Compare(long round)
    {
        byte[] expected = _atCut[round];
        byte[] found = ReadReplica();
        Assert.Equal(expected.Length, found.Length);
        int difference = expected.AsSpan().CommonPrefixLength(found);
        Assert.True(difference == expected.Length, $"round {round}: the replica differs at {difference} (block {difference / 4096})");
        Compared++;
    }

    /// <summary>A round from cut to commit, with nothing in between.</summary>
    public async Task RoundAsync(long backlogBytes = long.MaxValue)
    {
        DiskSnapshot snapshot = Cut(backlogBytes);
        CommitAtReplica(Round, await ReadAsync(snapshot));
        Disk.Committed(Round);
    }

    /// <summary>The sender is killed and started again: only the image and the map file are left.</summary>
    public async Task RestartSenderAsync()
    {
        await Disk.DisposeAsync(); // writes nothing
        Disk = OpenDisk();
    }

    /// <summary>The receiver is killed and started again.</summary>
    public void RestartReceiver()
    {
        Replica.Dispose();
        Replica = OpenReplica();
    }

    public byte[] ReadReplica()
    {
        using FileStream file = new(ReplicaPath, new FileStreamOptions { Mode = FileMode.Open, Share = FileShare.ReadWrite | FileShare.Delete });
        byte[] all = new byte[file.Length];
        file.ReadExactly(all);
        return all;
    }

    public async ValueTask DisposeAsync()
    {
        await Disk.DisposeAsync();
        Replica.Dispose();
        _directory.Dispose();
    }

    private TrackedDisk OpenDisk() => new(Image, ChangeMap.Open(MapPath, Image.Length, History, Boot), _options);

    private ReplicaDisk OpenReplica() =>
        ReplicaDisk.Open(ReplicaPath, new ReplicaOptions(Image.Length, History, ReplicaSync.None, Replace: false, Boot));
}
