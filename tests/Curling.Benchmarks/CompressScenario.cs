namespace Curling.Benchmarks;

/// <summary>What each way of making pages smaller brings on a fast and on slow links, and whether auto finds the best.</summary>
internal static class CompressScenario
{
    private static readonly string[] Ways = ["none", "lz4", "zstd", "auto"];

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        PairRun pair = new(RoundsScenario.Qemu(), TimeSpan.FromSeconds(quick ? 2 : 6));
        foreach (string link in quick ? ["max", "100Mbit/s"] : (string[])["max", "1Gbit/s", "100Mbit/s"])
        {
            Dictionary<string, double> rounds = [];
            foreach (string way in Ways)
            {
                PairFigures figures = await pair.RunAsync(
                    "ws=32M rate=20000",
                    options: ["--rounds", "incremental", "--interval", "0", "--bandwidth", link, "--compress", way]);
                rounds[way] = figures.RoundsPerSecond;
                string name = $"compress.{link.Replace("/s", "", StringComparison.Ordinal).ToLowerInvariant()}.{way}";
                report($"{name}.rounds_per_second", figures.RoundsPerSecond, "");
                report($"{name}.bytes_over_captured", figures.EncodedOverCaptured, "");
                report($"{name}.pause.ms.p50", figures.PauseP50 / 1000, "");
            }

            report(
                $"compress.{link.Replace("/s", "", StringComparison.Ordinal).ToLowerInvariant()}.auto_over_best",
                rounds["auto"] / rounds.Values.Max(),
                "about 1");
        }
    }
}
