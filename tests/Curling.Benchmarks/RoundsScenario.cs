using Curling.Qemu.Processes;

namespace Curling.Benchmarks;

/// <summary>
/// Full and incremental rounds of the same guest on real QEMU, beside the floor: stop, save and continue with nothing to
/// copy. TCG, 512 MiB, 32 MiB working set at 5,000 pages a second unless the name says otherwise. All on the host's clock.
/// </summary>
internal static class RoundsScenario
{
    /// <summary>The load of the figures that do not say otherwise.</summary>
    public const string Standard = "ws=32M rate=5000";

    private const double Mebibyte = 1 << 20;

    /// <summary>The QEMU that scenarios run.</summary>
    public static string Qemu() =>
        Environment.GetEnvironmentVariable("CURLING_QEMU_7_2") is { Length: > 0 } path ? path : QemuBinary.Find(null);

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        PairRun pair = new(Qemu(), TimeSpan.FromSeconds(quick ? 3 : 10));
        FloorFigures floor = await Floor.CutAsync(Qemu(), Standard, quick ? 120 : 400);
        report("pause.ms.p50.floor", floor.PauseMicroseconds / 1000, "");
        report("pause.heard_over_events.floor", floor.InnerOverEvents, "<= about 1");
        report("pause.sent_to_heard_over_events.floor", floor.OuterOverEvents, ">= 1");

        PairFigures usual = await pair.RunAsync(Standard, alone: true, options: ["--rounds", "incremental"]);
        PairFigures full = await pair.RunAsync(Standard, options: ["--rounds", "full"]);
        report("pause.ms.p50.incremental", usual.PauseP50 / 1000, "");
        report("pause.ms.p50.full", full.PauseP50 / 1000, "");
        report("pause.p50.incremental_over_floor", usual.PauseP50 / floor.PauseMicroseconds, "<= 1.3");
        report("pause.p99.incremental_over_floor_p50", usual.PauseP99 / floor.PauseMicroseconds, "<= 3");
        report("pause.p50.full_over_incremental", full.PauseP50 / usual.PauseP50, ">= 5");
        report("guest_throughput.kept_at_5000", usual.PagesPerSecond / usual.PagesPerSecondAlone, ">= 0.94");
        report("bytes_per_round.incremental_over_dirty", usual.MemoryBytesOverDirty, "<= 1.05");
        report("bytes_per_round.memory", usual.MemoryBytesPerRound, "");
        report("bytes_per_round.device_state", usual.StateBytesPerRound, "");
        report("allocated_bytes_per_round.sender", usual.SenderAllocatedPerRound, "<= 16384");
        report("allocated_bytes_per_round.receiver", usual.ReceiverAllocatedPerRound, "<= 16384");

        PairFigures often = await pair.RunAsync(Standard, options: ["--rounds", "incremental", "--interval", "0"]);
        PairFigures fullOften = await pair.RunAsync(Standard, options: ["--rounds", "full", "--interval", "0"]);
        report("rounds_per_second.incremental", often.RoundsPerSecond, "");
        report("rounds_per_second.incremental_over_full", often.RoundsPerSecond / fullOften.RoundsPerSecond, ">= 15");
        report("failover.ms.kill_to_running", often.FailoverMilliseconds, "");

        PairFigures fifty = await pair.RunAsync(Standard, options: ["--rounds", "incremental", "--interval", "20ms"]);
        PairFigures heavy = await pair.RunAsync("ws=128M rate=20000", options: ["--rounds", "incremental", "--interval", "20ms"]);
        report("pause.ms.p50.at_50_per_second", fifty.PauseP50 / 1000, "< 2.4");
        report("pause.ms.p50.heavy", heavy.PauseP50 / 1000, "< 3.5");
        if (quick)
        {
            return;
        }

        PairFigures unthrottled = await pair.RunAsync("ws=128M rate=0", alone: true, options: ["--rounds", "incremental"]);
        report("guest_throughput.kept_unthrottled", unthrottled.PagesPerSecond / unthrottled.PagesPerSecondAlone, ">= 0.80");
        await BaseAsync(report);
        report("scan.ms_per_gib", await Floor.ScanAsync(Qemu(), Standard), "");
        double small = await pair.FailoverAsync(Standard, "256MiB");
        double large = await pair.FailoverAsync(Standard, "4GiB");
        report("failover.ms.256MiB", small, "");
        report("failover.ms.4GiB", large, "");
        report("failover.growth_4GiB_over_256MiB", large / small, "<= 1.5");
        PairFigures used = await pair.RunAsync(Standard, memory: "4GiB", fill: true, options: ["--rounds", "incremental"]);
        report("failover.ms.4GiB_used", used.FailoverMilliseconds, "");
        PairFigures big = await pair.RunAsync(Standard, memory: "4GiB", options: ["--rounds", "incremental"]);
        foreach ((string size, PairFigures held) in (ReadOnlySpan<(string, PairFigures)>)[("512MiB", usual), ("4GiB", big)])
        {
            report($"memory.mib.sender.{size}", held.SenderOwnBytes / Mebibyte, "");
            report($"memory.mib.receiver.{size}", held.ReceiverOwnBytes / Mebibyte, "");
            report($"memory.mib.receiver_files.{size}", held.ReceiverFileBytes / Mebibyte, "");
        }
    }

    /// <summary>The first round of 424 MiB of random content beside a plain copy over loopback.</summary>
    public static async Task BaseAsync(Action<string, double, string> report)
    {
        PairRun pair = new(Qemu(), TimeSpan.Zero);
        double[] plain = new double[5];
        double[] large = new double[plain.Length];
        double[] usual = new double[plain.Length];
        for (int i = 0; i < plain.Length; i++)
        {
            // In turns: what else this host does comes and goes.
            plain[i] = await TransportScenario.PlainAsync(TimeSpan.FromSeconds(1));
            large[i] = await pair.BaseAsync(large: true);
            usual[i] = await pair.BaseAsync(large: false);
        }

        Array.Sort(plain);
        Array.Sort(large);
        Array.Sort(usual);
        double loopback = plain[plain.Length / 2];
        report("base.loopback_mib_per_second", loopback / Mebibyte, "");
        report("base.mib_per_second", usual[usual.Length / 2] / Mebibyte, "");
        report("base.throughput_over_loopback", usual[usual.Length / 2] / loopback, ">= 0.6");
        report("base.mib_per_second.large_pages", large[large.Length / 2] / Mebibyte, "");
        report("base.throughput_over_loopback.large_pages", large[large.Length / 2] / loopback, ">= 0.6");
    }
}
