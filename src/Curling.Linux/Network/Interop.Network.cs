using System.Runtime.InteropServices;

namespace Curling.Linux.Network;

/// <summary>The network calls of the C library. Constants are those of x86-64 Linux; a test holds them against compiled C.</summary>
internal static unsafe partial class Interop
{
    internal const int ReadWrite = 2;
    internal const int NonBlocking = 0x800;
    internal const int CloseOnExec = 0x80000;
    internal const int InternetFamily = 2;
    internal const int DatagramSocket = 2;
    internal const ulong TunSetInterface = 0x400454CA;
    internal const int TunTap = 2;
    internal const int TunNoPacketInfo = 0x1000;
    internal const ulong GetFlags = 0x8913;
    internal const ulong SetFlags = 0x8914;
    internal const ulong GetMtu = 0x8921;
    internal const ulong SetMtu = 0x8922;
    internal const ulong GetIndex = 0x8933;
    internal const ulong BridgeAdd = 0x89A2;
    internal const short InterfaceUp = 1;
    internal const short PollIn = 1;
    internal const short PollOut = 4;
    internal const int NotPermitted = 1;
    internal const int NoEntry = 2;
    internal const int Interrupted = 4;
    internal const int InputOutput = 5;
    internal const int Again = 11;
    internal const int NoAccess = 13;
    internal const int Busy = 16;
    internal const int NoDevice = 19;
    internal const int Invalid = 22;
    internal const int NetworkDown = 100;
    internal const int EventClose = CloseOnExec;
    internal const int EventNonBlocking = NonBlocking;

    /// <summary>Length of an interface's name, its terminating zero included.</summary>
    internal const int NameBytes = 16;

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    internal static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int close(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int ioctl(int descriptor, ulong request, InterfaceRequest* argument);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint read(int descriptor, byte* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint write(int descriptor, byte* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int poll(PollEntry* entries, nuint count, int milliseconds);

    /// <summary>The kernel's <c>struct ifreq</c>: a name and a union, of which numbers are used here.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 40)]
    internal struct InterfaceRequest
    {
        public fixed byte Name[NameBytes];
        public int Value;
    }

    /// <summary>The C library's <c>struct pollfd</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct PollEntry
    {
        public int Descriptor;
        public short Wanted;
        public short Got;
    }
}
