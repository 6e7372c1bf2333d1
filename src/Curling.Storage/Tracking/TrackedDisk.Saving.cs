using System.Buffers;
using System.Diagnostics;
using System.Runtime.CompilerServices;

namespace Curling.Storage.Tracking;

/// <content>What a write does before it touches blocks of the open snapshot.</content>
public sealed partial class TrackedDisk
{
    private const int SaveBatch = 16; // blocks that are saved with one read
    private long _savedBlocks;
    private long _snapshotWaits;
    private long _waitTicks;

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask SaveAsync(long first, long end, CancellationToken cancellation)
    {
        int[]? slots = null;
        byte[]? bytes = null;
        bool counted = false;
        try
        {
            while (true)
            {
                Task? wait = null;
                DiskSnapshot? snapshot;
                long from = 0;
                int count = 0;
                lock (_lock)
                {
                    snapshot = _open;
                    if (snapshot is null || !snapshot.Touches(first, end))
                    {
                        return;
                    }

                    slots ??= ArrayPool<int>.Shared.Rent(SaveBatch);
                    if (snapshot.Claim(ref first, end, slots.AsSpan(0, SaveBatch), out from, out count))
                    {
                        return;
                    }

                    if (count == 0)
                    {
                        wait = _changed.Next();
                        _snapshotWaits += counted ? 0 : 1;
                        counted = true;
                    }
                }

                if (wait is not null)
                {
                    await WaitAsync(wait, cancellation).ConfigureAwait(false);
                    continue;
                }

                bytes ??= ArrayPool<byte>.Shared.Rent(SaveBatch * BlockSet.BlockBytes);
                await SaveAsync(snapshot, from, count, slots, bytes).ConfigureAwait(false);
            }
        }
        finally
        {
            if (slots is not null)
            {
                ArrayPool<int>.Shared.Return(slots);
            }

            if (bytes is not null)
            {
                ArrayPool<byte>.Shared.Return(bytes);
            }
        }
    }

    /// <summary>Reads claimed blocks into their slots. Not cancelled: others wait for it, and it is one short read.</summary>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask SaveAsync(DiskSnapshot snapshot, long from, int count, int[] slots, byte[] bytes)
    {
        Exception? failure = null;
        try
        {
            int length = (int)(Math.Min(Length, (from + count) * BlockSet.BlockBytes) - (from * BlockSet.BlockBytes));
            await _image.ReadAsync(from * BlockSet.BlockBytes, bytes.AsMemory(0, length), CancellationToken.None).ConfigureAwait(false);
        }
        catch (Exception e)
        {
            // The guest's write need not fail because the replication cannot read: the round is lost instead.
            failure = e;
        }

        lock (_lock)
        {
            for (int i = 0; i < count; i++)
            {
                if (failure is null)
                {
                    bytes.AsMemory(i * BlockSet.BlockBytes, BlockSet.BlockBytes).CopyTo(Held[slots[i]]);
                }

                snapshot.Saved(from + i, slots[i]);
            }

            _savedBlocks += count;
            if (failure is not null)
            {
                snapshot.Fail(failure);
            }

            _changed.Fire();
        }
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask WaitAsync(Task wait, CancellationToken cancellation)
    {
        long began = Stopwatch.GetTimestamp();
        try
        {
            await wait.WaitAsync(cancellation).ConfigureAwait(false);
        }
        finally
        {
            long ticks = Stopwatch.GetElapsedTime(began).Ticks;
            lock (_lock)
            {
                _waitTicks += ticks;
            }
        }
    }
}
