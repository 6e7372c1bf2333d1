using System.CommandLine;

namespace Curling.Hosting.Faults;

/// <summary><c>--fault</c>, which both programs have, hidden.</summary>
public sealed class FaultCommandLine
{
    private readonly Option<string[]> _faults = new("--fault")
    {
        Description = "For tests: NAME:exit[@NTH], NAME:stall[:TIME][@NTH] or NAME:error[@NTH], several times (docs/faults.md)",
        HelpName = "NAME:ACTION",
        Hidden = true,
    };

    /// <summary>Creates the option.</summary>
    public FaultCommandLine()
    {
        _faults.Validators.Add(result =>
        {
            foreach (System.CommandLine.Parsing.Token token in result.Tokens)
            {
                if (!Fault.TryParse(token.Value, out _, out string error))
                {
                    result.AddError($"--fault: {error}");
                }
            }
        });
    }

    /// <summary>Adds it to a program's.</summary>
    public void AddTo(Command command) => command.Options.Add(_faults);

    /// <summary>What was said, which is nothing as a rule.</summary>
    public IReadOnlyList<Fault> Read(ParseResult parsed)
    {
        List<Fault> faults = [];
        foreach (string text in parsed.GetValue(_faults) ?? [])
        {
            if (Fault.TryParse(text, out Fault? fault, out _))
            {
                faults.Add(fault!);
            }
        }

        return faults;
    }
}
