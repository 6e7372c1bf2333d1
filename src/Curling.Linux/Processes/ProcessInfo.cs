using System.Globalization;

namespace Curling.Linux.Processes;

/// <summary>What /proc says about a process. Source: linux Documentation/filesystems/proc.rst.</summary>
public static class ProcessInfo
{
    /// <summary>Whether the process exists; a zombie counts as gone.</summary>
    public static bool Exists(int pid) => Fields(pid) is { } fields && fields[0] is not ("Z" or "X");

    /// <summary>The state letter of the process's main thread, such as <c>S</c> or <c>t</c> (tracing stop); null when it is gone.</summary>
    public static string? State(int pid) => Fields(pid)?[0];

    /// <summary>The process it descends from; 0 for the first one, null when it is gone.</summary>
    public static int? Parent(int pid) =>
        Fields(pid) is { } fields && int.TryParse(fields[1], CultureInfo.InvariantCulture, out int parent) ? parent : null;

    /// <summary>When the process started, in clock ticks since boot; with the number it names a process for good.</summary>
    public static ulong? StartTime(int pid) =>
        Fields(pid) is { } fields && ulong.TryParse(fields[19], CultureInfo.InvariantCulture, out ulong ticks) ? ticks : null;

    /// <summary>Ends this process at once: nothing of it runs any more, as when it crashes.</summary>
    public static void KillSelf() => _ = Interop.kill(Environment.ProcessId, Interop.SignalKill);

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

    /// <summary>
    /// The memory that is in use by the process, in bytes: what is its own, and what it maps of shared memory files
    /// (which others may map too). Zeros when it is gone.
    /// </summary>
    public static (long AnonymousBytes, long SharedBytes) ResidentMemory(int pid)
    {
        (long Anonymous, long Shared) resident = default;
        try
        {
            foreach (string line in File.ReadLines($"/proc/{pid}/status"))
            {
                if (line.StartsWith("RssAnon:", StringComparison.Ordinal))
                {
                    resident.Anonymous = Kibibytes(line);
                }
                else if (line.StartsWith("RssShmem:", StringComparison.Ordinal))
                {
                    resident.Shared = Kibibytes(line);
                }
            }
        }
        catch (IOException)
        {
            // It is gone.
        }

        return resident;
    }

    private static long Kibibytes(string line)
    {
        ReadOnlySpan<char> value = line.AsSpan(line.IndexOf(':') + 1).Trim();
        int end = value.IndexOf(' ');
        return long.TryParse(end < 0 ? value : value[..end], CultureInfo.InvariantCulture, out long kibibytes) ? kibibytes * 1024 : 0;
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
