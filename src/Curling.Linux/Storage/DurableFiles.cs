using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Storage;

/// <summary>What the base library lacks for files that must survive: holes, names that are safe, and which start of the kernel this is.</summary>
/// <remarks>Thread-safe: nothing is kept.</remarks>
public static partial class DurableFiles
{
    private const int FallocKeepSize = 1;
    private const int FallocPunchHole = 2;
    private const int OpenDirectory = 0x10000; // O_DIRECTORY of x86-64; O_RDONLY is 0
    private const int OpenCloseOnExec = 0x80000;
    private const int Interrupted = 4;
    private const int Again = 11;
    private const int SetLease = 1024; // F_SETLEASE
    private const int WriteLease = 1; // F_WRLCK
    private const int NoLease = 2; // F_UNLCK

    /// <summary>The id that the kernel took when it started: as long as it stays, no write to a file was lost by a reboot.</summary>
    public static Guid BootId { get; } = Guid.Parse(File.ReadAllText("/proc/sys/kernel/random/boot_id").AsSpan().Trim());

    /// <summary>Makes a range of a file read as zeros and gives its room back; the file's length stays.</summary>
    /// <returns>0, or the error number, for example EOPNOTSUPP (95) where the filesystem cannot do it.</returns>
    public static int PunchHole(SafeFileHandle file, long offset, long length)
    {
        bool added = false;
        try
        {
            file.DangerousAddRef(ref added);
            while (true)
            {
                // Safety: plain integers; the descriptor stays open while the reference is held.
                int result = fallocate((int)file.DangerousGetHandle(), FallocPunchHole | FallocKeepSize, offset, length);
                int error = result == 0 ? 0 : Marshal.GetLastPInvokeError();
                if (error != Interrupted)
                {
                    return error;
                }
            }
        }
        finally
        {
            if (added)
            {
                file.DangerousRelease();
            }
        }
    }

    /// <summary>
    /// Whether anybody else on this host has a file open, this process included: only then the kernel refuses a write lease (fcntl(2)).
    /// </summary>
    /// <returns>False also where that cannot be told: network filesystems, another user's file.</returns>
    public static bool IsOpenElsewhere(SafeFileHandle file)
    {
        bool added = false;
        try
        {
            file.DangerousAddRef(ref added);
            int descriptor = (int)file.DangerousGetHandle();

            // Safety: plain integers; the descriptor stays open while the reference is held.
            if (fcntl(descriptor, SetLease, WriteLease) != 0)
            {
                return Marshal.GetLastPInvokeError() == Again;
            }

            // Safety: as above.
            _ = fcntl(descriptor, SetLease, NoLease);
            return false;
        }
        finally
        {
            if (added)
            {
                file.DangerousRelease();
            }
        }
    }

    /// <summary>Makes the names in a directory safe from a loss of power: after a file in it was made or renamed.</summary>
    /// <exception cref="IOException">The directory cannot be opened or synchronized.</exception>
    public static void SyncDirectory(string path)
    {
        // Safety: the string is marshalled for the call; the descriptor is owned by the handle from here on.
        int descriptor = open(path, OpenDirectory | OpenCloseOnExec);
        if (descriptor < 0)
        {
            throw new IOException($"{path}: cannot open the directory: {Error()}");
        }

        using SafeFileHandle handle = new(descriptor, ownsHandle: true);
        // Safety: a descriptor that is open until the end of this method.
        if (fsync(descriptor) != 0)
        {
            throw new IOException($"{path}: cannot synchronize the directory: {Error()}");
        }
    }

    private static string Error() => new Win32Exception(Marshal.GetLastPInvokeError()).Message;

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fallocate(int descriptor, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(int descriptor, int command, nint argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fsync(int descriptor);
}
