using System.Globalization;

namespace Curling.Linux.Processes;

/// <summary>What /proc says about a process. Source: linux Documentation/filesystems/proc.rst.</summary>
public static class ProcessInfo
{
    /// <summary>Whether the process exists; a zombie counts as gone.</summary>
    public static bool Exists(int pid) => Fields(pid) is { } fields && fields[0] is not ("Z" or "X");

    /// <summary>The state letter of the process's main thread, such as <c>S</c> or <c>t</c> (tracing stop); null when it is gone.</summary>
    public static string? State(int pid) => Fields(pid)?[0];

    /// <summary>When the process started, in clock ticks since boot; with the number it names a process for good.</summary>
    public static ulong? StartTime(int pid) =>
        Fields(pid) is { } fields && ulong.TryParse(fields[19], CultureInfo.InvariantCulture, out ulong ticks) ? ticks : null;

    /// <summary>The command line, arguments separated by spaces; null when the process is gone.</summary>
    public static string? CommandLine(int pid)
    {
        try
        {
            return File.ReadAllText($"/proc/{pid}/cmdline").Replace('\0', ' ').Trim();
        }
        catch (IOException)
        {
            return null;
        }
    }

    // The fields from the third on: the second, the program's name, may itself hold spaces and brackets.
    private static string[]? Fields(int pid)
    {
        try
        {
            string stat = File.ReadAllText($"/proc/{pid}/stat");
            string[] fields = stat[(stat.LastIndexOf(')') + 2)..].Split(' ');
            return fields.Length >= 20 ? fields : null;
        }
        catch (IOException)
        {
            return null;
        }
        catch (UnauthorizedAccessException)
        {
            return null;
        }
    }
}
