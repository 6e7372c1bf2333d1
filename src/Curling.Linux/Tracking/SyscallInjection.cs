using System.Diagnostics;
using System.Runtime.InteropServices;
using Curling.Linux.Processes;

namespace Curling.Linux.Tracking;

/// <summary>
/// Has another process make one system call: its main thread is stopped for a moment with ptrace, steps over a syscall
/// instruction with our arguments, and goes on exactly where it was.
/// </summary>
internal static unsafe class SyscallInjection
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(10);

    /// <summary>Makes <c>userfaultfd(flags)</c> in the process.</summary>
    /// <returns>The descriptor, a number of that process.</returns>
    /// <exception cref="TrackingUnavailableException">It is not allowed or did not work.</exception>
    public static int CreateUserfaultfd(int pid)
    {
        // ptrace ties a tracee to the OS thread that seized it, so one thread does all of it.
        int descriptor = -1;
        Exception? failed = null;
        Thread thread = new(() =>
        {
            try
            {
                descriptor = Run(pid);
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

    private static int Run(int pid)
    {
        // Safety: ptrace acts on the process named, which we started; every pointer handed over is to a local of ours.
        Check(Interop.ptrace(Interop.PtraceSeize, pid, null, null), "seize QEMU (ptrace)");
        try
        {
            Check(Interop.ptrace(Interop.PtraceInterrupt, pid, null, null), "interrupt QEMU");
            WaitStopped(pid);
            Interop.Registers saved;
            Check(Interop.ptrace(Interop.PtraceGetRegs, pid, null, &saved), "read QEMU's registers");
            Interop.Registers call = saved;
            call.Rip = FindSyscall(pid, saved.Rip);
            call.Rax = Interop.SysUserfaultfd;
            call.Rdi = Interop.OpenCloexec | Interop.OpenNonblock;
            call.OrigRax = ulong.MaxValue; // no system call is to be restarted when the registers are set
            try
            {
                Check(Interop.ptrace(Interop.PtraceSetRegs, pid, null, &call), "set QEMU's registers");
                Check(Interop.ptrace(Interop.PtraceSingleStep, pid, null, null), "step QEMU");
                WaitStopped(pid);
                Check(Interop.ptrace(Interop.PtraceGetRegs, pid, null, &call), "read QEMU's registers");
            }
            finally
            {
                Check(Interop.ptrace(Interop.PtraceSetRegs, pid, null, &saved), "restore QEMU's registers");
            }

            long result = (long)call.Rax;
            return result >= 0 ? (int)result : throw new InvalidOperationException(
                $"QEMU may not create a userfaultfd: {Marshal.GetPInvokeErrorMessage((int)-result)} (run as root, or set"
                + " vm.unprivileged_userfaultfd=1)");
        }
        finally
        {
            _ = Interop.ptrace(Interop.PtraceDetach, pid, null, null);
        }
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
