using System.Diagnostics;
using System.Runtime.InteropServices;
using Curling.Linux.Processes;

namespace Curling.Linux.Tracking;

/// <summary>
/// Has another process make a userfaultfd: its main thread is stopped for a moment with ptrace, steps over a syscall
/// instruction with our arguments, and goes on exactly where it was, with every signal that came in meanwhile.
/// </summary>
internal static unsafe class SyscallInjection
{
    private const int MaxSignals = 1000;
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(10);

    /// <summary>
    /// Makes <c>userfaultfd(flags)</c> in the process, has <paramref name="fetch"/> bring the descriptor over, and closes it in
    /// the process: ours is the only one then, so the kernel lifts the protection when we close it or die.
    /// </summary>
    /// <param name="pid">The process.</param>
    /// <param name="fetch">Gets the descriptor's number in that process while it stands still; gives ours back.</param>
    /// <returns>What <paramref name="fetch"/> returned.</returns>
    /// <exception cref="TrackingUnavailableException">It is not allowed or did not work.</exception>
    public static int CreateUserfaultfd(int pid, Func<int, int> fetch)
    {
        // ptrace ties a tracee to the OS thread that seized it, so one thread does all of it.
        int descriptor = -1;
        Exception? failed = null;
        Thread thread = new(() =>
        {
            try
            {
                descriptor = Run(pid, fetch);
            }
            catch (Exception e)
            {
                failed = e;
            }
        })
        {
            IsBackground = true,
            Name = "ptrace",
        };
        thread.Start();
        thread.Join();
        return failed is null ? descriptor : throw new TrackingUnavailableException(failed.Message);
    }

    private static int Run(int pid, Func<int, int> fetch)
    {
        // Safety: ptrace acts on the process named, which we started; every pointer handed over is to a local of ours.
        Check(Interop.ptrace(Interop.PtraceSeize, pid, null, null), "seize QEMU (ptrace)");
        int toDeliver = 0;
        try
        {
            Interrupt(pid);
            Interop.Registers saved;
            ulong savedMask;
            Check(Interop.ptrace(Interop.PtraceGetRegs, pid, null, &saved), "read QEMU's registers");
            Check(Interop.ptrace(Interop.PtraceGetSigMask, pid, (void*)sizeof(ulong), &savedMask), "read QEMU's signal mask");
            try
            {
                // A signal that comes in now would stop the thread instead of the step; it waits until the mask is restored.
                ulong mask = ~(1UL << (Interop.SignalTrap - 1));
                Check(Interop.ptrace(Interop.PtraceSetSigMask, pid, (void*)sizeof(ulong), &mask), "set QEMU's signal mask");
                Interop.Registers call = saved;
                call.Rip = FindSyscall(pid, saved.Rip);
                long remote = Call(pid, call, Interop.SysUserfaultfd, Interop.OpenCloexec | Interop.OpenNonblock, ref toDeliver);
                if (remote < 0)
                {
                    throw new InvalidOperationException(
                        $"QEMU may not create a userfaultfd: {Marshal.GetPInvokeErrorMessage((int)-remote)} (run as root, or set"
                        + " vm.unprivileged_userfaultfd=1)");
                }

                try
                {
                    return fetch((int)remote);
                }
                finally
                {
                    _ = Call(pid, call, Interop.SysClose, (ulong)remote, ref toDeliver);
                }
            }
            finally
            {
                Check(Interop.ptrace(Interop.PtraceSetSigMask, pid, (void*)sizeof(ulong), &savedMask), "restore QEMU's signal mask");
                Check(Interop.ptrace(Interop.PtraceSetRegs, pid, null, &saved), "restore QEMU's registers");
            }
        }
        finally
        {
            _ = Interop.ptrace(Interop.PtraceDetach, pid, null, (void*)toDeliver);
        }
    }

    /// <summary>Stops the process's main thread where no signal is half delivered.</summary>
    private static void Interrupt(int pid)
    {
        Check(Interop.ptrace(Interop.PtraceInterrupt, pid, null, null), "interrupt QEMU");
        for (int i = 0; i < MaxSignals; i++)
        {
            WaitStopped(pid);
            Interop.SignalInfo info = StopReason(pid);
            if (info.Code >> 8 == Interop.PtraceEventStop)
            {
                return;
            }

            // A signal was on its way to the thread before our interrupt: it is delivered, and our stop comes after it.
            Check(Interop.ptrace(Interop.PtraceCont, pid, null, (void*)info.Signal), "let QEMU go on");
        }

        throw new InvalidOperationException("QEMU gets signals faster than it can be stopped");
    }

    /// <summary>Has the stopped thread make one system call; what it returned, negative for an error number.</summary>
    private static long Call(int pid, Interop.Registers registers, ulong number, ulong argument, ref int toDeliver)
    {
        ulong after = registers.Rip + 2;
        registers.Rax = number;
        registers.Rdi = argument;
        registers.OrigRax = ulong.MaxValue; // no system call is to be restarted when the registers are set
        Check(Interop.ptrace(Interop.PtraceSetRegs, pid, null, &registers), "set QEMU's registers");
        for (int i = 0; i < MaxSignals; i++)
        {
            Check(Interop.ptrace(Interop.PtraceSingleStep, pid, null, null), "step QEMU");
            WaitStopped(pid);
            Check(Interop.ptrace(Interop.PtraceGetRegs, pid, null, &registers), "read QEMU's registers");
            if (registers.Rip == after)
            {
                return (long)registers.Rax;
            }

            // Not the step but a signal that no mask holds back (SIGSTOP): QEMU gets it when it is let go.
            Interop.SignalInfo info = StopReason(pid);
            if (info.Code >> 8 != Interop.PtraceEventStop)
            {
                toDeliver = info.Signal;
            }
        }

        throw new InvalidOperationException("QEMU did not make the system call it was to make");
    }

    private static Interop.SignalInfo StopReason(int pid)
    {
        Interop.SignalInfo info;
        Check(Interop.ptrace(Interop.PtraceGetSigInfo, pid, null, &info), "ask why QEMU stopped");
        return info;
    }

    /// <summary>
    /// Waits for the tracing stop by looking at the process's state. waitpid would tell as well, but the runtime waits for
    /// this child too, and whoever asks first takes the news.
    /// </summary>
    private static void WaitStopped(int pid)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            string? state = ProcessInfo.State(pid);
            if (state == "t")
            {
                return;
            }

            if (state is null or "Z" or "X")
            {
                throw new InvalidOperationException("QEMU ended while it was being attached to");
            }

            if (Stopwatch.GetElapsedTime(start) > Limit)
            {
                throw new InvalidOperationException($"QEMU did not stop within {Limit.TotalSeconds:F0} s");
            }

            if (Stopwatch.GetElapsedTime(start) > TimeSpan.FromMilliseconds(2))
            {
                Thread.Sleep(1);
            }
        }
    }

    /// <summary>A syscall instruction: usually the one the thread waits in, else one in libc.</summary>
    private static ulong FindSyscall(int pid, ulong rip)
    {
        Span<byte> two = stackalloc byte[2];
        ProcessMemory.Read(pid, rip - 2, two);
        if (two[0] == 0x0F && two[1] == 0x05)
        {
            return rip - 2;
        }

        MapEntry libc = ProcessMaps.Read(pid).FirstOrDefault(
            m => m.Permissions.Contains('x') && Path.GetFileName(m.Path).StartsWith("libc", StringComparison.Ordinal));
        if (libc.End > libc.Start)
        {
            byte[] code = new byte[(int)Math.Min(libc.End - libc.Start, 4 << 20)];
            ProcessMemory.Read(pid, libc.Start, code);
            int at = code.AsSpan().IndexOf((ReadOnlySpan<byte>)[0x0F, 0x05]);
            if (at >= 0)
            {
                return libc.Start + (ulong)at;
            }
        }

        throw new InvalidOperationException("no syscall instruction was found in QEMU");
    }

    private static void Check(long result, string what)
    {
        if (result < 0)
        {
            throw new InvalidOperationException(
                $"cannot {what}: {Interop.Error()} (the daemon must be root or QEMU's parent, and kernel.yama.ptrace_scope at most 1)");
        }
    }
}
