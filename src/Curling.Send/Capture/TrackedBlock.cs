using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Protocol;

namespace Curling.Send.Capture;

/// <summary>A block of the guest's memory: where it is in QEMU, and how its pages are read.</summary>
internal abstract class TrackedBlock(string name, ulong address, long bytes) : IPageSource
{
    /// <summary>QEMU's name of it.</summary>
    public string Name { get; } = name;

    /// <summary>Its first address in QEMU.</summary>
    public ulong Address { get; } = address;

    /// <summary>Its length.</summary>
    public long Bytes { get; } = bytes;

    /// <summary>Its pages.</summary>
    public long Pages => Bytes / ProtocolLimits.PageBytes;

    /// <summary>The regions that are tracked; in the others nothing was found yet.</summary>
    public RegionSet Tracked { get; } = new(bytes / ProtocolLimits.PageBytes);

    /// <summary>The first address of a region in QEMU; the block's end for the number behind the last one.</summary>
    public ulong AddressOf(int region) =>
        Address + (ulong)Math.Min(Bytes, region * RegionSet.RegionPages * ProtocolLimits.PageBytes);

    /// <summary>The region that an address in QEMU lies in; the number behind the last one for the block's end.</summary>
    public int RegionOf(ulong address) =>
        address >= Address + (ulong)Bytes ? Tracked.Regions : (int)((address - Address) / (ulong)(RegionSet.RegionPages * ProtocolLimits.PageBytes));

    /// <inheritdoc/>
    public abstract void Read(long firstPage, Span<byte> destination);

    /// <summary>The next part from <paramref name="page"/> on that may hold something; false when nothing follows.</summary>
    public abstract bool NextData(long page, out long start, out long end);

    /// <summary>Drops the mapping of what was read, where there is one.</summary>
    public virtual void Unmap()
    {
    }

    /// <summary>The first page from <paramref name="page"/> on that may hold something; <see cref="Pages"/> or more when there is none.</summary>
    public abstract long FirstData(long page);
}

/// <summary>Guest RAM: the daemon maps the same pages.</summary>
internal sealed class MappedRam(string name, ulong address, SharedMapping memory) : TrackedBlock(name, address, memory.Length)
{
    /// <inheritdoc/>
    public override void Read(long firstPage, Span<byte> destination) =>
        MemoryCopy.CopyCold(memory.Span(firstPage * ProtocolLimits.PageBytes, destination.Length), destination);

    /// <inheritdoc/>
    public override bool NextData(long page, out long start, out long end)
    {
        bool some = memory.NextData(page * ProtocolLimits.PageBytes, out start, out end);
        start /= ProtocolLimits.PageBytes;
        end = Math.Min(Pages, (end + ProtocolLimits.PageBytes - 1) / ProtocolLimits.PageBytes);
        return some && start < end;
    }

    /// <inheritdoc/>
    public override void Unmap() => memory.Unmap();

    /// <inheritdoc/>
    public override long FirstData(long page) => memory.FirstData(page * ProtocolLimits.PageBytes) / ProtocolLimits.PageBytes;
}

/// <summary>A block that only QEMU maps, such as a display's memory: read by address.</summary>
internal sealed class RemoteMemory : TrackedBlock
{
    private readonly int _pid;

    public RemoteMemory(string name, ulong address, long bytes, int pid)
        : base(name, address, bytes)
    {
        _pid = pid;

        // There is no file that tells where something is.
        Tracked.Add(0, Tracked.Regions);
    }

    /// <inheritdoc/>
    public override void Read(long firstPage, Span<byte> destination) =>
        ProcessMemory.Read(_pid, Address + (ulong)(firstPage * ProtocolLimits.PageBytes), destination);

    /// <inheritdoc/>
    public override bool NextData(long page, out long start, out long end)
    {
        start = page;
        end = Pages;
        return start < end;
    }

    /// <inheritdoc/>
    public override long FirstData(long page) => page;
}
