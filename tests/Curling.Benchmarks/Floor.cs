using System.Diagnostics;
using Curling.Hosting.Instances;
using Curling.Hosting.Time;
using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Qemu.Guests;
using Curling.Qemu.Memory;
using Curling.Qemu.Processes;
using Curling.TestKit.Guests;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Benchmarks;

/// <summary>What a cut with nothing to copy takes.</summary>
/// <param name="PauseMicroseconds">The median of stop to resume, QEMU's own stamps.</param>
/// <param name="InnerOverEvents">From when the stop was heard here to when the resume was, over QEMU's own: at most about 1.</param>
/// <param name="OuterOverEvents">From when stop was sent to when the resume was heard, over QEMU's own: at least 1.</param>
internal sealed record FloorFigures(double PauseMicroseconds, double InnerOverEvents, double OuterOverEvents);

/// <summary>What a guest of its own, without daemons, shows: the floor under every pause, and the cost of a scan.</summary>
internal static class Floor
{
    /// <summary>Stops, saves and continues with nothing to copy.</summary>
    public static Task<FloorFigures> CutAsync(string qemu, string append, int cuts) => WithGuestAsync(qemu, "512MiB", append, (process, _, device) =>
    {
        TimeSpan limit = TimeSpan.FromSeconds(10);
        List<double> events = [];
        List<double> inner = [];
        List<double> outer = [];
        for (int i = 0; i < cuts; i++)
        {
            long sent = Stopwatch.GetTimestamp();
            process.Cut.StopAndSave(device, limit);
            process.Cut.Continue(limit);
            events.Add(process.Cut.QemuResumeMicros - process.Cut.QemuStopMicros);
            outer.Add(Stopwatch.GetElapsedTime(sent, process.Cut.ResumedAt).TotalMicroseconds);
            inner.Add(Stopwatch.GetElapsedTime(process.Cut.StoppedAt, process.Cut.ResumedAt).TotalMicroseconds);

            // The rest that rounds have too: after a longer one QEMU's caches are colder and a cut takes longer.
            Thread.Sleep(25);
        }

        return Task.FromResult(new FloorFigures(Median(events), Median(inner) / Median(events), Median(outer) / Median(events)));
    });

    /// <summary>Milliseconds that a scan of a GiB takes while the guest runs; the median of 50 scans of 4 GiB.</summary>
    public static Task<double> ScanAsync(string qemu, string append) => WithGuestAsync(qemu, "4GiB", append, async (process, memory, device) =>
    {
        (_, IReadOnlyList<RamBlock> located) = await RamBlocks.LocateAsync(process.Qmp, process.Pid, memory.Path, CancellationToken.None);
        RamBlock ram = located.Single(b => b.Name == RamBlock.Ram);
        using DirtyTracker tracker = DirtyTracker.Attach(process.Pid);
        tracker.Register(ram.Address, (ulong)memory.Length);
        PageRegion[] regions = new PageRegion[4096];
        List<double> times = [];
        for (int i = 0; i < 51; i++)
        {
            long start = Stopwatch.GetTimestamp();
            ulong end = ram.Address + (ulong)memory.Length;
            for (ulong at = ram.Address; at < end;)
            {
                tracker.Scan(at, end, regions, protect: true, out at);
            }

            times.Add(Stopwatch.GetElapsedTime(start).TotalMilliseconds / 4);
            await Task.Delay(20);
        }

        // The first one protects every page.
        return Median(times[1..]);
    });

    private static double Median(List<double> values)
    {
        values.Sort();
        return values[values.Count / 2];
    }

    /// <summary>Starts a guest with its memory in a file, gives it a second, measures, ends it.</summary>
    public static async Task<T> WithGuestAsync<T>(
        string qemu, string bytes, string append, Func<QemuProcess, SharedMapping, string, Task<T>> measure)
    {
        DirectoryInfo directory = Directory.CreateTempSubdirectory("cb");
        string files = MemoryPlace.In(place => Directory.CreateDirectory(Path.Combine(place, directory.Name))).FullName;
        try
        {
            GuestDefinition guest = GuestDefinitionReader.Load(TestGuests.WriteBuiltin(directory.FullName, "floor", memory: bytes, append: append));
            using SharedMapping memory = SharedMapping.Create(Path.Combine(files, "ram"), guest.MemoryBytes);
            QemuFacts facts = await QemuBinary.ProbeAsync(qemu, directory.FullName, CancellationToken.None);
            QemuLaunch launch = new()
            {
                Binary = qemu,
                Definition = guest,
                MachineType = facts.ResolveMachine("q35"),
                Accelerator = "tcg",
                Directory = directory.FullName,
                MemoryPath = memory.Path,
            };
            await using QemuProcess process = await QemuProcess.StartAsync(launch, NullLogger.Instance, CancellationToken.None);
            await Task.Delay(1000);
            return await measure(process, memory, Path.Combine(files, "device"));
        }
        finally
        {
            directory.Delete(recursive: true);
            Directory.Delete(files, recursive: true);
            MemoryPlace.UnmountIfEmpty();
        }
    }
}
