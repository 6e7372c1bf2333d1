using System.Runtime.InteropServices;

namespace Curling.Linux.Processes;

/// <summary>Waiting and killing by number. Constants are those of x86-64 Linux (wait(2), signal(7)).</summary>
internal static unsafe partial class Interop
{
    internal const int WaitPid = 1; // P_PID
    internal const int WaitNoHang = 1;
    internal const int WaitExited = 4;
    internal const int WaitNoWait = 0x1000000;
    internal const int SignalKill = 9;
    internal const int Interrupted = 4;
    internal const int NoChild = 10;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitid(int kind, int pid, void* info, int options);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitpid(int pid, int* status, int options);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int kill(int pid, int signal);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int setpriority(int which, int who, int niceness);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int link(string existing, string name);
}
