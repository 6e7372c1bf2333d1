using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Memory;
using Curling.Qemu.Processes;

namespace Curling.Recv.Standby;

/// <summary>Finds the standby's counterpart of each block that the sender named.</summary>
internal static class StandbyBlocks
{
    /// <summary>Finds them, in the sender's order.</summary>
    /// <exception cref="QemuException">The standby has no such block, or it cannot be written.</exception>
    public static async Task<IReadOnlyList<IStandbyBlock>> FindAsync(
        QemuProcess qemu, SharedMapping memory, IReadOnlyList<HelloBlock> named, CancellationToken cancellation)
    {
        if (named.Count == 0)
        {
            return [];
        }

        (IReadOnlyList<RamBlock> listed, IReadOnlyList<RamBlock> located) = await RamBlocks.LocateAsync(
            qemu.Qmp, qemu.Pid, memory.Path, cancellation);
        return [.. named.Select(n => Find(n, qemu.Pid, memory, listed, located))];
    }

    private static IStandbyBlock Find(
        HelloBlock wanted, int pid, SharedMapping memory, IReadOnlyList<RamBlock> listed, IReadOnlyList<RamBlock> located)
    {
        RamBlock? block = listed.FirstOrDefault(b => b.Name == wanted.Name);
        long bytes = block is null ? 0 : block.Name == RamBlock.Ram ? memory.Length : block.TotalBytes;
        if (block is null || bytes != wanted.Bytes)
        {
            throw new QemuException(
                $"the standby has {(block is null ? "no" : $"another size ({bytes} bytes) of")} memory block {wanted.Name}"
                + $" ({wanted.Bytes} bytes); run the same version of QEMU on both hosts");
        }

        if (block.Name == RamBlock.Ram)
        {
            return new MappedBlock(memory);
        }

        // Only a boot-time ROM may be missing: Locate fails for anything else.
        return located.FirstOrDefault(b => b.Name == wanted.Name) is { } found
            ? new RemoteBlock(pid, found.Address, bytes)
            : new UnreachableRomBlock(bytes);
    }
}
