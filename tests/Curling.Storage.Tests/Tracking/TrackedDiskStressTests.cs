using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

/// <summary>Threads that write as fast as they can while rounds are cut and read; each round is held against the disk at its cut.</summary>
public sealed class TrackedDiskStressTests : IDisposable
{
    private readonly TemporaryDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [Theory]
    [InlineData(4096)]
    [InlineData(128 << 10)]
    public async Task Rounds_are_true_while_threads_write(int maxHeld)
    {
        const int Length = 1 << 19;
        const int Rounds = 300;
        int requests = 0;
        MemoryBackend image = new(Length)
        {
            // Some requests take longer than others, so that they meet.
            Before = (_, _, _) => Interlocked.Increment(ref requests) % 7 == 0 ? SlowAsync() : default,
        };
        ChangeMap map = ChangeMap.Open(_directory["map"], Length, DiskModel.History, DiskModel.Boot);
        await using TrackedDisk disk = new(image, map, new TrackedDiskOptions { MaxHeldBytes = maxHeld });
        await disk.BeginBaseCopyAsync(Guid.NewGuid(), Guid.NewGuid(), true, default);
        using ReaderWriterLockSlim running = new();
        bool stop = false;
        Thread[] writers = [.. Enumerable.Range(0, 4).Select(i => new Thread(() => WriteUntil(disk, i, running, ref stop)))];
        foreach (Thread writer in writers)
        {
            writer.Start();
        }

        try
        {
            byte[] replica = new byte[Length];
            byte[] buffer = new byte[64 << 10];
            DiskRun[] runs = new DiskRun[16];
            for (int round = 1; round <= Rounds; round++)
            {
                running.EnterWriteLock();
                byte[] expected;
                DiskSnapshot snapshot;
                try
                {
                    expected = image.Snapshot();
                    snapshot = disk.Cut(round, 4096);
                }
                finally
                {
                    running.ExitWriteLock();
                }

                // Not awaited without a limit: a deadlock is a failure here, not a hang.
                while (await snapshot.ReadAsync(buffer, runs, default).AsTask().WaitAsync(TimeSpan.FromSeconds(60)) is { Runs: > 0 } part)
                {
                    Apply(replica, runs.AsSpan(0, part.Runs), buffer);
                }

                Assert.True(expected.AsSpan().SequenceEqual(replica), $"round {round} differs");
                disk.Committed(round);
            }
        }
        finally
        {
            Volatile.Write(ref stop, true);
            foreach (Thread writer in writers)
            {
                Assert.True(writer.Join(TimeSpan.FromSeconds(60)));
            }
        }

        Assert.True(disk.Counters.SavedBlocks > 0);
    }

    private static void WriteUntil(TrackedDisk disk, int seed, ReaderWriterLockSlim running, ref bool stop)
    {
        Random random = new(seed);
        byte[] data = new byte[32 << 10];
        while (!Volatile.Read(ref stop))
        {
            running.EnterReadLock();
            try
            {
                int length = 512 << random.Next(7);
                long offset = random.Next((int)(disk.Length - length) / 512) * 512L;
                random.NextBytes(data.AsSpan(0, length));
                Task write = random.Next(6) == 0
                    ? disk.TrimAsync(offset, length, default).AsTask()
                    : disk.WriteAsync(offset, data.AsMemory(0, length), default).AsTask();
                write.GetAwaiter().GetResult();
            }
            finally
            {
                running.ExitReadLock();
            }
        }
    }

    private static async ValueTask SlowAsync() => await Task.Yield();

    private static void Apply(byte[] replica, ReadOnlySpan<DiskRun> runs, ReadOnlySpan<byte> data)
    {
        foreach (DiskRun run in runs)
        {
            Span<byte> into = replica.AsSpan((int)run.Offset, (int)run.Length);
            if (run.IsZero)
            {
                into.Clear();
            }
            else
            {
                data[..into.Length].CopyTo(into);
                data = data[into.Length..];
            }
        }
    }
}
