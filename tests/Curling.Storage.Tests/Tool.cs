using Curling.Linux.Processes;

namespace Curling.Storage.Tests;

/// <summary>Others' programs, which say whether Curling's export is one.</summary>
internal static class Tool
{
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>Skips the test, saying so, where a program is missing.</summary>
    public static void Require(params string[] programs)
    {
        foreach (string program in programs)
        {
            Skip.If(ChildProcess.Find(program) is null, $"SKIPPED: {program} is not installed; run eng/install-deps test");
        }
    }

    /// <summary>Runs a program to its end.</summary>
    /// <returns>Its exit code and what it printed, the last 4 KiB of it.</returns>
    public static async Task<(int Code, string Output)> TryRunAsync(string program, params string[] arguments)
    {
        await using ChildProcess process = ChildProcess.Start(new ChildProcessOptions(program, arguments));
        int code = await process.WaitAsync(Limit, CancellationToken.None);
        return (code, process.ErrorTail);
    }

    /// <summary>Runs a program that must succeed.</summary>
    public static async Task<string> RunAsync(string program, params string[] arguments)
    {
        (int code, string output) = await TryRunAsync(program, arguments);
        Assert.True(code == 0, $"{program} {string.Join(' ', arguments)} ended with {code}: {output}");
        return output;
    }
}
