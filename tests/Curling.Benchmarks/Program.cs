using System.Globalization;
using Curling.Benchmarks;
using Spectre.Console;

string[] known = ["transport", "rounds", "base", "compress", "net", "disk", "growth", "pieces"];
bool quick = args.Contains("--quick");
bool json = args.Contains("--json");
int plotsAt = Array.IndexOf(args, "--plots");
string? plots = plotsAt >= 0 && plotsAt + 1 < args.Length ? args[plotsAt + 1] : null;
string[] rest = plots is null ? args : [.. args[..plotsAt], .. args[(plotsAt + 2)..]];
string[] wanted = [.. rest.Where(a => !a.StartsWith('-'))];
string? unknown = wanted.FirstOrDefault(w => !known.Contains(w)) ?? rest.FirstOrDefault(a => a.StartsWith('-') && a is not ("--quick" or "--json"));
if (unknown is not null)
{
    await Console.Error.WriteLineAsync($"bench: {unknown} is unknown; scenarios are {string.Join(", ", known)}, options --quick, --json and --plots DIRECTORY");
    return 2;
}

IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(json ? Console.Error : Console.Out) });
Table table = new Table().AddColumns("figure", "value", "should be");
void Report(string name, double value, string bar)
{
    if (json)
    {
        Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{{\"name\":\"{name}\",\"value\":{value:0.####}}}"));
    }

    table.AddRow(name, string.Create(CultureInfo.InvariantCulture, $"{value:0.###}"), bar);
}

foreach (string scenario in wanted.Length > 0 ? wanted : known)
{
    await (scenario switch
    {
        "transport" => TransportScenario.RunAsync(quick, Report),
        "base" => RoundsScenario.BaseAsync(Report),
        "compress" => CompressScenario.RunAsync(quick, Report),
        "net" => NetScenario.RunAsync(quick, Report),
        "disk" => DiskScenario.RunAsync(quick, Report),
        "growth" => GrowthScenario.RunAsync(quick, plots ?? Path.Combine(Path.GetTempPath(), "curling-plots"), Report),
        "pieces" => Task.Run(() => PiecesScenario.Run(quick, Report)),
        _ => RoundsScenario.RunAsync(quick, Report),
    });
}

console.Write(table);
return 0;
