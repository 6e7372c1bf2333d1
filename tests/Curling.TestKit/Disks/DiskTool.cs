using System.Diagnostics;
using Curling.Linux.Processes;
using Xunit;

namespace Curling.TestKit.Disks;

/// <summary>Runs others' tools for filesystems and databases.</summary>
public static class DiskTool
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>Runs a program to its end; skips the test loudly where it is not installed.</summary>
    /// <exception cref="TimeoutException">It does not end.</exception>
    public static async Task<(int Code, string Output)> RunAsync(string program, params string[] arguments)
    {
        // These stand in /usr/sbin, which is not on everybody's PATH.
        string? path = ChildProcess.Find(program) ?? (File.Exists("/usr/sbin/" + program) ? "/usr/sbin/" + program : null);
        Skip.If(path is null, $"SKIPPED: {program} is not installed; run eng/install-deps: nothing of the disks is tested here");
        using Process process = Process.Start(new ProcessStartInfo(path!, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> error = process.StandardError.ReadToEndAsync();
        using CancellationTokenSource limit = new(Limit);
        try
        {
            await process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new TimeoutException($"{program} {string.Join(' ', arguments)} did not end");
        }

        return (process.ExitCode, (await output + await error).Trim());
    }

    /// <summary>Runs a program that must succeed.</summary>
    public static async Task<string> MustAsync(string program, params string[] arguments)
    {
        (int code, string output) = await RunAsync(program, arguments);
        return code == 0 ? output : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} ended with {code}: {output}");
    }
}
