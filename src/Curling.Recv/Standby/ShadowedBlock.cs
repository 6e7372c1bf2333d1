using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Recv.Standby;

/// <summary>
/// A block that only the waiting QEMU maps, with a copy in a memory file: when both this daemon and that QEMU have died, the
/// next ones fill it from there.
/// </summary>
/// <remarks>The copy takes as much memory as the block has pages that are not zero. Disposing unmaps it; the file stays.</remarks>
internal sealed class ShadowedBlock(IStandbyBlock block, SharedMapping shadow) : IStandbyBlock
{
    private readonly MappedBlock _shadow = new(shadow);

    /// <inheritdoc/>
    public long Pages => block.Pages;

    /// <summary>The path of a block's copy.</summary>
    public static string PathOf(string directory, int block) => Path.Combine(directory, $"block-{block}");

    /// <inheritdoc/>
    public void Write(long firstPage, ReadOnlySpan<byte> content)
    {
        _shadow.Write(firstPage, content);
        block.Write(firstPage, content);
    }

    /// <inheritdoc/>
    public void Clear(long firstPage, int pages)
    {
        _shadow.Clear(firstPage, pages);
        block.Clear(firstPage, pages);
    }

    /// <inheritdoc/>
    public void Patch(long page, int offset, ReadOnlySpan<byte> bytes)
    {
        _shadow.Patch(page, offset, bytes);
        block.Patch(page, offset, bytes);
    }

    /// <inheritdoc/>
    public bool TryRead(long firstPage, Span<byte> destination) => block.TryRead(firstPage, destination);

    /// <summary>Fills the block, which holds only zeros yet, from the copy.</summary>
    public void Refill()
    {
        // Reading a hole would make memory of it, here and in QEMU.
        for (long at = 0; shadow.NextData(at, out long start, out long end); at = end)
        {
            for (long offset = start; offset < end;)
            {
                int now = (int)Math.Min(64 * ProtocolLimits.PageBytes, end - offset);
                block.Write(offset / ProtocolLimits.PageBytes, shadow.Span(offset, now));
                offset += now;
            }
        }
    }
}
