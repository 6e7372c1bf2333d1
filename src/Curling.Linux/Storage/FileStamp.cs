using System.Text;

namespace Curling.Linux.Storage;

/// <summary>By what a file can be told from another one, and from itself after it was changed.</summary>
/// <param name="Device">The filesystem it is on; for a block device, the device itself.</param>
/// <param name="Inode">Its number there; 0 for a block device.</param>
/// <param name="ChangedAt">When the file was changed last by anybody (its ctime, which no program can set), in nanoseconds since 1970.</param>
/// <param name="Length">Its size in bytes; 0 for a block device.</param>
/// <param name="IsBlockDevice">Whether it is a block device: writing to one leaves no trace in the rest.</param>
public readonly record struct FileStamp(ulong Device, ulong Inode, long ChangedAt, long Length, bool IsBlockDevice)
{
    /// <summary>Looks at a file, or at what a symbolic link leads to.</summary>
    /// <returns>Null when it is not there or may not be looked at.</returns>
    public static unsafe FileStamp? Of(string path)
    {
        Interop.FileFacts facts;
        fixed (byte* name = Encoding.UTF8.GetBytes(path + '\0'))
        {
            // Safety: a path that is ended by its zero, and a structure of the size that the kernel fills.
            if (Interop.statx(Interop.WorkingDirectory, name, 0, Interop.StatxBasic, &facts) < 0)
            {
                return null;
            }
        }

        return (facts.Mode & Interop.TypeMask) == Interop.TypeBlock
            ? new FileStamp(Number(facts.IsDeviceMajor, facts.IsDeviceMinor), 0, 0, 0, true)
            : new FileStamp(
                Number(facts.OnDeviceMajor, facts.OnDeviceMinor),
                facts.Inode,
                (facts.ChangedSeconds * 1_000_000_000) + facts.ChangedNanoseconds,
                (long)facts.Bytes,
                false);
    }

    private static ulong Number(uint major, uint minor) => ((ulong)major << 32) | minor;
}
