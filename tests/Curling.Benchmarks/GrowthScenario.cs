using System.Globalization;
using OxyPlot;
using OxyPlot.Axes;
using OxyPlot.Legends;
using OxyPlot.Series;

namespace Curling.Benchmarks;

/// <summary>
/// How pause and size of a round grow with the guest's memory and with what it dirties, full and incremental rounds of the same
/// guest; drawn as SVG files.
/// </summary>
internal static class GrowthScenario
{
    private const double Mebibyte = 1 << 20;
    private const string Used = "incremental, all memory used";

    /// <summary>Measures and draws into a directory.</summary>
    public static async Task RunAsync(bool quick, string plots, Action<string, double, string> report)
    {
        PairRun pair = new(RoundsScenario.Qemu(), TimeSpan.FromSeconds(quick ? 2 : 5));
        Directory.CreateDirectory(plots);
        int[] sizes = quick ? [256, 1024] : [256, 512, 1024, 2048, 4096];
        await DrawAsync(
            pair, plots, "ram", "guest memory, MiB", sizes, size => (RoundsScenario.Standard, $"{size}MiB"), report);
        int[] rates = quick ? [1000, 10000] : [1000, 2500, 5000, 10000, 20000, 40000];
        await DrawAsync(
            pair, plots, "rate", "pages the guest dirties a second (of 128 MiB)", rates, rate => ($"ws=128M rate={rate}", "512MiB"), report);
    }

    private static async Task DrawAsync(
        PairRun pair, string plots, string by, string axis, int[] steps, Func<int, (string Append, string Memory)> guest,
        Action<string, double, string> report)
    {
        PlotModel pauses = Model("Median pause, ms", axis);
        PlotModel sizes = Model("Bytes of a round, MiB", axis);
        string[] kinds = by == "ram" ? ["full", "incremental", Used] : ["full", "incremental"];
        foreach (string kind in kinds)
        {
            LineSeries pause = Line(kind);
            LineSeries size = Line(kind);
            string rounds = kind == Used ? "incremental" : kind;
            foreach (int step in steps)
            {
                (string append, string memory) = guest(step);
                PairFigures figures = await pair.RunAsync(
                    append, memory: memory, fill: kind == Used, options: ["--rounds", rounds]);
                double milliseconds = figures.PauseP50 / 1000;
                double mebibytes = (figures.MemoryBytesPerRound + figures.StateBytesPerRound) / Mebibyte;
                pause.Points.Add(new DataPoint(step, milliseconds));
                size.Points.Add(new DataPoint(step, mebibytes));
                string at = string.Create(CultureInfo.InvariantCulture, $"{by}.{step}.{(kind == Used ? "incremental_used" : kind)}");
                report($"growth.pause.ms.p50.by_{at}", milliseconds, "");
                report($"growth.round.mib.by_{at}", mebibytes, "");
            }

            pauses.Series.Add(pause);
            sizes.Series.Add(size);
        }

        Save(pauses, Path.Combine(plots, $"pause-by-{by}.svg"));
        Save(sizes, Path.Combine(plots, $"round-size-by-{by}.svg"));
    }

    private static PlotModel Model(string title, string axis)
    {
        PlotModel model = new() { Title = title, TitleFontSize = 14, Background = OxyColors.White };
        model.Axes.Add(new LogarithmicAxis { Position = AxisPosition.Bottom, Title = axis, Base = 2, MajorGridlineStyle = LineStyle.Dot });
        model.Axes.Add(new LogarithmicAxis { Position = AxisPosition.Left, MajorGridlineStyle = LineStyle.Dot });
        model.Legends.Add(new Legend { LegendPosition = LegendPosition.TopLeft });
        return model;
    }

    private static LineSeries Line(string title) => new() { Title = title, MarkerType = MarkerType.Circle, MarkerSize = 3 };

    private static void Save(PlotModel model, string path)
    {
        using FileStream file = File.Create(path);
        new SvgExporter { Width = 640, Height = 400 }.Export(model, file);
    }
}
