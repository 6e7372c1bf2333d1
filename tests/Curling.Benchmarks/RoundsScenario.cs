using System.Diagnostics;
using Curling.Hosting.Control;
using Curling.Hosting.Time;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit.Abstractions;

namespace Curling.Benchmarks;

/// <summary>
/// Full and incremental rounds of the same guest on real QEMU, beside the floor: stop, save and continue with nothing to
/// copy. TCG, 512 MiB, 32 MiB working set at 5,000 pages a second unless the name says otherwise. All on the host's clock.
/// </summary>
internal static class RoundsScenario
{
    private const string Standard = "ws=32M rate=5000";

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        TimeSpan window = TimeSpan.FromSeconds(quick ? 3 : 10);
        string qemu = Environment.GetEnvironmentVariable("CURLING_QEMU_7_2") is { Length: > 0 } path ? path : QemuBinary.Find(null);
        double floor = await FloorAsync(qemu, quick ? 150 : 400);
        report("pause.ms.p50.floor", floor / 1000, "");

        double alone = await UnprotectedAsync(qemu, Standard, window);
        Figures usual = await PairAsync(qemu, Standard, window, "--rounds", "incremental");
        Figures full = await PairAsync(qemu, Standard, window, "--rounds", "full");
        report("pause.ms.p50.incremental", usual.P50 / 1000, "");
        report("pause.ms.p50.full", full.P50 / 1000, "");
        report("pause.p50.incremental_over_floor", usual.P50 / floor, "<= 1.3");
        report("pause.p99.incremental_over_floor_p50", usual.P99 / floor, "<= 3");
        report("pause.p50.full_over_incremental", full.P50 / usual.P50, ">= 5");
        report("guest_throughput.kept_at_5000", usual.PagesPerSecond / alone, ">= 0.94");
        report("failover.ms.kill_to_running", usual.FailoverMilliseconds, "");

        Figures often = await PairAsync(qemu, Standard, window, "--rounds", "incremental", "--interval", "0");
        Figures fullOften = await PairAsync(qemu, Standard, window, "--rounds", "full", "--interval", "0");
        report("rounds_per_second.incremental", often.RoundsPerSecond, "");
        report("rounds_per_second.incremental_over_full", often.RoundsPerSecond / fullOften.RoundsPerSecond, ">= 15");

        Figures fifty = await PairAsync(qemu, Standard, window, "--rounds", "incremental", "--interval", "20ms");
        Figures heavy = await PairAsync(qemu, "ws=128M rate=20000", window, "--rounds", "incremental", "--interval", "20ms");
        report("pause.ms.p50.at_50_per_second", fifty.P50 / 1000, "< 2.4");
        report("pause.ms.p50.heavy", heavy.P50 / 1000, "< 3.5");
        if (quick)
        {
            return;
        }

        double flatOut = await UnprotectedAsync(qemu, "ws=128M rate=0", window);
        Figures unthrottled = await PairAsync(qemu, "ws=128M rate=0", window, "--rounds", "incremental");
        report("guest_throughput.kept_unthrottled", unthrottled.PagesPerSecond / flatOut, ">= 0.80");
        double small = await FailoverAsync(qemu, "256MiB");
        double large = await FailoverAsync(qemu, "4GiB");
        report("failover.ms.256MiB", small, "");
        report("failover.ms.4GiB", large, "");
        report("failover.growth_4GiB_over_256MiB", large / small, "<= 1.5");
    }

    /// <summary>The median of stop to resume, in QEMU's own stamps, with nothing to copy.</summary>
    private static async Task<double> FloorAsync(string qemu, int cuts)
    {
        await using Lab lab = new(new Silence(), qemu);
        GuestDefinition guest = GuestDefinitionReader.Load(TestGuests.WriteBuiltin(lab.Directory, "floor", memory: "512MiB", append: Standard));
        string ram = Path.Combine(lab.Memory, "ram");
        using Linux.Memory.SharedMapping memory = Linux.Memory.SharedMapping.Create(ram, guest.MemoryBytes);
        QemuFacts facts = await QemuBinary.ProbeAsync(qemu, lab.Runtime, CancellationToken.None);
        string device = Path.Combine(lab.Memory, "device");
        Percentiles pauses = new();
        await using (QemuProcess process = await QemuProcess.StartAsync(
            new QemuLaunch
            {
                Binary = qemu,
                Definition = guest,
                MachineType = facts.ResolveMachine("q35"),
                Accelerator = "tcg",
                Directory = lab.Runtime,
                MemoryPath = ram,
            },
            NullLogger.Instance,
            CancellationToken.None))
        {
            TimeSpan limit = TimeSpan.FromSeconds(10);
            await Task.Delay(1000);
            for (int i = 0; i < cuts; i++)
            {
                process.Cut.StopAndSave(device, limit);
                process.Cut.Continue(limit);
                pauses.Add(process.Cut.QemuResumeMicros - process.Cut.QemuStopMicros);

                // The rest that rounds have too: after a longer one QEMU's caches are colder and a cut takes longer.
                Thread.Sleep(25);
            }
        }

        File.Delete(device);
        File.Delete(ram);
        foreach (string file in Directory.GetFiles(lab.Runtime))
        {
            File.Delete(file);
        }

        return pauses.At(0.5);
    }

    /// <summary>Pages the guest dirties a second with nobody protecting it.</summary>
    private static async Task<double> UnprotectedAsync(string qemu, string append, TimeSpan window)
    {
        await using Lab lab = new(new Silence(), qemu);
        Sender sender = lab.StartSender(
            "tcp:127.0.0.1:1", TestGuests.WriteBuiltin(lab.Directory, "alone", memory: "512MiB", append: append), "--rounds", "full");
        await sender.UntilLogAsync("started,");
        await Task.Delay(1000);
        return await PagesPerSecondAsync(lab, window);
    }

    private static async Task<Figures> PairAsync(string qemu, string append, TimeSpan window, params string[] options)
    {
        await using Lab lab = new(new Silence(), qemu);
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(
            receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "guest", memory: "512MiB", append: append), options);
        await sender.UntilProtectedAsync();
        await Task.Delay(1000);
        long before = (await sender.StatusAsync()).CommittedRound;
        long start = Stopwatch.GetTimestamp();
        double pages = await PagesPerSecondAsync(lab, window);
        SenderStatus status = await sender.StatusAsync();
        double rounds = (status.CommittedRound - before) / Stopwatch.GetElapsedTime(start).TotalSeconds;
        double failover = await KillAsync(receiver, sender);
        await lab.ClearAwayAsync();
        return new Figures(status.PauseMicroseconds.P50, status.PauseMicroseconds.P99, rounds, pages, failover);
    }

    private static async Task<double> FailoverAsync(string qemu, string memory)
    {
        List<double> times = [];
        for (int i = 0; i < 3; i++)
        {
            await using Lab lab = new(new Silence(), qemu);
            Receiver receiver = await lab.StartReceiverAsync();
            Sender sender = lab.StartSender(
                receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "guest", memory: memory, append: Standard), "--rounds", "incremental");
            await sender.UntilProtectedAsync();
            await Task.Delay(2000);
            times.Add(await KillAsync(receiver, sender));
            await lab.ClearAwayAsync();
        }

        times.Sort();
        return times[1];
    }

    /// <summary>Milliseconds from SIGKILL until the receiver says that the guest runs.</summary>
    private static async Task<double> KillAsync(Receiver receiver, Sender sender)
    {
        long start = Stopwatch.GetTimestamp();
        sender.Kill();
        while (!receiver.Log.Any(l => l.Contains("PROMOTED:")))
        {
            await Task.Delay(1);
            if (Stopwatch.GetElapsedTime(start) > Daemon.Limit)
            {
                throw new TimeoutException("the standby was not promoted");
            }
        }

        return Stopwatch.GetElapsedTime(start).TotalMilliseconds;
    }

    /// <summary>The guest's own count of pages, read out of its memory from outside, over the host's clock.</summary>
    private static async Task<double> PagesPerSecondAsync(Lab lab, TimeSpan window)
    {
        string ram = Directory.GetFiles(lab.Memory, "ram", SearchOption.AllDirectories).Single(p => p.Contains("curling-send"));
        long start = Stopwatch.GetTimestamp();
        ulong before = ReadPages(ram);
        await Task.Delay(window);
        return (ReadPages(ram) - before) / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    private static ulong ReadPages(string ram)
    {
        using FileStream stream = File.OpenRead(ram);
        stream.Seek(BuiltinGuestImage.HeaderAddress + BuiltinGuestImage.HeaderPagesOffset, SeekOrigin.Begin);
        byte[] count = new byte[8];
        stream.ReadExactly(count);
        return BitConverter.ToUInt64(count);
    }

    private sealed record Figures(double P50, double P99, double RoundsPerSecond, double PagesPerSecond, double FailoverMilliseconds);

    private sealed class Silence : ITestOutputHelper
    {
        public void WriteLine(string message)
        {
        }

        public void WriteLine(string format, params object[] args)
        {
        }
    }
}
