using System.Globalization;
using Curling.Linux.Tracking;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Memory;

/// <summary>A block of memory that QEMU migrates.</summary>
/// <param name="Name">QEMU's name of it.</param>
/// <param name="UsedBytes">Bytes in use.</param>
/// <param name="TotalBytes">Bytes reserved.</param>
/// <param name="Address">Where it is in QEMU's address space; 0 when QEMU does not say.</param>
public sealed record RamBlock(string Name, long UsedBytes, long TotalBytes, ulong Address)
{
    /// <summary>The name of the block that is guest RAM.</summary>
    public const string Ram = "ram";

    /// <summary>
    /// Whether the block holds firmware or tables that the guest cannot write and reads only while it boots; QEMU fills it
    /// anew at a reset.
    /// </summary>
    public bool IsRom => Name.StartsWith("/rom@", StringComparison.Ordinal)
        || Name.EndsWith(".rom", StringComparison.Ordinal) || Name is "pc.bios" or "pc.rom" or "isa-bios";
}

/// <summary>Lists QEMU's memory blocks and finds out where they are. Source: qemu softmmu/physmem.c, <c>info ramblock</c>.</summary>
public static class RamBlocks
{
    private const string Firmware = "pc.bios";

    /// <summary>Reads what <c>info ramblock</c> printed.</summary>
    /// <exception cref="QemuException">It holds no blocks.</exception>
    public static IReadOnlyList<RamBlock> Parse(string text)
    {
        List<RamBlock> blocks = [];
        foreach (string line in text.Split('\n'))
        {
            // name, page size in two words, offset, used, total and, from QEMU 8.1 on, the address.
            string[] words = line.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
            int at = Array.FindIndex(words, w => w.StartsWith("0x", StringComparison.Ordinal));
            if (at >= 3 && words.Length >= at + 3
                && Hex(words[at + 1], out ulong used) && Hex(words[at + 2], out ulong total)
                && total is > 0 and < 1UL << 46 && used <= total)
            {
                ulong address = words.Length > at + 3 && Hex(words[at + 3], out ulong a) ? a : 0;
                blocks.Add(new RamBlock(string.Join(' ', words[..(at - 2)]), (long)used, (long)total, address));
            }
        }

        return blocks.Count > 0 ? blocks : throw new QemuException("QEMU lists no memory blocks (info ramblock)");
    }

    /// <summary>
    /// The blocks whose pages travel, with their addresses: guest RAM, and every other block that can be found. A QEMU that
    /// waits for a state has not filled its ROMs, so they travel too; only boot-time ROMs that cannot be found stay out.
    /// </summary>
    /// <param name="qmp">QEMU's monitor.</param>
    /// <param name="pid">QEMU's process.</param>
    /// <param name="memoryPath">The file that is guest RAM.</param>
    /// <param name="cancellation">Ends the search.</param>
    /// <exception cref="QemuException">A block that may change, or the firmware, cannot be found.</exception>
    public static async Task<(IReadOnlyList<RamBlock> Listed, IReadOnlyList<RamBlock> Located)> LocateAsync(
        QmpClient qmp, int pid, string memoryPath, CancellationToken cancellation)
    {
        IReadOnlyList<RamBlock> listed = Parse(await qmp.HumanAsync("info ramblock", cancellation));
        if (listed.FirstOrDefault(b => b.Name == Firmware) is { Address: 0 } firmware)
        {
            // The firmware ends at 4 GiB; the monitor translates addresses that the guest sees.
            string answer = await qmp.HumanAsync($"gpa2hva 0x{(1L << 32) - firmware.TotalBytes:x}", cancellation);
            int at = answer.LastIndexOf("0x", StringComparison.Ordinal);
            if (at < 0 || !answer.Contains($"({Firmware})", StringComparison.Ordinal) || !Hex(answer[at..].Trim(), out ulong address))
            {
                throw new QemuException(
                    $"this QEMU does not say where its firmware is ({answer.Trim()}); use QEMU 8.1 or newer, or --rounds full");
            }

            listed = [.. listed.Select(b => b.Name == Firmware ? b with { Address = address } : b)];
        }

        return (listed, Locate(pid, memoryPath, listed));
    }

    /// <summary>The blocks whose pages travel, with their addresses.</summary>
    /// <param name="pid">QEMU's process.</param>
    /// <param name="memoryPath">The file that is guest RAM.</param>
    /// <param name="all">What QEMU lists.</param>
    /// <exception cref="QemuException">A block that may change cannot be found.</exception>
    public static IReadOnlyList<RamBlock> Locate(int pid, string memoryPath, IReadOnlyList<RamBlock> all)
    {
        IReadOnlyList<MapEntry> maps = ProcessMaps.Read(pid);
        List<RamBlock> found = [];
        foreach (RamBlock block in all.OrderBy(b => b.Name == RamBlock.Ram ? 0 : 1))
        {
            ulong address = block.Name == RamBlock.Ram ? FindFile(maps, memoryPath, block)
                : block.Address != 0 ? block.Address
                : FindAnonymous(maps, block);
            if (address != 0)
            {
                found.Add(block with { Address = address });
            }
            else if (!block.IsRom)
            {
                throw new QemuException(
                    $"the memory block {block.Name} ({block.TotalBytes >> 10} KiB) may change, and this QEMU does not say where it is;"
                    + " use QEMU 8.1 or newer, or --rounds full");
            }
        }

        return found;
    }

    private static ulong FindFile(IReadOnlyList<MapEntry> maps, string path, RamBlock block)
    {
        MapEntry entry = maps.FirstOrDefault(m => m.Path == path && m.Offset == 0);
        return entry.End - entry.Start >= (ulong)block.UsedBytes && entry.Start != 0
            ? entry.Start
            : throw new QemuException($"QEMU does not map the guest's memory {path} in one piece");
    }

    /// <summary>
    /// QEMU allocates a block as anonymous memory with one inaccessible page behind it. Where exactly one place fits, that is it.
    /// </summary>
    private static ulong FindAnonymous(IReadOnlyList<MapEntry> maps, RamBlock block)
    {
        ulong match = 0;
        for (int i = 0; i + 1 < maps.Count; i++)
        {
            MapEntry entry = maps[i];
            MapEntry guard = maps[i + 1];
            if (entry.Path.Length == 0 && entry.Permissions.StartsWith("rw", StringComparison.Ordinal)
                && entry.End - entry.Start == (ulong)block.TotalBytes
                && guard.Start == entry.End && guard.Permissions.StartsWith("---", StringComparison.Ordinal)
                && guard.End - guard.Start == 4096)
            {
                if (match != 0)
                {
                    return 0;
                }

                match = entry.Start;
            }
        }

        return match;
    }

    private static bool Hex(string word, out ulong value)
    {
        value = 0;
        return word.StartsWith("0x", StringComparison.Ordinal)
            && ulong.TryParse(word.AsSpan(2), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);
    }
}
