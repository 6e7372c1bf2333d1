using System.Globalization;
using System.Runtime.InteropServices;
using Curling.Linux.Processes;

namespace Curling.Linux.Memory;

/// <summary>
/// Memory filesystems (tmpfs) of this host: which of them make memory in large pages, and making one that does. In a file that is written in
/// large parts, the kernel then allocates and fills parts of up to 2 MiB instead of 4 KiB at a time.
/// </summary>
/// <remarks>Stateless; two processes must not mount one path at the same time. Source: linux Documentation/admin-guide/mm/transhuge.rst.</remarks>
public static class MemoryFilesystem
{
    private const string Mounts = "/proc/self/mountinfo";
    private const string Source = "curling";
    private const string ReportingOrder = "/sys/module/page_reporting/parameters/page_reporting_order";
    private const int LargestOrder = 10; // the kernel's largest free blocks are of 4 KiB << 10

    /// <summary>Whether a memory filesystem is mounted at <paramref name="path"/> that makes large pages.</summary>
    /// <exception cref="IOException">The mounts of this process cannot be read.</exception>
    public static bool HasLargePages(string path) => LargePagesSource(File.ReadLines(Mounts), path) is not null;

    /// <summary>Whether it was <see cref="Mount"/> that mounted it, not the host's administrator.</summary>
    /// <exception cref="IOException">The mounts of this process cannot be read.</exception>
    public static bool IsOurs(string path) => LargePagesSource(File.ReadLines(Mounts), path) == Source;

    /// <summary>
    /// The name that a memory filesystem with large pages was mounted under, of the lines of a mountinfo file; null when there is none at
    /// <paramref name="path"/>. Of several mounts there the last one is seen.
    /// </summary>
    internal static string? LargePagesSource(IEnumerable<string> mounts, string path)
    {
        string? source = null;
        foreach (string line in mounts)
        {
            // number, parent, device, root, mount point, options, any number of tags, "-", type, source, options of the filesystem
            string[] fields = line.Split(' ');
            int dash = Array.IndexOf(fields, "-", Math.Min(6, fields.Length));
            if (dash >= 0 && dash + 3 < fields.Length && fields[4] == path)
            {
                bool large = fields[dash + 1] == "tmpfs" && fields[dash + 3].Split(',').Any(o => o is "huge=within_size" or "huge=always");
                source = large ? fields[dash + 2] : null;
            }
        }

        return source;
    }

    /// <summary>
    /// Whether this machine is a virtual one that gives free memory back to its host, in blocks of the size of large pages. Each large page is
    /// then fetched from the host anew, while small ones mostly come from smaller blocks, which stay. Source: linux mm/page_reporting.c.
    /// </summary>
    public static bool FreeMemoryIsGivenBack()
    {
        try
        {
            // Numbers outside, -1 or the largest order and one: no driver has asked for it.
            return int.TryParse(File.ReadAllText(ReportingOrder), CultureInfo.InvariantCulture, out int order) && order is >= 0 and <= LargestOrder;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>
    /// Whether a mount that this process makes will outlive it and be seen by others: whether it shares its mounts with all processes it descends
    /// from. Those whose mounts it may not see do not count, but one must tell.
    /// </summary>
    public static bool IsInMountsOfHost()
    {
        string? own = MountsOf("self");
        bool same = false;
        for (int? pid = ProcessInfo.Parent(Environment.ProcessId); pid > 0; pid = ProcessInfo.Parent(pid.Value))
        {
            string? other = MountsOf($"{pid}");
            if (other is not null && other != own)
            {
                return false;
            }

            same |= other is not null;
        }

        return same && own is not null;
    }

    /// <summary>Mounts a memory filesystem with large pages that only the caller's user may enter.</summary>
    /// <param name="path">An existing directory.</param>
    /// <param name="bytes">How much it may hold at most.</param>
    /// <exception cref="MemoryFileException">The kernel has no large pages, or does not allow it.</exception>
    public static void Mount(string path, long bytes)
    {
        if (Interop.mount(
            Source, path, "tmpfs", Interop.MountNoSuid | Interop.MountNoDevice, $"huge=within_size,mode=0700,size={bytes}") != 0)
        {
            throw new MemoryFileException(
                $"a memory filesystem with large pages cannot be mounted at {path}: "
                + Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError()));
        }
    }

    /// <summary>Unmounts what is mounted at <paramref name="path"/>.</summary>
    /// <returns>False when it is in use, or is no mount.</returns>
    public static bool Unmount(string path) => Interop.umount2(path, 0) == 0;

    private static string? MountsOf(string process)
    {
        try
        {
            return File.ResolveLinkTarget($"/proc/{process}/ns/mnt", returnFinalTarget: false)?.Name;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
