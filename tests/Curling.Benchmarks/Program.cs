using System.Globalization;
using Curling.Benchmarks;
using Spectre.Console;

string[] known = ["transport", "rounds"];
bool quick = args.Contains("--quick");
bool json = args.Contains("--json");
string[] wanted = [.. args.Where(a => !a.StartsWith('-'))];
string? unknown = wanted.FirstOrDefault(w => !known.Contains(w)) ?? args.FirstOrDefault(a => a.StartsWith('-') && a is not ("--quick" or "--json"));
if (unknown is not null)
{
    await Console.Error.WriteLineAsync($"bench: {unknown} is unknown; scenarios are {string.Join(", ", known)}, options --quick and --json");
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
    await (scenario == "transport" ? TransportScenario.RunAsync(quick, Report) : RoundsScenario.RunAsync(quick, Report));
}

console.Write(table);
return 0;
