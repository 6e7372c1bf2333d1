using System.Globalization;

namespace Curling.Qemu.Processes;

/// <summary>The memory of this host. Source: linux Documentation/filesystems/proc.rst (meminfo).</summary>
public static class HostMemory
{
    /// <summary>All memory in bytes.</summary>
    public static long TotalBytes()
    {
        string line = File.ReadLines("/proc/meminfo").First(l => l.StartsWith("MemTotal:", StringComparison.Ordinal));
        return long.Parse(line.AsSpan(9).Trim().TrimEnd("kB").Trim(), CultureInfo.InvariantCulture) * 1024;
    }
}
