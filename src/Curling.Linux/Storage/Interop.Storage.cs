using System.Runtime.InteropServices;

namespace Curling.Linux.Storage;

/// <summary>The calls of the C library for disk images and stream sockets. Constants are those of x86-64 Linux; a test holds them against compiled C.</summary>
internal static unsafe partial class Interop
{
    internal const int ReadOnly = 0;
    internal const int ReadWrite = 2;
    internal const int CloseOnExec = 0x80000;
    internal const int NonBlocking = 0x800;
    internal const int FallocKeepSize = 1;
    internal const int FallocPunchHole = 2;
    internal const int FallocZeroRange = 16;
    internal const int SeekData = 3;
    internal const int SeekHole = 4;
    internal const int SeekEnd = 2;
    internal const int NoWait = 8;
    internal const int SetOpenFileLock = 37;
    internal const int GetOpenFileLock = 36;
    internal const short ReadLock = 0;
    internal const short WriteLock = 1;
    internal const short Unlocked = 2;
    internal const ulong BlockDeviceBytes = 0x80081272;
    internal const uint TypeMask = 0xF000;
    internal const uint TypeRegular = 0x8000;
    internal const uint TypeBlock = 0x6000;
    internal const uint TypeDirectory = 0x4000;
    internal const int MessageDontWait = 0x40;
    internal const int MessageNoSignal = 0x4000;
    internal const int SocketLevel = 1; // SOL_SOCKET
    internal const int SendBufferForce = 32; // SO_SNDBUFFORCE
    internal const int EmptyPath = 0x1000;
    internal const uint StatxType = 1;
    internal const uint StatxBasic = 0x7FF;
    internal const int WorkingDirectory = -100;

    internal const int NotPermitted = 1;
    internal const int NoEntry = 2;
    internal const int Interrupted = 4;
    internal const int InputOutput = 5;
    internal const int NoSuchAddress = 6;
    internal const int Again = 11;
    internal const int NoAccess = 13;
    internal const int NoDevice = 19;
    internal const int IsDirectory = 21;
    internal const int Invalid = 22;
    internal const int NoSpace = 28;
    internal const int ReadOnlyFilesystem = 30;
    internal const int BrokenPipe = 32;
    internal const int NoLocks = 37;
    internal const int NotSupported = 95;
    internal const int ConnectionReset = 104;
    internal const int QuotaExceeded = 122;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pread(int descriptor, byte* buffer, nuint count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint pwrite(int descriptor, byte* buffer, nuint count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint preadv2(int descriptor, IoVector* vectors, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fallocate(int descriptor, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial long lseek(int descriptor, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fdatasync(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ioctl(int descriptor, ulong request, ulong* argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int fcntl(int descriptor, int command, FileLock* argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int statx(int directory, byte* path, int flags, uint mask, FileFacts* facts);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recvmsg(int descriptor, Message* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint sendmsg(int descriptor, Message* message, int flags);

    /// <summary>The C library's <c>struct iovec</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct IoVector
    {
        public byte* Base;
        public nuint Length;
    }

    /// <summary>The C library's <c>struct msghdr</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct Message
    {
        public void* Name;
        public uint NameLength;
        public IoVector* Vectors;
        public nuint Count;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }

    /// <summary>The C library's <c>struct flock</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct FileLock
    {
        public short Type;
        public short Whence;
        public long Start;
        public long Length;
        public int Process;
    }

    /// <summary>The kernel's <c>struct statx</c>, as far as it is used here.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    internal struct FileFacts
    {
        [FieldOffset(28)]
        public ushort Mode;

        [FieldOffset(32)]
        public ulong Inode;

        [FieldOffset(40)]
        public ulong Bytes;

        [FieldOffset(96)]
        public long ChangedSeconds;

        [FieldOffset(104)]
        public uint ChangedNanoseconds;

        [FieldOffset(128)]
        public uint IsDeviceMajor;

        [FieldOffset(132)]
        public uint IsDeviceMinor;

        [FieldOffset(136)]
        public uint OnDeviceMajor;

        [FieldOffset(140)]
        public uint OnDeviceMinor;
    }
}
