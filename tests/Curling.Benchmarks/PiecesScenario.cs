using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Loggers;
using BenchmarkDotNet.Reports;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Protocol;
using Curling.Qemu.Memory;
using Curling.Recv.Standby;
using Curling.Send.Capture;

namespace Curling.Benchmarks;

/// <summary>The inner pieces of a round alone: scan, copy, encode, digest, apply. Each works on 1 MiB of pages, a scan on 1 GiB.</summary>
internal static class PiecesScenario
{
    public static void Run(bool quick, Action<string, double, string> report)
    {
        Job job = (quick ? Job.ShortRun : Job.Default).WithToolchain(InProcessEmitToolchain.DontLogOutput);
        IConfig config = ManualConfig.CreateEmpty().AddJob(job).AddDiagnoser(BenchmarkDotNet.Diagnosers.MemoryDiagnoser.Default)
            .AddColumnProvider(BenchmarkDotNet.Columns.DefaultColumnProviders.Instance)
            .AddLogger(NullLogger.Instance)
            .WithArtifactsPath(Path.Combine(Path.GetTempPath(), "curling-bench-artifacts"))
            .WithOptions(ConfigOptions.DisableOptimizationsValidator);
        Summary summary = BenchmarkRunner.Run<Pieces>(config);
        if (summary.HasCriticalValidationErrors || summary.Reports.Any(r => r.ResultStatistics is null))
        {
            throw new InvalidOperationException(
                "a piece could not be measured: " + string.Join("; ", summary.ValidationErrors.Select(e => e.Message)));
        }

        foreach (BenchmarkReport piece in summary.Reports)
        {
            string name = piece.BenchmarkCase.Descriptor.WorkloadMethod.Name.ToLowerInvariant();
            string unit = name == "scan" ? "us_per_gib" : "us_per_mib";
            report($"pieces.{name}.{unit}", piece.ResultStatistics!.Median / 1000, "");
            report($"pieces.{name}.allocated_bytes", piece.GcStats.GetBytesAllocatedPerOperation(piece.BenchmarkCase) ?? 0, "0");
        }
    }
}

/// <summary>What <see cref="PiecesScenario"/> measures.</summary>
public class Pieces
{
    private const int Pages = 256;
    private const int Bytes = Pages * ProtocolLimits.PageBytes;
    private readonly PageRegion[] _regions = new PageRegion[4096];
    private readonly byte[] _content = new byte[Bytes];
    private readonly byte[] _sparse = new byte[Bytes];
    private readonly TaskCompletionSource _release = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Task _guest = Task.CompletedTask;
    private SharedMapping _memory = null!;
    private MappedRam _source = null!;
    private MappedBlock _block = null!;
    private DirtyTracker _tracker = null!;
    private RamBlock _ram = null!;
    private int _at;

    /// <summary>Starts a guest of 1 GiB, tracks it and stops it: a scan then finds nothing.</summary>
    [GlobalSetup]
    public void Start()
    {
        new Random(1).NextBytes(_content);
        for (int end = ProtocolLimits.PageBytes; end <= Bytes; end += ProtocolLimits.PageBytes)
        {
            _sparse[end - 1] = 1;
        }

        TaskCompletionSource ready = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _guest = Floor.WithGuestAsync(RoundsScenario.Qemu(), "1GiB", RoundsScenario.Standard, async (process, memory, device) =>
        {
            (_, IReadOnlyList<RamBlock> located) = await RamBlocks.LocateAsync(process.Qmp, process.Pid, memory.Path, CancellationToken.None);
            _ram = located.Single(b => b.Name == RamBlock.Ram);
            process.Cut.Stop(TimeSpan.FromSeconds(10));
            _memory = memory;
            _source = new MappedRam(_ram.Name, _ram.Address, memory);
            _block = new MappedBlock(memory);
            using DirtyTracker tracker = DirtyTracker.Attach(process.Pid);
            tracker.Register(_ram.Address, (ulong)memory.Length);
            _tracker = tracker;
            for (int i = 0; i < 64; i++)
            {
                // Memory that exists: the first touch of a page would be measured otherwise.
                _block.Write(((i + 64) * Pages) % _block.Pages, _content);
            }

            _block.MemoryExists();
            ready.SetResult();
            await _release.Task;
            return true;
        });
        Task.WhenAny(ready.Task, _guest).Unwrap().GetAwaiter().GetResult();
        Scan();
    }

    /// <summary>Ends the guest.</summary>
    [GlobalCleanup]
    public void Stop()
    {
        _release.SetResult();
        _guest.GetAwaiter().GetResult();
    }

    /// <summary>One scan of 1 GiB in which nothing was written.</summary>
    [Benchmark]
    public int Scan()
    {
        int found = 0;
        ulong end = _ram.Address + (ulong)_memory.Length;
        for (ulong at = _ram.Address; at < end;)
        {
            found += _tracker.Scan(at, end, _regions, protect: true, out at);
        }

        return found;
    }

    /// <summary>The guest's pages into a buffer; each time other pages, so that they are not in the cache.</summary>
    [Benchmark]
    public void Copy() => _source.Read(Next(), _content);

    /// <summary>The look for zero pages, at its longest: only the last byte of each tells.</summary>
    [Benchmark]
    public int Encode()
    {
        int zeros = 0;
        for (int i = 0; i < Bytes; i += ProtocolLimits.PageBytes)
        {
            zeros += MemoryCopy.IsZero(_sparse.AsSpan(i, ProtocolLimits.PageBytes)) ? 1 : 0;
        }

        return zeros;
    }

    /// <summary>The hash of a frame's payload.</summary>
    [Benchmark]
    public ulong Digest() => FrameHeader.HashOf(_content);

    /// <summary>Pages into the standby's memory.</summary>
    [Benchmark]
    public void Apply() => _block.Write(Next(), _content);

    private int Next()
    {
        _at = (_at + 1) % 64;
        return (_at + 64) * Pages;
    }
}
