using Curling.Storage.Images;
using Curling.Storage.Nbd;

namespace Curling.Storage.Tests.Nbd;

/// <summary>Random requests, many at once, compared with an array of bytes that does the same.</summary>
public sealed class ModelTests
{
    private const int Size = 4 << 20;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public async Task The_disk_holds_what_an_array_would(int seed)
    {
        const int Rounds = 40;
        const int Together = 48;
        await using Served served = Served.Start(Size, wrap: b => new Slow(b, seed));
        await using NbdClientBackend first = NbdClientBackend.Connect(served.Socket, Served.Name, "first");
        await using NbdClientBackend second = NbdClientBackend.Connect(served.Socket, "", "second");
        byte[] model = new byte[Size];
        Random random = new(seed);
        for (int round = 0; round < Rounds; round++)
        {
            // Requests of one round do not overlap in what they change, since they have no order; those of different rounds do.
            List<Task> tasks = [];
            int slot = Size / Together;
            for (int i = 0; i < Together; i++)
            {
                int offset = (i * slot) + random.Next(slot / 2);
                int length = random.Next(1, (i + 1) * slot - offset);
                NbdClientBackend client = random.Next(2) == 0 ? first : second;
                tasks.Add(StepAsync(client, random.Next(6), offset, length, model, random.Next()));
            }

            await Task.WhenAll(tasks);
            if (random.Next(8) == 0)
            {
                await first.FlushAsync(default);
            }
        }

        byte[] all = new byte[Size];
        await second.ReadAsync(0, all, default);
        Assert.True(all.AsSpan().SequenceEqual(model), $"seed {seed}: the export differs at {all.AsSpan().CommonPrefixLength(model)}");
        using FileStream file = new(served.Image, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        await file.ReadExactlyAsync(all);
        Assert.True(all.AsSpan().SequenceEqual(model), $"seed {seed}: the image differs at {all.AsSpan().CommonPrefixLength(model)}");
        Assert.Equal(0, served.Server.Counters.Errors);
    }

    [Fact]
    public async Task A_request_that_waits_holds_up_no_other_and_too_many_hold_up_their_client()
    {
        Held held = null!;
        await using Served served = Served.Start(Size, new NbdServerOptions { MaxRequests = 4 }, wrap: b => held = new Held(b));
        await using NbdClientBackend client = NbdClientBackend.Connect(served.Socket, "", "test");
        Task first = client.WriteAsync(0, new byte[512], default).AsTask();
        await client.ReadAsync(0, new byte[512], default);
        Assert.False(first.IsCompleted);
        Task[] more = [.. Enumerable.Range(0, 10).Select(i => client.WriteAsync(i * 512, new byte[512], default).AsTask())];
        await WrongInputTests.Until(() => held.Waiting == 4);
        Task read = client.ReadAsync(0, new byte[512], default).AsTask();
        await Task.Delay(50);
        Assert.Equal(4, held.Waiting);
        Assert.False(read.IsCompleted);
        held.Release();
        await Task.WhenAll([first, read, .. more]).WaitAsync(Tool.Limit);
    }

    [Fact]
    public async Task What_is_under_way_is_answered_when_the_export_ends()
    {
        Held held = null!;
        await using Served served = Served.Start(Size, wrap: b => held = new Held(b));
        await using NbdClientBackend client = NbdClientBackend.Connect(served.Socket, "", "test");
        Task write = client.WriteAsync(0, new byte[512], default).AsTask();
        await WrongInputTests.Until(() => held.Waiting == 1);
        Task ended = served.Server.DisposeAsync().AsTask();
        Assert.False(ended.IsCompleted);
        held.Release();
        await ended.WaitAsync(Tool.Limit);
        await write;
        DiskException e = await Assert.ThrowsAsync<DiskException>(async () => await client.ReadAsync(0, new byte[512], default));
        Assert.Contains("the connection to QEMU's tool is lost", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task An_export_ends_also_when_a_request_does_not()
    {
        Held held = null!;
        await using Served served = Served.Start(Size, new NbdServerOptions { DrainLimit = TimeSpan.FromMilliseconds(100) }, wrap: b => held = new Held(b));
        await using NbdClientBackend client = NbdClientBackend.Connect(served.Socket, "", "test");
        Task write = client.WriteAsync(0, new byte[512], default).AsTask();
        await WrongInputTests.Until(() => held.Waiting == 1);
        await served.Server.DisposeAsync().AsTask().WaitAsync(Tool.Limit);
        Assert.Contains(served.Log.Lines, l => l.Contains("DiskExportUnfinished", StringComparison.Ordinal));
        await Assert.ThrowsAsync<DiskException>(() => write);
        held.Release();
    }

    [Fact]
    public async Task Nothing_is_allocated_for_a_request_once_it_runs()
    {
        const int Requests = 4000;
        await using Served served = Served.Start(Size);
        using RawClient client = new(served.Socket);
        client.Go();
        byte[] write = RawClient.Request(1, 4096, 4096, payload: new byte[4096]);
        byte[] read = RawClient.Request(0, 4096, 4096);
        byte[] replies = new byte[4096 + 32];
        long before = 0;
        for (int i = 0; i < 2 * Requests; i++)
        {
            if (i == Requests)
            {
                before = GC.GetTotalAllocatedBytes(precise: true);
            }

            client.Send(write);
            client.Send(read);
            client.ReceiveInto(replies);
        }

        // Other tests' threads do not run beside this class's; what the runtime itself allocates meanwhile is far less than one object a request.
        long each = (GC.GetTotalAllocatedBytes(precise: true) - before) / Requests;
        Assert.True(each < 16, $"{each} bytes were allocated for each request");
    }

    private static async Task StepAsync(NbdClientBackend client, int kind, int offset, int length, byte[] model, int seed)
    {
        switch (kind)
        {
            case 0 or 1:
                byte[] data = new byte[length];
                new Random(seed).NextBytes(data);
                await client.WriteAsync(offset, data, default);
                data.CopyTo(model, offset);
                break;
            case 2:
                await client.ZeroAsync(offset, length, mayDeallocate: seed % 2 == 0, default);
                model.AsSpan(offset, length).Clear();
                break;
            case 3:
                await client.TrimAsync(offset, length, default);
                model.AsSpan(offset, length).Clear();
                break;
            case 4:
                byte[] read = new byte[length];
                await client.ReadAsync(offset, read, default);
                Assert.True(read.AsSpan().SequenceEqual(model.AsSpan(offset, length)), $"a read at {offset} differs");
                break;
            default:
                DiskExtent[] extents = new DiskExtent[8];
                int count = await client.GetExtentsAsync(offset, length, extents, default);
                Assert.InRange(count, 1, 8);
                long at = offset;
                foreach (DiskExtent extent in extents.AsSpan(0, count))
                {
                    Assert.True(extent.Length > 0 && at + extent.Length <= offset + (long)length);
                    Assert.True(!extent.IsHole || model.AsSpan((int)at, (int)extent.Length).IndexOfAnyExcept((byte)0) < 0, $"data at {at} was called a hole");
                    at += extent.Length;
                }

                break;
        }
    }

    /// <summary>Answers some requests later, so that they overtake each other.</summary>
    private sealed class Slow(IDiskBackend inner, int seed) : Passing(inner)
    {
        private readonly Random _random = new(seed);

        protected override async ValueTask BeforeAsync()
        {
            int wait;
            lock (_random)
            {
                wait = _random.Next(8);
            }

            switch (wait)
            {
                case 0:
                    await Task.Delay(1);
                    break;
                case 1:
                    await Task.Yield();
                    break;
            }
        }
    }

    /// <summary>Writes wait until they are let go.</summary>
    private sealed class Held(IDiskBackend inner) : Passing(inner)
    {
        private readonly TaskCompletionSource _go = new(TaskCreationOptions.RunContinuationsAsynchronously);
        private int _waiting;

        public int Waiting => Volatile.Read(ref _waiting);

        public void Release() => _go.TrySetResult();

        public override async ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
        {
            Interlocked.Increment(ref _waiting);
            await _go.Task;
            await base.WriteAsync(offset, data, cancellation);
        }
    }
}
