using Curling.Linux.Storage;
using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

public sealed class TrackedDiskTests : IAsyncDisposable
{
    private static readonly Guid Replica = Guid.NewGuid();
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60); // what hangs, fails
    private readonly TemporaryDirectory _directory = new();
    private readonly List<TrackedDisk> _disks = [];

    public async ValueTask DisposeAsync()
    {
        foreach (TrackedDisk disk in _disks)
        {
            await disk.DisposeAsync();
        }

        _directory.Dispose();
    }

    [Fact]
    public async Task The_old_content_travels_when_a_block_is_written_before_it_was_read()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        await Write(disk, 8192, 1);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        await Write(disk, 8192, 2);
        await Write(disk, 4096 * 9, 3); // not in the round: nothing is saved
        Assert.Equal(4096, disk.Counters.HeldBytes);
        Assert.Equal(1, disk.Counters.SavedBlocks);
        (DiskRun[] runs, byte[] data) = await ReadAsync(snapshot);
        Assert.Equal([new DiskRun(8192, 4096, false)], runs);
        Assert.All(data, value => Assert.Equal(1, value));
        Assert.Equal(0, disk.Counters.HeldBytes);
        Assert.Equal(2, image.Snapshot()[8192]);
        Assert.Equal(2 * 4096, disk.DirtyBytes);
    }

    [Fact]
    public async Task A_write_to_a_block_that_is_being_read_waits_and_others_do_not()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        await Write(disk, 0, 1);
        await Write(disk, 4096 * 100, 1);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        TaskCompletionSource reading = new();
        TaskCompletionSource go = new();
        image.Before = (kind, offset, _) =>
        {
            if (kind == "read" && offset == 0)
            {
                reading.TrySetResult();
                return new ValueTask(go.Task);
            }

            return default;
        };
        Task<SnapshotPart> read = snapshot.ReadAsync(new byte[4096], new DiskRun[1], default).AsTask();
        await reading.Task;
        Task overlapping = Write(disk, 512, 2, 512);
        Task behind = Write(disk, 4096 * 100, 2);
        Task elsewhere = Write(disk, 4096 * 7, 2);
        await behind;
        await elsewhere;
        Assert.False(overlapping.IsCompleted);
        go.SetResult();
        await read;
        await overlapping;
        Assert.Equal(1, disk.Counters.SnapshotWaits);
    }

    [Fact]
    public async Task A_write_waits_for_another_that_is_saving_the_block()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        await Write(disk, 0, 1);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        TaskCompletionSource go = new();
        int writes = 0;
        image.Before = (kind, _, _) =>
        {
            writes += kind == "write" ? 1 : 0;
            return kind == "read" ? new ValueTask(go.Task) : default;
        };
        Task first = Write(disk, 0, 2);
        Task second = Write(disk, 512, 3, 512);
        Task<(DiskRun[] Runs, byte[] Data)> read = ReadAsync(snapshot);
        Assert.Equal(0, writes);
        Assert.False(second.IsCompleted || read.IsCompleted);
        go.SetResult();
        await first;
        await second;
        Assert.All((await read).Data, value => Assert.Equal(1, value));
        Assert.Equal(1, disk.Counters.SavedBlocks);
    }

    [Fact]
    public async Task Writes_wait_for_memory_until_the_reader_has_taken_blocks()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20, new TrackedDiskOptions { MaxHeldBytes = 8192 });
        await Write(disk, 0, 1, 16 * 4096);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        Task write = Write(disk, 0, 2, 16 * 4096);
        Assert.False(write.IsCompleted);
        Assert.Equal(8192, disk.Counters.HeldBytes);
        (_, byte[] data) = await ReadAsync(snapshot, 4096);
        await write;
        Assert.All(data, value => Assert.Equal(1, value));
        Assert.Equal(16 * 4096, data.Length);
        Assert.Equal(1, disk.Counters.SnapshotWaits);
        Assert.True(disk.Counters.WaitTime > TimeSpan.Zero);
    }

    [Fact]
    public async Task A_waiting_write_can_be_cancelled_and_the_round_is_still_whole()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20, new TrackedDiskOptions { MaxHeldBytes = 4096 });
        await Write(disk, 0, 1, 4 * 4096);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        using CancellationTokenSource cancel = new();
        Task write = disk.WriteAsync(0, new byte[4 * 4096], cancel.Token).AsTask();
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => write);
        Assert.All((await ReadAsync(snapshot)).Data, value => Assert.Equal(1, value));
        _ = disk.Cut(2, 0); // nothing is under way
    }

    [Fact]
    public async Task Beyond_the_bound_writes_wait_for_the_next_cut()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20, new TrackedDiskOptions { MaxDirtyBytes = 8192 });
        await Write(disk, 0, 1, 8192);
        Task waiting = Write(disk, 65536, 1);
        Assert.False(waiting.IsCompleted);
        Assert.Equal(1, disk.Counters.GateWaits);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        await waiting;
        await ReadAsync(snapshot);
        await Write(disk, 0, 1);
        Task again = Write(disk, 0, 1);
        Assert.False(again.IsCompleted);
        disk.OpenGate(); // QEMU is to be stopped, and has to see it answered
        await again;
        _ = disk.Cut(2, 0);
        await Write(disk, 0, 1, 8192);
        Task last = Write(disk, 0, 1);
        Assert.False(last.IsCompleted);
        disk.LinkLost();
        await last;
    }

    [Fact]
    public async Task A_cut_needs_the_writes_answered_and_the_snapshot_before_read()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(
            1 << 20, new TrackedDiskOptions { DrainLimit = TimeSpan.FromMilliseconds(20) });
        TaskCompletionSource go = new();
        image.Before = (_, _, _) => new ValueTask(go.Task);
        Task write = Write(disk, 0, 1);
        Assert.Contains("1 writes", Assert.Throws<InvalidOperationException>(() => disk.Cut(1, 0)).Message, StringComparison.Ordinal);
        go.SetResult();
        await write;
        DiskSnapshot snapshot = disk.Cut(1, 0);
        Assert.Contains("round 1", Assert.Throws<InvalidOperationException>(() => disk.Cut(2, 0)).Message, StringComparison.Ordinal);
        snapshot.Abandon();
        Assert.Equal(4096, disk.Cut(2, 0).Bytes);
    }

    [Fact]
    public async Task An_image_that_cannot_be_read_costs_the_round_and_not_the_write()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        await Write(disk, 0, 1);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        image.Before = (kind, _, _) => kind == "read" ? throw new DiskException(DiskError.Io, "a bad sector") : default;
        await Write(disk, 0, 2);
        image.Before = null;
        DiskException e = await Assert.ThrowsAsync<DiskException>(() => ReadAsync(snapshot));
        Assert.Contains("a bad sector", e.Message, StringComparison.Ordinal);
        snapshot.Abandon();
        Assert.All((await ReadAsync(disk.Cut(2, 0))).Data, value => Assert.Equal(2, value));
    }

    [Fact]
    public async Task Errors_of_the_image_reach_the_guest_unchanged_and_the_block_stays_marked()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        DiskException thrown = new(DiskError.NoSpace, "full");
        image.Before = (_, _, _) => throw thrown;
        Assert.Same(thrown, await Assert.ThrowsAsync<DiskException>(() => Write(disk, 0, 1)));
        image.Before = async (_, _, _) =>
        {
            await Task.Yield();
            throw thrown;
        };
        Assert.Same(thrown, await Assert.ThrowsAsync<DiskException>(() => disk.TrimAsync(4096, 4096, default).AsTask()));
        Assert.Equal(8192, disk.DirtyBytes);
        Assert.Equal(8192, disk.Cut(1, 0).Bytes);
    }

    /// <summary>The capture learns of the lost link after the sender's loop: it may give up what is read, or was empty from the beginning.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task A_snapshot_without_anything_left_may_be_given_up_after_the_link_was_lost(bool written)
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20);
        if (written)
        {
            await Write(disk, 0, 1);
        }

        DiskSnapshot snapshot = disk.Cut(1, 0);
        if (written)
        {
            await ReadAsync(snapshot);
        }

        disk.LinkLost();
        snapshot.Abandon();
        disk.BeginResync(Guid.NewGuid(), default, 0);
        Assert.Equal(written ? 4096 : 0, disk.Backlog.BytesLeft);
    }

    [Fact]
    public async Task The_link_lost_while_a_snapshot_is_read_gives_it_up_and_keeps_its_blocks()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20);
        await Write(disk, 0, 1, 8 * 4096);
        DiskSnapshot snapshot = disk.Cut(1, 0);
        await Write(disk, 4096 * 5, 2);
        _ = await snapshot.ReadAsync(new byte[4096], new DiskRun[1], default);
        disk.LinkLost();
        Assert.Equal(0, disk.Counters.HeldBytes);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ReadAsync(snapshot));
        snapshot.Abandon(); // nothing more to do
        disk.BeginResync(Guid.NewGuid(), default, 0);
        Assert.Equal(8 * 4096, disk.Backlog.BytesLeft);
        await ReadAsync(disk.Cut(1, 3 * 4096));
        Assert.Equal(new BacklogStatus(5 * 4096, 8 * 4096), disk.Backlog);
        Assert.Null(disk.CompleteRound);
        await ReadAsync(disk.Cut(2, long.MaxValue));
        Assert.Equal(2, disk.CompleteRound);
    }

    [Fact]
    public async Task A_terabyte_costs_what_changed()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1L << 40);
        long read = 0;
        for (int round = 1; round <= 20; round++)
        {
            for (long i = 0; i < 8; i++)
            {
                await Write(disk, (i * (1L << 37)) + (round * 4096), 7);
            }

            long before = disk.CutWork;
            DiskSnapshot snapshot = disk.Cut(round, long.MaxValue);
            Assert.True(disk.CutWork - before <= 16, $"round {round}: a cut looked at {disk.CutWork - before} leaves");
            (DiskRun[] runs, byte[] data) = await ReadAsync(snapshot);
            Assert.Equal(8, runs.Length);
            read += data.Length;
            disk.Committed(round);
        }

        Assert.Equal(read, image.BytesRead);

        // A disk given back whole is one run, and nothing of it is read.
        await disk.TrimAsync(0, 1L << 40, default);
        (DiskRun[] zeros, _) = await ReadAsync(disk.Cut(21, 0));
        Assert.Equal(1L << 40, zeros.Sum(run => run.Length));
        Assert.All(zeros, run => Assert.True(run.IsZero));
        Assert.Equal(read, image.BytesRead);
    }

    [Fact]
    public async Task A_write_into_a_hole_of_the_backlog_that_is_under_way_when_a_full_copy_begins_travels()
    {
        (TrackedDisk disk, MemoryBackend image) = await BegunAsync(1 << 20);
        await disk.TrimAsync(8192, 4096, default);
        await ReadAsync(disk.Cut(1, long.MaxValue));
        disk.LinkLost(); // the block waits in the backlog now, and is a hole
        TaskCompletionSource arrived = new();
        TaskCompletionSource lands = new();
        image.Before = async (kind, _, _) =>
        {
            if (kind == "write")
            {
                arrived.SetResult();
                await lands.Task;
            }
        };
        Task write = Write(disk, 8192, 7);
        await arrived.Task.WaitAsync(Limit);
        await disk.BeginBaseCopyAsync(Guid.NewGuid(), Guid.NewGuid(), replicaIsEmpty: true, default);
        lands.SetResult();
        await write;
        (DiskRun[] runs, byte[] data) = await ReadAsync(disk.Cut(2, long.MaxValue));
        Assert.Equal([new DiskRun(8192, 4096, false)], runs);
        Assert.All(data, value => Assert.Equal(7, value));
    }

    [Fact]
    public async Task A_write_allocates_nothing_once_its_region_is_known()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20);
        byte[] data = new byte[4096];
        for (int i = 0; i < 1000; i++)
        {
            await disk.WriteAsync(i % 256 * 4096, data, default);
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10_000; i++)
        {
            await disk.WriteAsync(i % 256 * 4096, data, default); // the image answers at once, so this thread goes on
        }

        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(allocated < 1000, $"{allocated} bytes for 10,000 writes");
    }

    [Fact]
    public async Task Nor_when_the_old_content_was_saved_before()
    {
        (TrackedDisk disk, _) = await BegunAsync(1 << 20);
        byte[] data = new byte[4096];
        await disk.WriteAsync(0, data, default);
        _ = disk.Cut(1, 0);
        for (int i = 0; i < 100; i++)
        {
            await disk.WriteAsync(0, data, default);
        }

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 10_000; i++)
        {
            await disk.WriteAsync(0, data, default);
        }

        long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        Assert.True(allocated < 1000, $"{allocated} bytes for 10,000 writes");
        Assert.Equal(1, disk.Counters.SavedBlocks);
    }

    private async Task<(TrackedDisk Disk, MemoryBackend Image)> BegunAsync(long length, TrackedDiskOptions? options = null)
    {
        MemoryBackend image = new(length);
        ChangeMap map = ChangeMap.Open(_directory[$"{_disks.Count}.curling-map"], length, DiskModel.History, DurableFiles.BootId);
        TrackedDisk disk = new(image, map, options ?? new TrackedDiskOptions());
        _disks.Add(disk);
        await disk.BeginBaseCopyAsync(Replica, Guid.NewGuid(), replicaIsEmpty: true, default);
        return (disk, image);
    }

    private static Task Write(TrackedDisk disk, long offset, byte value, int length = 4096)
    {
        byte[] data = new byte[length];
        data.AsSpan().Fill(value);
        return disk.WriteAsync(offset, data, default).AsTask().WaitAsync(Limit);
    }

    private static async Task<(DiskRun[] Runs, byte[] Data)> ReadAsync(DiskSnapshot snapshot, int bufferBytes = 1 << 20)
    {
        List<DiskRun> all = [];
        using MemoryStream data = new();
        byte[] buffer = new byte[bufferBytes];
        DiskRun[] runs = new DiskRun[256];
        while (await snapshot.ReadAsync(buffer, runs, default).AsTask().WaitAsync(Limit) is { Runs: > 0 } part)
        {
            all.AddRange(runs[..part.Runs]);
            data.Write(buffer, 0, part.Bytes);
        }

        return ([.. all], data.ToArray());
    }
}
