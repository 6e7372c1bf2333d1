using System.CommandLine;
using System.CommandLine.Parsing;

namespace Curling.Hosting.Options;

/// <summary>Something the person at the terminal has to know or mend; its message is all they see.</summary>
public sealed class OperatorException : Exception
{
    /// <summary>Creates the exception.</summary>
    public OperatorException(string message, int exitCode = 1)
        : base(message)
    {
        ExitCode = exitCode;
    }

    /// <summary>The program's exit code.</summary>
    public int ExitCode { get; }
}

/// <summary>Runs a command line: errors go to standard error in a sentence, never as a stack trace.</summary>
public static class CommandRunner
{
    /// <summary>The exit code for a command line that cannot be understood.</summary>
    public const int UsageError = 2;

    /// <summary>Parses and runs.</summary>
    /// <param name="root">The program's commands.</param>
    /// <param name="program">The program's name, for the hint.</param>
    /// <param name="args">What was typed.</param>
    /// <returns>The exit code.</returns>
    public static async Task<int> RunAsync(RootCommand root, string program, string[] args)
    {
        ParseResult result = root.Parse(args);
        if (result.Errors.Count > 0)
        {
            foreach (string message in result.Errors.Select(e => e.Message).Distinct())
            {
                await Console.Error.WriteLineAsync($"{program}: {message}");
            }

            await Console.Error.WriteLineAsync($"See {program} --help.");
            return UsageError;
        }

        try
        {
            return await result.InvokeAsync(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null });
        }
        catch (OperatorException e)
        {
            await Console.Error.WriteLineAsync($"{program}: {e.Message}");
            return e.ExitCode;
        }
    }
}
