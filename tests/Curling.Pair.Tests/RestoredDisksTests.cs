using System.Text.Json;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Linux.Storage;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Recv;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Curling.Recv.Sessions;
using Curling.Replication.Receiver;
using Curling.Storage.Replica;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>A session that an earlier receiver left counts only with the disks that belong to its memory.</summary>
public sealed class RestoredDisksTests : IDisposable
{
    private const long MaxRoundBytes = 4L * DataFrame.ChunkBytes;
    private const long Length = 1 << 20;
    private static readonly Guid Session = Guid.NewGuid();
    private static readonly Guid History = Guid.NewGuid();
    private static readonly GuestDefinition Guest = new()
    {
        Name = "left",
        MemoryBytes = 1 << 20,
        Accelerator = "tcg",
        Disks = new DiskList([new DiskDefinition("/a", "raw", null, false), new DiskDefinition("/b", "raw", null, false)]),
    };

    private readonly string _directory = Directory.CreateDirectory(Path.Combine("/dev/shm", "cr" + Guid.NewGuid().ToString("N")[..8])).FullName;

    private string Replica(int disk) => Path.Combine(_directory, "replicas", $"left-disk{disk}.img");

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Theory]
    [InlineData("nothing", false)]
    [InlineData("another receiver", true)]
    [InlineData("another session", true)]
    [InlineData("round without disks", false)]
    [InlineData("half of a round", true)]
    public async Task Round_whose_disks_went_on_without_it_is_not_whole(string since, bool differs)
    {
        await LeaveAsync();
        if (since != "nothing")
        {
            using ReplicaDisk disk = ReplicaDisk.Open(Replica(1), new ReplicaOptions(Length, History, ReplicaSync.None, false, DurableFiles.BootId));
            switch (since)
            {
                case "another receiver":
                    disk.BeginRound(Session, 8);
                    disk.Commit(complete: true);
                    break;
                case "another session":
                    disk.BeginRound(Guid.NewGuid(), 5);
                    disk.Commit(complete: true);
                    break;
                case "round without disks":
                    disk.Pass(Session, 6, complete: true); // the receiver died before its journal said so
                    break;
                case "half of a round":
                    disk.BeginRound(Session, 6);
                    break;
            }
        }

        await using StandbyDisks disks = Open(restoring: true);
        using SharedMapping memory = SharedMapping.Open(Path.Combine(_directory, "ram"), writable: true);
        RestoredSession restored = RestoredSession.Replay(_directory, new SessionFile("tcp:h:1", MaxRoundBytes, Greeting()), memory, disks)!;
        restored.Committed.Leave();
        restored.Journal.Dispose();
        Assert.Equal(differs, restored.Last.IsIncomplete);
        Assert.Equal(differs, restored.DisksDiffer?.Contains(Replica(1), StringComparison.Ordinal) ?? false);
    }

    [Fact]
    public async Task Replica_that_is_lost_or_promoted_is_neither_made_nor_replaced()
    {
        await LeaveAsync();
        using (ReplicaDisk disk = ReplicaDisk.Open(Replica(0), new ReplicaOptions(Length, History, ReplicaSync.None, false, DurableFiles.BootId)))
        {
            disk.Promote(Guid.NewGuid());
        }

        byte[] before = File.ReadAllBytes(Replica(0));
        Assert.Throws<ReplicaRefusedException>(() => Open(restoring: true));
        Assert.Equal(before, File.ReadAllBytes(Replica(0)));
        File.Delete(Replica(0));
        Assert.Throws<ReplicaRefusedException>(() => Open(restoring: true));
        Assert.False(File.Exists(Replica(0)));
    }

    /// <summary>What a receiver leaves that dies when round 5 is committed.</summary>
    private async Task LeaveAsync()
    {
        await using StandbyDisks disks = Open(restoring: false);
        disks.Commit(5, true, (int _, out ReadOnlySpan<byte> payload) =>
        {
            payload = default;
            return false;
        });
        SharedMapping.Create(Path.Combine(_directory, "ram"), Guest.MemoryBytes).Dispose();
        using ChunkPool pool = new(DataFrame.ChunkBytes, MaxRoundBytes, Path.Combine(_directory, GuestSession.PrefetchFile));
        Assert.True(pool.TryRent(out Chunk chunk));
        new DataPrefix(SectionKind.DeviceState, 0, 0).Write(chunk.Span);
        chunk.Length = DataPrefix.Bytes + 100;
        CommittedState committed = new(_directory);
        using RoundJournal journal = RoundJournal.Create(_directory, GuestSession.Chunks(MaxRoundBytes));
        journal.Write(committed.WriteDeviceState([chunk], new JournalRecord { Round = 5, Kind = RoundKind.Incremental, At = DateTimeOffset.UnixEpoch }));
        committed.Leave();
        chunk.Return();
    }

    private StandbyDisks Open(bool restoring)
    {
        ReceiverOptions options = new(
            new Endpoint("127.0.0.1", 0), FailureAction.Hold, TimeSpan.FromSeconds(30), 1, 1L << 30, MaxRoundBytes, null, null, null)
        {
            ReplicaDirectory = Path.Combine(_directory, "replicas"),
            ReplaceReplica = true,
        };
        return StandbyDisks.Open(options, Guest, Greeting(), _directory, NullLogger.Instance, restoring);
    }

    private static Hello Greeting() => new(
        Session.ToString("N"), 1, JsonDocument.Parse("{}").RootElement, "pc-q35-7.2", "tcg", "7.2.22", [], [],
        [new HelloBlock("ram", Guest.MemoryBytes)])
    {
        Disks = [new HelloDisk(Length, History, []), new HelloDisk(Length, History, [])],
    };
}
