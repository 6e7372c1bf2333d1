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

    /// <summary>Fills the block from the copy.</summary>
    public void Refill()
    {
        byte[] buffer = new byte[64 * ProtocolLimits.PageBytes];
        for (long page = 0; page < Pages;)
        {
            int now = (int)Math.Min(64, Pages - page);
            Span<byte> content = buffer.AsSpan(0, now * ProtocolLimits.PageBytes);
            _shadow.TryRead(page, content);
            block.Write(page, content);
            page += now;
        }
    }
}
