using System.Globalization;

namespace Curling.Linux.Tracking;

/// <summary>One mapping of a process.</summary>
/// <param name="Start">The first address.</param>
/// <param name="End">The address behind the last.</param>
/// <param name="Permissions">Such as <c>rw-s</c>.</param>
/// <param name="Offset">Where in the file it begins.</param>
/// <param name="Path">The file, or empty.</param>
public readonly record struct MapEntry(ulong Start, ulong End, string Permissions, ulong Offset, string Path);

/// <summary>Reads a process's mappings. Source: linux Documentation/filesystems/proc.rst (maps).</summary>
public static class ProcessMaps
{
    /// <summary>Reads the mappings of a process.</summary>
    /// <exception cref="IOException">The process is gone or may not be looked at.</exception>
    public static IReadOnlyList<MapEntry> Read(int pid)
    {
        try
        {
            return Parse(File.ReadAllText($"/proc/{pid}/maps"));
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException($"the mappings of process {pid} may not be read: {e.Message}", e);
        }
    }

    /// <summary>Reads the text of <c>/proc/PID/maps</c>; lines of another shape are left out.</summary>
    public static IReadOnlyList<MapEntry> Parse(string text)
    {
        List<MapEntry> entries = [];
        foreach (string line in text.Split('\n'))
        {
            string[] parts = line.Split(' ', 6, StringSplitOptions.RemoveEmptyEntries);
            int dash = parts.Length >= 5 ? parts[0].IndexOf('-') : -1;
            if (dash > 0
                && ulong.TryParse(parts[0].AsSpan(0, dash), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong start)
                && ulong.TryParse(parts[0].AsSpan(dash + 1), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong end)
                && ulong.TryParse(parts[2], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out ulong offset))
            {
                entries.Add(new MapEntry(start, end, parts[1], offset, parts.Length > 5 ? parts[5].Trim() : ""));
            }
        }

        return entries;
    }
}
