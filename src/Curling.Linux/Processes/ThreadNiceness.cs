using System.Globalization;

namespace Curling.Linux.Processes;

/// <summary>
/// Lets threads that a guest waits for run before others. Niceness is a thread's own on Linux; raising it needs CAP_SYS_NICE,
/// and whoever has it not goes on as before.
/// </summary>
public static class ThreadNiceness
{
    // Before ordinary work, behind what the operator or the kernel puts first.
    private const int Urgent = -10;
    private const int PrioProcess = 0;

    /// <summary>Puts the calling thread before others; false when that is not allowed.</summary>
    public static bool TryRaiseCurrent() => Interop.setpriority(PrioProcess, 0, Urgent) == 0;

    /// <summary>Puts threads of a process before others; those it starts afterwards from them inherit it.</summary>
    /// <param name="pid">The process.</param>
    /// <param name="wanted">Which threads, by number and name (at most 15 characters, see <c>comm</c> in proc(5)).</param>
    /// <returns>How many were raised.</returns>
    public static int Raise(int pid, Func<int, string, bool> wanted)
    {
        int raised = 0;
        try
        {
            foreach (string task in Directory.EnumerateDirectories($"/proc/{pid}/task"))
            {
                int thread = int.Parse(Path.GetFileName(task), CultureInfo.InvariantCulture);
                string name = File.ReadAllText(Path.Combine(task, "comm")).TrimEnd();
                if (wanted(thread, name) && Interop.setpriority(PrioProcess, thread, Urgent) == 0)
                {
                    raised++;
                }
            }
        }
        catch (IOException)
        {
            // A thread ended while it was looked at, or the process did.
        }

        return raised;
    }
}
