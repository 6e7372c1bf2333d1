using System.Runtime.InteropServices;

namespace Curling.Linux.Processes;

/// <summary>
/// Knows whether a child has really ended. The runtime takes a tracing stop for the end of a child: waitpid reports one to
/// whoever traces, asked or not, and the runtime asks at every SIGCHLD. It then forgets a child that lives, reports its end, and
/// kills it no more; a guest would run on that its sender believes dead. When such a child ends at last and nobody reaps it, the
/// runtime's signal thread spins over the zombie for ever. So its word is checked here, and what it forgot is reaped.
/// </summary>
/// <remarks>Thread-safe. The number is only used while the child is not reaped, so it is never somebody else's.</remarks>
internal sealed unsafe class ChildReaper(int pid)
{
    private readonly Lock _lock = new();
    private bool _forgotten;
    private bool _killed;
    private bool _reaped;

    /// <summary>
    /// To be called when the runtime says that the child has ended, never before: a runtime that finds a child of its own reaped
    /// by somebody else ends the process. Comes back when the child has ended. Blocks only if the runtime was wrong.
    /// </summary>
    /// <returns>The exit code as a shell has it, or null when the runtime reaped the child and knows it.</returns>
    public int? WaitForEnd()
    {
        lock (_lock)
        {
            // From here on the child is ours to reap, or it is gone already.
            _forgotten = true;
            if (TryReap(out int? code))
            {
                return code;
            }

            if (_killed)
            {
                _ = Interop.kill(pid, Interop.SignalKill);
            }
        }

        // siginfo_t is 128 bytes long.
        byte* info = stackalloc byte[128];
        while (true)
        {
            // Safety: the kernel fills at most the 128 bytes. It leaves the child a zombie: reaped under the lock, its number
            // cannot become another process's between Kill's look and its signal. A tracing stop comes back from here as well.
            int result = Interop.waitid(Interop.WaitPid, pid, info, Interop.WaitExited | Interop.WaitNoWait);
            int error = result < 0 ? Marshal.GetLastPInvokeError() : 0;
            lock (_lock)
            {
                if (error != Interop.Interrupted && TryReap(out int? code))
                {
                    return code;
                }
            }

            Thread.Sleep(1);
        }
    }

    /// <summary>Kills a child that the runtime has forgotten, now or as soon as that is known.</summary>
    public void Kill()
    {
        lock (_lock)
        {
            _killed = true;
            if (_forgotten && !_reaped)
            {
                _ = Interop.kill(pid, Interop.SignalKill);
            }
        }
    }

    private bool TryReap(out int? code)
    {
        code = null;
        int status = 0;

        // Safety: the status is a local. The child is ours alone: the runtime waits for it no more.
        int got = Interop.waitpid(pid, &status, Interop.WaitNoHang);
        if (got < 0)
        {
            _reaped = Marshal.GetLastPInvokeError() == Interop.NoChild;
            return _reaped;
        }

        // The low seven bits: 0 an exit, 0x7F a stop, else the signal that ended it.
        int signal = status & 0x7F;
        if (got == 0 || signal == 0x7F)
        {
            return false;
        }

        _reaped = true;
        code = signal == 0 ? (status >> 8) & 0xFF : 128 + signal;
        return true;
    }
}
