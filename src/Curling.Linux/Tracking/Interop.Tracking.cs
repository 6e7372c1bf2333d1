using System.Runtime.InteropServices;

namespace Curling.Linux.Tracking;

/// <summary>
/// ptrace, pidfd, userfaultfd, PAGEMAP_SCAN and process memory. Sources: linux include/uapi/linux/{ptrace,userfaultfd,fs}.h,
/// Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst; x86-64. A test holds constants and layouts against compiled C.
/// </summary>
internal static unsafe partial class Interop
{
    internal const int PtraceCont = 7;
    internal const int PtraceSingleStep = 9;
    internal const int PtraceGetRegs = 12;
    internal const int PtraceSetRegs = 13;
    internal const int PtraceDetach = 17;
    internal const int PtraceSeize = 0x4206;
    internal const int PtraceInterrupt = 0x4207;
    internal const int PtraceGetSigInfo = 0x4202;
    internal const int PtraceGetSigMask = 0x420A;
    internal const int PtraceSetSigMask = 0x420B;
    internal const int PtraceEventStop = 128;
    internal const int SignalTrap = 5;
    internal const int SysClose = 3;
    internal const int SysUserfaultfd = 323;
    internal const int SysPidfdOpen = 434;
    internal const int SysPidfdGetfd = 438;
    internal const int OpenCloexec = 0x80000;
    internal const int OpenNonblock = 0x800;
    internal const ulong UffdApi = 0xAA;
    internal const ulong UffdioApi = 0xC018AA3F;
    internal const ulong UffdioRegister = 0xC020AA00;
    internal const ulong UffdioUnregister = 0x8010AA01;
    internal const ulong UffdioWriteProtect = 0xC018AA06;
    internal const ulong UffdFeaturePagefaultFlagWp = 1 << 0;
    internal const ulong UffdFeatureWpHugetlbfsShmem = 1 << 12;
    internal const ulong UffdFeatureWpUnpopulated = 1 << 13;
    internal const ulong UffdFeatureWpAsync = 1 << 15;
    internal const ulong UffdRegisterModeWp = 2;
    internal const ulong UffdWriteProtectModeWp = 1;
    internal const int TryAgain = 11;
    internal const ulong PagemapScan = 0xC0606610;
    internal const ulong PmScanWpMatching = 1;
    internal const ulong PmScanCheckWpAsync = 2;
    internal const ulong PageIsWritten = 2;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long ptrace(long request, int pid, void* address, void* data);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long syscall(long number, long a, long b, long c);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ioctl(int descriptor, ulong request, void* argument);

    internal const int DuplicateCloexec = 1030; // F_DUPFD_CLOEXEC

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fcntl(int descriptor, int command, long argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int close(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint process_vm_readv(int pid, IoVector* local, ulong locals, IoVector* remote, ulong remotes, ulong flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint process_vm_writev(int pid, IoVector* local, ulong locals, IoVector* remote, ulong remotes, ulong flags);

    internal static string Error() => Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError());

    [StructLayout(LayoutKind.Sequential)]
    internal struct IoVector
    {
        public void* Base;
        public ulong Length;
    }

    /// <summary>struct user_regs_struct.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Registers
    {
        public ulong R15, R14, R13, R12, Rbp, Rbx, R11, R10, R9, R8, Rax, Rcx, Rdx, Rsi, Rdi, OrigRax, Rip, Cs, Eflags, Rsp, Ss,
            FsBase, GsBase, Ds, Es, Fs, Gs;
    }

    /// <summary>The head of siginfo_t, which is 128 bytes long.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 128)]
    internal struct SignalInfo
    {
        public int Signal, Errno, Code;
    }

    /// <summary>struct uffdio_api.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct UffdioApiArgument
    {
        public ulong Api, Features, Ioctls;
    }

    /// <summary>struct uffdio_register.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct UffdioRegisterArgument
    {
        public ulong Start, Length, Mode, Ioctls;
    }

    /// <summary>struct uffdio_writeprotect.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct UffdioWriteProtectArgument
    {
        public ulong Start, Length, Mode;
    }

    /// <summary>struct pm_scan_arg.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PagemapScanArgument
    {
        public ulong Size, Flags, Start, End, WalkEnd, Vector, VectorLength, MaxPages, CategoryInverted, CategoryMask,
            CategoryAnyOfMask, ReturnMask;
    }
}

/// <summary>A run of pages that share categories: <c>struct page_region</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
public readonly struct PageRegion
{
    /// <summary>The first byte's address in the tracked process.</summary>
    public readonly ulong Start;

    /// <summary>The address behind the last byte.</summary>
    public readonly ulong End;

    /// <summary>The kernel's categories, as asked for.</summary>
    public readonly ulong Categories;
}
