using System.Collections.Concurrent;
using System.Globalization;
using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.Qemu;
using Curling.Qemu.Processes;
using Curling.Recv;
using Curling.Recv.Sessions;
using Curling.Replication.Receiver;
using Xunit.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>
/// A proxy between the two sides cuts the connection at frames and at bytes, flips bits, drops, repeats and reorders frames.
/// Whatever it does, what can be promoted is exactly one round that was sent, never older than what the sender was told.
/// </summary>
/// <remarks><c>CURLING_SEEDS</c> sets the number of seeds, <c>CURLING_FIRST_SEED</c> the first.</remarks>
public sealed class AllOrNothingTests(ITestOutputHelper output)
{
    private const int RoundsWanted = 4;

    [SkippableFact]
    public async Task No_damaged_round_is_ever_committed()
    {
        int seeds = Number("CURLING_SEEDS", 1000);
        int first = Number("CURLING_FIRST_SEED", 1);
        await using Bench bench = await Bench.StartAsync();
        ConcurrentDictionary<FaultKind, int> happened = new();
        ConcurrentDictionary<string, int> reasons = new();
        await Parallel.ForEachAsync(
            Enumerable.Range(first, seeds),
            new ParallelOptions { MaxDegreeOfParallelism = 4 },
            async (seed, _) =>
            {
                try
                {
                    (Fault fault, bool came, IReadOnlyList<string> why) = await RunAsync(bench, seed);
                    if (came)
                    {
                        happened.AddOrUpdate(fault.Kind, 1, (_, n) => n + 1);
                        Assert.True(why.Count > 0 || !Harmful(fault), $"{fault} came to pass and nobody said why");
                        foreach (string reason in why)
                        {
                            Assert.NotEmpty(reason);
                            reasons.AddOrUpdate(new string([.. reason.Where(c => !char.IsAsciiDigit(c))]), 1, (_, n) => n + 1);
                        }
                    }
                }
                catch (Exception e)
                {
                    throw new InvalidOperationException($"seed {seed} (CURLING_FIRST_SEED={seed} CURLING_SEEDS=1): {e.Message}\n{string.Join('\n', bench.Log.About($"seed{seed}"))}", e);
                }
            });
        foreach ((string reason, int count) in reasons.OrderByDescending(r => r.Value).Take(40))
        {
            output.WriteLine($"{count,5} × {reason}");
        }

        // A test whose faults do not happen proves nothing.
        Assert.True(seeds < 500 || Enum.GetValues<FaultKind>().All(k => happened.GetValueOrDefault(k) > seeds / 30), string.Join(", ", happened));
    }


    // What comes back late or twice may simply not matter to a sender that is done.
    private static bool Harmful(Fault fault) => !fault.Backwards && fault.Kind is FaultKind.CutAtFrame or FaultKind.CutAtByte or FaultKind.DropFrame;

    private static async Task<(Fault Fault, bool Happened, IReadOnlyList<string> Reasons)> RunAsync(Bench bench, int seed)
    {
        Random random = new(seed);
        bool full = random.Next(3) == 0;
        bool backwards = random.Next(5) == 0;
        FaultKind kind = (FaultKind)random.Next(1, 7);

        // A greeting that is swallowed shows only by a time limit: the first frame is never dropped or held back.
        int frame = random.Next(kind is FaultKind.DropFrame or FaultKind.SwapFrames ? 1 : 0, backwards ? 9 : full ? 22 : 15);
        Fault fault = new(kind, backwards, frame, random.Next(0, backwards ? 500 : full ? 3_000_000 : 500_000), random.Next(8));
        if (fault.Kind is FaultKind.FlipBit or FaultKind.CutAtByte && random.Next(2) == 0)
        {
            fault = fault with { Byte = random.Next(0, 3000) };
        }

        string name = string.Create(CultureInfo.InvariantCulture, $"seed{seed}");
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(60));
        await using PlayedSender sender = new(name, full, random);
        await using FaultyProxy proxy = new(bench.Port, fault);
        bool done = false;
        try
        {
            for (int attempt = 0; attempt < 8 && !done; attempt++)
            {
                done = await sender.LiveAsync(proxy.Port, RoundsWanted, limit.Token);
            }
        }
        catch (OperationCanceledException)
        {
            Assert.Fail($"the pair hangs after {fault}: {string.Join("; ", sender.Reasons)}");
        }

        Assert.True(done, $"the pair does not come to rest after {fault}: {string.Join("; ", sender.Reasons)}");
        GuestSession session = bench.Daemon.Sessions.Single(s => s.Guest.Name == name);
        await session.PromoteAsync(fence: true, arbiter: true, limit.Token);
        PlayedStandby standby = bench.Standbys[name];
        Assert.True(
            sender.Rounds.TryGetValue(session.CommittedRound, out Snapshot? expected), $"round {session.CommittedRound} was never sent");
        Assert.True(session.CommittedRound >= sender.LastCompleted, $"{sender.LastCompleted} was complete, {session.CommittedRound} is promoted");
        Assert.True(standby.LoadedState.AsSpan().SequenceEqual(expected.State), $"the state is not that of round {session.CommittedRound}");
        Assert.True(
            full || standby.LoadedMemory.AsSpan().SequenceEqual(expected.Memory), $"the memory is not that of round {session.CommittedRound}");
        session.Discard("the test is over");
        while (session.State != ReceiverState.Ended || session.RentedChunks > 0)
        {
            await Task.Delay(2, limit.Token);
        }

        while (sender.RentedChunks > 0)
        {
            await Task.Delay(2, limit.Token);
        }

        return (fault, proxy.Happened, sender.Reasons);
    }

    private static int Number(string variable, int standard) => int.TryParse(
        Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int number) ? number : standard;

    /// <summary>Keeps what the receiver logged, to be shown with a failure.</summary>
    private sealed class KeptLog : Microsoft.Extensions.Logging.ILogger<ReceiverDaemon>
    {
        private readonly ConcurrentQueue<string> _lines = new();

        public IReadOnlyList<string> About(string guest) => [.. _lines.Where(l => l.Contains(guest + ":") || l.Contains("refused")).TakeLast(30)];

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(Microsoft.Extensions.Logging.LogLevel logLevel) => true;

        public void Log<TState>(
            Microsoft.Extensions.Logging.LogLevel logLevel, Microsoft.Extensions.Logging.EventId eventId, TState state,
            Exception? exception, Func<TState, Exception?, string> formatter)
        {
            _lines.Enqueue($"{DateTime.UtcNow:HH:mm:ss.fff} {formatter(state, exception)}");
            while (_lines.Count > 5000)
            {
                _lines.TryDequeue(out _);
            }
        }
    }

    /// <summary>A real receiver whose standbys are played.</summary>
    private sealed class Bench : IAsyncDisposable
    {
        private Bench(ReceiverDaemon daemon, int port, ConcurrentDictionary<string, PlayedStandby> standbys, KeptLog log)
        {
            Log = log;
            Daemon = daemon;
            Port = port;
            Standbys = standbys;
        }

        public ReceiverDaemon Daemon { get; }

        public int Port { get; }

        public KeptLog Log { get; }

        public ConcurrentDictionary<string, PlayedStandby> Standbys { get; }

        public static async Task<Bench> StartAsync()
        {
            try
            {
                QemuBinary.Find(null);
            }
            catch (QemuException e)
            {
                Skip.If(true, e.Message);
            }

            ConcurrentDictionary<string, PlayedStandby> standbys = new();
            KeptLog log = new();
            ReceiverDaemon daemon = new(
                new ReceiverOptions(
                    new Endpoint("127.0.0.1", 0), FailureAction.Hold, TimeSpan.FromMilliseconds(400), 64, 1L << 30, 64L << 20, null, null, null),
                TimeProvider.System,
                log)
            {
                StartStandby = PlayedStandby.Starter(standbys),
            };
            await daemon.StartAsync(CancellationToken.None);
            Endpoint listening = await daemon.Listening.WaitAsync(TimeSpan.FromSeconds(60));
            return new Bench(daemon, listening.Port, standbys, log);
        }

        public async ValueTask DisposeAsync()
        {
            await Daemon.StopAsync(CancellationToken.None);
            Daemon.Dispose();
        }
    }
}
