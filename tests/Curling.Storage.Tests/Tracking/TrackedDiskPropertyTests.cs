using Curling.Storage.Replica;
using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

/// <summary>Histories drawn from a seed: after every committed complete round the replica is the primary as of that cut, byte for byte.</summary>
public sealed class TrackedDiskPropertyTests
{
    private static readonly int Seeds = int.Parse(Environment.GetEnvironmentVariable("CURLING_SEEDS") ?? "20", System.Globalization.CultureInfo.InvariantCulture);

    [Theory]
    [InlineData(1 << 20, 64 << 10)]
    [InlineData((1 << 20) + 512, 4096)] // the last block is a short one, and one block of memory for old content
    [InlineData(3 << 20, 256 << 10)]
    public async Task A_committed_round_is_the_disk_as_of_its_cut(int length, int maxHeld)
    {
        int compared = 0;
        for (int seed = 0; seed < Seeds; seed++)
        {
            try
            {
                compared += await HistoryAsync(seed, length, maxHeld);
            }
            catch (Exception e)
            {
                throw new InvalidOperationException($"seed {seed} of length {length}: {e.Message}", e);
            }
        }

        Assert.True(compared > Seeds * 3, $"only {compared} rounds were compared");
    }

    [Theory]
    [InlineData("NoCopyBeforeWrite")]
    [InlineData("ClearedWhenSent")]
    [InlineData("NotAsOfTheCut")]
    public async Task A_planted_defect_is_found(string defect)
    {
        for (int seed = 0; seed < 20; seed++)
        {
            try
            {
                await HistoryAsync(seed, 1 << 20, 64 << 10, Enum.Parse<Defect>(defect));
            }
            catch (Xunit.Sdk.XunitException)
            {
                return; // the bytes differ, or the map sees that the replica is behind what it took for committed
            }
        }

        Assert.Fail($"{defect} was not found");
    }

    private static async Task<int> HistoryAsync(int seed, int length, int maxHeld, Defect defect = Defect.None)
    {
        Random random = new(seed);
        await using DiskModel model = new(length, new TrackedDiskOptions { MaxHeldBytes = maxHeld, MaxDirtyBytes = long.MaxValue }, defect);
        Random delays = new(seed + 1);
        model.Image.Before = (_, _, _) =>
        {
            lock (delays)
            {
                return delays.Next(4) == 0 ? Yield() : default;
            }
        };
        await WritesAsync(model, random, random.Next(20));
        await model.BeginAsync();
        List<(long Round, List<(DiskRun[], byte[])> Parts)> sent = [];
        for (int step = 0; step < 25; step++)
        {
            await WritesAsync(model, random, random.Next(6));
            DiskSnapshot snapshot = model.Cut(random.Next(5) == 0 ? long.MaxValue : random.Next(8) * 16384);
            long round = model.Round;

            // The guest writes while the snapshot is read.
            Task writes = Task.Run(() => WritesAsync(model, new Random(seed ^ (step << 8)), 12, gate: false));
            if (random.Next(8) == 0)
            {
                byte[] buffer = new byte[16384];
                _ = await snapshot.ReadAsync(buffer, new DiskRun[4], CancellationToken.None);
                snapshot.Abandon();
                await writes;
                continue;
            }

            sent.Add((round, await model.ReadAsync(snapshot, 4096 << random.Next(6))));
            await writes;
            while (sent.Count > random.Next(3))
            {
                model.CommitAtReplica(sent[0].Round, sent[0].Parts);
                if (random.Next(12) == 0)
                {
                    break; // the word of it is lost with what follows
                }

                model.Disk.Committed(sent[0].Round);
                sent.RemoveAt(0);
            }

            switch (random.Next(10))
            {
                case 0:
                    sent.Clear();
                    model.Disk.LinkLost();
                    await WritesAsync(model, random, random.Next(10));
                    await BeginAgainAsync(model);
                    break;
                case 1:
                    sent.Clear();
                    await model.RestartSenderAsync();
                    await WritesAsync(model, random, random.Next(10));
                    await BeginAgainAsync(model);
                    break;
                case 2:
                    model.RestartReceiver();
                    break;
            }
        }

        foreach ((long round, List<(DiskRun[], byte[])> parts) in sent)
        {
            model.CommitAtReplica(round, parts);
            model.Disk.Committed(round);
        }

        await model.RoundAsync();
        Assert.NotNull(model.Disk.CompleteRound);
        Assert.Equal(0, model.Disk.Counters.HeldBytes);
        Assert.Equal(0, model.Disk.OutstandingBytes);
        return model.Compared;
    }

    private static async Task BeginAgainAsync(DiskModel model)
    {
        CopyPlan plan = await model.BeginAsync();
        if (model.Replica.Identity.State != ReplicaState.Empty)
        {
            Assert.False(plan.IsFull, plan.Why);
        }
    }

    /// <summary>Requests of all kinds, one after the other.</summary>
    private static async Task WritesAsync(DiskModel model, Random random, int count, bool gate = true)
    {
        if (gate)
        {
            model.Disk.OpenGate();
        }

        int length = (int)model.Image.Length;
        for (int i = 0; i < count; i++)
        {
            int sectors = 1 << random.Next(9);
            long offset = random.Next((length / 512) - 1) * 512L;
            if (random.Next(3) == 0)
            {
                offset &= ~4095L;
            }

            int bytes = (int)Math.Min(sectors * 512, length - offset);
            Task request;
            switch (random.Next(5))
            {
                case 0:
                    request = model.Disk.ZeroAsync(offset, bytes, true, CancellationToken.None).AsTask();
                    break;
                case 1:
                    request = model.Disk.TrimAsync(offset, bytes, CancellationToken.None).AsTask();
                    break;
                default:
                    byte[] data = new byte[bytes];
                    random.NextBytes(data);
                    request = model.WriteAsync(offset, data);
                    break;
            }

            await request.WaitAsync(TimeSpan.FromSeconds(60));
        }
    }

    private static async ValueTask Yield() => await Task.Yield();
}
