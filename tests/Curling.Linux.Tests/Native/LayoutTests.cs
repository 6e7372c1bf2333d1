using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Curling.Linux.Tracking;
using Disk = Curling.Linux.Storage.Interop;
using Mem = Curling.Linux.Memory.Interop;
using Net = Curling.Linux.Network.Interop;
using Track = Curling.Linux.Tracking.Interop;

namespace Curling.Linux.Tests.Native;

/// <summary>Every number and layout that is handed to the kernel, held against what a C compiler makes of its headers.</summary>
public sealed class LayoutTests
{
    private static readonly Lazy<Dictionary<string, ulong>> Compiled = new(Run, LazyThreadSafetyMode.PublicationOnly);

    private static readonly Dictionary<string, ulong> Ours = new()
    {
        ["PROT_READ"] = Mem.ProtRead,
        ["PROT_WRITE"] = Mem.ProtWrite,
        ["MAP_SHARED"] = Mem.MapShared,
        ["MAP_PRIVATE"] = Mem.MapPrivate,
        ["MAP_ANONYMOUS"] = Mem.MapAnonymous,
        ["FALLOC_FL_KEEP_SIZE"] = Mem.FallocKeepSize,
        ["FALLOC_FL_PUNCH_HOLE"] = Mem.FallocPunchHole,
        ["MADV_DONTNEED"] = Mem.MadvDontNeed,
        ["MADV_POPULATE_WRITE"] = Mem.MadvPopulateWrite,
        ["SEEK_DATA"] = Mem.SeekData,
        ["MS_NOSUID"] = Mem.MountNoSuid,
        ["MS_NODEV"] = Mem.MountNoDevice,
        ["SEEK_HOLE"] = Mem.SeekHole,
        ["ENOSPC"] = Mem.NoSpace,
        ["EINTR"] = Mem.Interrupted,
        ["O_CLOEXEC"] = Track.OpenCloexec,
        ["O_NONBLOCK"] = Track.OpenNonblock,
        ["PTRACE_CONT"] = Track.PtraceCont,
        ["PTRACE_SINGLESTEP"] = Track.PtraceSingleStep,
        ["PTRACE_GETREGS"] = Track.PtraceGetRegs,
        ["PTRACE_SETREGS"] = Track.PtraceSetRegs,
        ["PTRACE_DETACH"] = Track.PtraceDetach,
        ["PTRACE_SEIZE"] = Track.PtraceSeize,
        ["PTRACE_INTERRUPT"] = Track.PtraceInterrupt,
        ["PTRACE_GETSIGINFO"] = Track.PtraceGetSigInfo,
        ["PTRACE_GETSIGMASK"] = Track.PtraceGetSigMask,
        ["PTRACE_SETSIGMASK"] = Track.PtraceSetSigMask,
        ["PTRACE_EVENT_STOP"] = Track.PtraceEventStop,
        ["SIGTRAP"] = Track.SignalTrap,
        ["SYS_close"] = Track.SysClose,
        ["SYS_userfaultfd"] = Track.SysUserfaultfd,
        ["SYS_pidfd_open"] = Track.SysPidfdOpen,
        ["SYS_pidfd_getfd"] = Track.SysPidfdGetfd,
        ["UFFD_API"] = Track.UffdApi,
        ["UFFDIO_API"] = Track.UffdioApi,
        ["UFFDIO_REGISTER"] = Track.UffdioRegister,
        ["UFFDIO_UNREGISTER"] = Track.UffdioUnregister,
        ["UFFDIO_WRITEPROTECT"] = Track.UffdioWriteProtect,
        ["UFFDIO_WRITEPROTECT_MODE_WP"] = Track.UffdWriteProtectModeWp,
        ["UFFD_FEATURE_PAGEFAULT_FLAG_WP"] = Track.UffdFeaturePagefaultFlagWp,
        ["UFFD_FEATURE_WP_HUGETLBFS_SHMEM"] = Track.UffdFeatureWpHugetlbfsShmem,
        ["UFFD_FEATURE_WP_UNPOPULATED"] = Track.UffdFeatureWpUnpopulated,
        ["UFFD_FEATURE_WP_ASYNC"] = Track.UffdFeatureWpAsync,
        ["UFFDIO_REGISTER_MODE_WP"] = Track.UffdRegisterModeWp,
        ["PAGEMAP_SCAN"] = Track.PagemapScan,
        ["O_RDWR"] = Net.ReadWrite,
        ["AF_INET"] = Net.InternetFamily,
        ["SOCK_DGRAM"] = Net.DatagramSocket,
        ["SOCK_CLOEXEC"] = Net.CloseOnExec,
        ["EFD_CLOEXEC"] = Net.EventClose,
        ["EFD_NONBLOCK"] = Net.EventNonBlocking,
        ["TUNSETIFF"] = Net.TunSetInterface,
        ["IFF_TAP"] = Net.TunTap,
        ["IFF_NO_PI"] = Net.TunNoPacketInfo,
        ["SIOCGIFFLAGS"] = Net.GetFlags,
        ["SIOCSIFFLAGS"] = Net.SetFlags,
        ["SIOCGIFMTU"] = Net.GetMtu,
        ["SIOCSIFMTU"] = Net.SetMtu,
        ["SIOCGIFINDEX"] = Net.GetIndex,
        ["SIOCBRADDIF"] = Net.BridgeAdd,
        ["IFF_UP"] = (ulong)Net.InterfaceUp,
        ["IFNAMSIZ"] = Net.NameBytes,
        ["POLLIN"] = (ulong)Net.PollIn,
        ["POLLOUT"] = (ulong)Net.PollOut,
        ["EPERM"] = Net.NotPermitted,
        ["ENOENT"] = Net.NoEntry,
        ["EIO"] = Net.InputOutput,
        ["EAGAIN"] = Net.Again,
        ["EACCES"] = Net.NoAccess,
        ["EBUSY"] = Net.Busy,
        ["ENODEV"] = Net.NoDevice,
        ["EINVAL"] = Net.Invalid,
        ["ENETDOWN"] = Net.NetworkDown,
        ["O_RDONLY"] = Disk.ReadOnly,
        ["FALLOC_FL_ZERO_RANGE"] = Disk.FallocZeroRange,
        ["SEEK_END"] = Disk.SeekEnd,
        ["RWF_NOWAIT"] = Disk.NoWait,
        ["F_OFD_GETLK"] = Disk.GetOpenFileLock,
        ["F_OFD_SETLK"] = Disk.SetOpenFileLock,
        ["F_RDLCK"] = (ulong)Disk.ReadLock,
        ["F_WRLCK"] = (ulong)Disk.WriteLock,
        ["F_UNLCK"] = (ulong)Disk.Unlocked,
        ["BLKGETSIZE64"] = Disk.BlockDeviceBytes,
        ["S_IFMT"] = Disk.TypeMask,
        ["S_IFREG"] = Disk.TypeRegular,
        ["S_IFBLK"] = Disk.TypeBlock,
        ["S_IFDIR"] = Disk.TypeDirectory,
        ["MSG_DONTWAIT"] = Disk.MessageDontWait,
        ["MSG_NOSIGNAL"] = Disk.MessageNoSignal,
        ["SOL_SOCKET"] = Disk.SocketLevel,
        ["SO_SNDBUFFORCE"] = Disk.SendBufferForce,
        ["AT_EMPTY_PATH"] = Disk.EmptyPath,
        ["STATX_TYPE"] = Disk.StatxType,
        ["ENXIO"] = Disk.NoSuchAddress,
        ["EISDIR"] = Disk.IsDirectory,
        ["EROFS"] = Disk.ReadOnlyFilesystem,
        ["ENOLCK"] = Disk.NoLocks,
        ["EOPNOTSUPP"] = Disk.NotSupported,
        ["EDQUOT"] = Disk.QuotaExceeded,
    };

    // Newer than the headers of the oldest distribution that is built on: checked where the headers have them.
    private static readonly string[] MayBeMissing =
        ["MADV_POPULATE_WRITE", "UFFD_FEATURE_WP_HUGETLBFS_SHMEM", "UFFD_FEATURE_WP_UNPOPULATED", "UFFD_FEATURE_WP_ASYNC"];

    [SkippableFact]
    public void Numbers_are_those_of_the_headers()
    {
        foreach ((string name, ulong ours) in Ours)
        {
            bool known = Compiled.Value.TryGetValue(name, out ulong compiled);
            Assert.True(known || MayBeMissing.Contains(name), $"{name} is not in the headers");
            Assert.True(!known || ours == compiled, $"{name} is {compiled:X} in C and {ours:X} here");
        }
    }

    [SkippableFact]
    public void Structures_are_laid_out_as_the_compiler_lays_them_out()
    {
        Check<Net.InterfaceRequest>("ifreq", new() { ["Name"] = "ifr_name", ["Value"] = "ifr_flags" });
        Check<Net.PollEntry>("pollfd", new() { ["Descriptor"] = "fd", ["Wanted"] = "events", ["Got"] = "revents" });
        Check<Disk.IoVector>("iovec", new() { ["Base"] = "iov_base", ["Length"] = "iov_len" });
        Check<Disk.Message>("msghdr", new()
        {
            ["Name"] = "msg_name",
            ["NameLength"] = "msg_namelen",
            ["Vectors"] = "msg_iov",
            ["Count"] = "msg_iovlen",
            ["Control"] = "msg_control",
            ["ControlLength"] = "msg_controllen",
            ["Flags"] = "msg_flags",
        });
        Check<Disk.FileLock>("flock", new()
        {
            ["Type"] = "l_type",
            ["Whence"] = "l_whence",
            ["Start"] = "l_start",
            ["Length"] = "l_len",
            ["Process"] = "l_pid",
        });
        Check<Disk.FileFacts>("statx", new()
        {
            ["Mode"] = "stx_mode",
            ["Inode"] = "stx_ino",
            ["Bytes"] = "stx_size",
            ["ChangedSeconds"] = "stx_ctime.tv_sec",
            ["ChangedNanoseconds"] = "stx_ctime.tv_nsec",
            ["IsDeviceMajor"] = "stx_rdev_major",
            ["IsDeviceMinor"] = "stx_rdev_minor",
            ["OnDeviceMajor"] = "stx_dev_major",
            ["OnDeviceMinor"] = "stx_dev_minor",
        });
        Check<Track.Registers>("user_regs_struct", null);
        Check<Track.SignalInfo>("siginfo_t", new() { ["Signal"] = "si_signo", ["Errno"] = "si_errno", ["Code"] = "si_code" });
        Check<Track.UffdioApiArgument>("uffdio_api", null);
        Check<Track.UffdioRegisterArgument>("uffdio_register", new() { ["Start"] = "range.start", ["Length"] = "range.len" });
        Check<Track.UffdioWriteProtectArgument>("uffdio_writeprotect", new() { ["Start"] = "range.start", ["Length"] = "range.len" });
        Check<Track.IoVector>("iovec", new() { ["Base"] = "iov_base", ["Length"] = "iov_len" });
        Check<PageRegion>("page_region", null);
        Check<Track.PagemapScanArgument>("pm_scan_arg", new()
        {
            ["WalkEnd"] = "walk_end",
            ["Vector"] = "vec",
            ["VectorLength"] = "vec_len",
            ["MaxPages"] = "max_pages",
            ["CategoryInverted"] = "category_inverted",
            ["CategoryMask"] = "category_mask",
            ["CategoryAnyOfMask"] = "category_anyof_mask",
            ["ReturnMask"] = "return_mask",
        });
    }

    private static void Check<T>(string structure, Dictionary<string, string>? names)
        where T : unmanaged
    {
        Assert.Equal(Compiled.Value[$"sizeof({structure})"], (ulong)Marshal.SizeOf<T>());
        Dictionary<string, ulong> expected = Compiled.Value
            .Where(p => p.Key.StartsWith(structure + ".", StringComparison.Ordinal))
            .ToDictionary(p => p.Key, p => p.Value);
        Dictionary<string, ulong> ours = typeof(T).GetFields().ToDictionary(
            f => structure + "." + (names?.GetValueOrDefault(f.Name) ?? Lower(f.Name)),
            f => (ulong)Marshal.OffsetOf<T>(f.Name));
        Assert.Equal(expected.OrderBy(p => p.Key, StringComparer.Ordinal), ours.OrderBy(p => p.Key, StringComparer.Ordinal));
    }

    private static string Lower(string field) => field switch
    {
        "OrigRax" => "orig_rax",
        "FsBase" => "fs_base",
        "GsBase" => "gs_base",
        _ => field.ToLowerInvariant(),
    };

    private static Dictionary<string, ulong> Run()
    {
        using Process process = Process.Start(new ProcessStartInfo(NativeProgram.Compile("layout")) { RedirectStandardOutput = true })!;
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return text.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(' ')).ToDictionary(
            p => p[0], p => ulong.Parse(p[1], CultureInfo.InvariantCulture));
    }
}
