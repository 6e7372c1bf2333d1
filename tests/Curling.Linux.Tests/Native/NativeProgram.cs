using System.Diagnostics;
using Curling.Linux.Processes;

namespace Curling.Linux.Tests.Native;

/// <summary>Compiles a C file of this directory, once for all tests of the process.</summary>
internal static class NativeProgram
{
    private static readonly Lock Gate = new();
    private static readonly Dictionary<string, string> Made = [];

    /// <summary>The program's path; skips the test, saying so, on a machine without a C compiler.</summary>
    public static string Compile(string name)
    {
        string? compiler = ChildProcess.Find("cc");
        Skip.If(compiler is null, "SKIPPED: there is no C compiler (cc) on this machine");
        lock (Gate)
        {
            if (Made.TryGetValue(name, out string? made))
            {
                return made;
            }

            // Not /dev/shm: programs may not run from there on many machines.
            TemporaryDirectory directory = new(Path.GetTempPath());
            AppDomain.CurrentDomain.ProcessExit += (_, _) => directory.Dispose();
            string source = Path.Combine(AppContext.BaseDirectory, "Native", name + ".c");
            string program = directory.File(name);
            using Process process = Process.Start(new ProcessStartInfo(
                compiler!, ["-Wall", "-Wextra", "-Werror", "-O1", "-pthread", source, "-o", program])
            {
                RedirectStandardError = true,
            })!;
            string errors = process.StandardError.ReadToEnd();
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, $"{source} does not compile: {errors}");
            Made[name] = program;
            return program;
        }
    }
}
