using System.Runtime.InteropServices;

namespace Curling.Linux.Memory;

/// <summary>The memory calls of the C library. Constants are those of x86-64 Linux; a test holds them against compiled C.</summary>
internal static unsafe partial class Interop
{
    internal const int ProtRead = 1;
    internal const int ProtWrite = 2;
    internal const int MapShared = 1;
    internal const int MapPrivate = 2;
    internal const int MapAnonymous = 0x20;
    internal const int FallocKeepSize = 1;
    internal const int FallocPunchHole = 2;
    internal const int MadvDontNeed = 4;
    internal const int MadvPopulateWrite = 23;
    internal const int NoSpace = 28;
    internal const int Interrupted = 4;

    internal static readonly nint MapFailed = -1;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint mmap(nint address, nuint length, int protection, int flags, int descriptor, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int munmap(nint address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int madvise(nint address, nuint length, int advice);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ftruncate(int descriptor, long length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fallocate(int descriptor, int mode, long offset, long length);

    internal const int SeekData = 3;
    internal const int SeekHole = 4;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long lseek(int descriptor, long offset, int whence);

    internal const ulong MountNoSuid = 2;
    internal const ulong MountNoDevice = 4;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int mount(string source, string target, string type, ulong flags, string options);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int umount2(string target, int flags);
}
