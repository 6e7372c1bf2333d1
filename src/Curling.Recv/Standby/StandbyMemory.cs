using Curling.Hosting.Faults;
using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Protocol;
using Curling.Recv.Rounds;

namespace Curling.Recv.Standby;

/// <summary>One block of the standby's memory, as something pages can be written to.</summary>
internal interface IStandbyBlock : IPagePatch
{
    /// <summary>Pages of the block.</summary>
    long Pages { get; }

    /// <summary>Writes whole pages.</summary>
    void Write(long firstPage, ReadOnlySpan<byte> content);

    /// <summary>Makes pages zero.</summary>
    void Clear(long firstPage, int pages);

    /// <summary>Reads whole pages; false for a block that cannot be reached.</summary>
    bool TryRead(long firstPage, Span<byte> destination);
}

/// <summary>A block in a shared memory file: the waiting QEMU maps the same pages.</summary>
internal sealed class MappedBlock(SharedMapping mapping) : IStandbyBlock
{
    // Below this many pages clearing is cheaper than a system call.
    private const int WorthAHole = 16;

    // From this many bytes on a system call is cheaper than faults, as long as the memory does not exist yet.
    private const int WorthACall = 16 * ProtocolLimits.PageBytes;
    private volatile bool _exists;

    /// <inheritdoc/>
    public long Pages => mapping.Length / ProtocolLimits.PageBytes;

    /// <summary>Says that most of the memory exists now: from here on plain stores are cheaper.</summary>
    public void MemoryExists() => _exists = true;

    /// <inheritdoc/>
    public void Write(long firstPage, ReadOnlySpan<byte> content)
    {
        if (!_exists && content.Length >= WorthACall)
        {
            mapping.Write(firstPage * ProtocolLimits.PageBytes, content);
        }
        else
        {
            content.CopyTo(mapping.Span(firstPage * ProtocolLimits.PageBytes, content.Length));
        }
    }

    /// <inheritdoc/>
    public void Clear(long firstPage, int pages)
    {
        long offset = firstPage * ProtocolLimits.PageBytes;
        long length = (long)pages * ProtocolLimits.PageBytes;
        if (pages >= WorthAHole)
        {
            // Reading or writing a hole would turn it into memory that holds zeros.
            mapping.PunchHole(offset, length);
        }
        else
        {
            mapping.Span(offset, (int)length).Clear();
        }
    }

    /// <inheritdoc/>
    public void Patch(long page, int offset, ReadOnlySpan<byte> bytes) =>
        bytes.CopyTo(mapping.Span((page * ProtocolLimits.PageBytes) + offset, bytes.Length));

    /// <inheritdoc/>
    public bool TryRead(long firstPage, Span<byte> destination)
    {
        mapping.Span(firstPage * ProtocolLimits.PageBytes, destination.Length).CopyTo(destination);
        return true;
    }
}

/// <summary>A block that only the waiting QEMU maps, such as a display's memory: written by address.</summary>
internal sealed class RemoteBlock(int pid, ulong address, long bytes) : IStandbyBlock
{
    private static readonly byte[] Zeros = new byte[64 * ProtocolLimits.PageBytes];

    /// <inheritdoc/>
    public long Pages => bytes / ProtocolLimits.PageBytes;

    /// <inheritdoc/>
    public void Write(long firstPage, ReadOnlySpan<byte> content) =>
        ProcessMemory.Write(pid, address + (ulong)(firstPage * ProtocolLimits.PageBytes), content);

    /// <inheritdoc/>
    public void Clear(long firstPage, int pages)
    {
        for (int left = pages; left > 0; left -= 64)
        {
            Write(firstPage, Zeros.AsSpan(0, Math.Min(left, 64) * ProtocolLimits.PageBytes));
            firstPage += 64;
        }
    }

    /// <inheritdoc/>
    public void Patch(long page, int offset, ReadOnlySpan<byte> bytes) =>
        ProcessMemory.Write(pid, address + (ulong)((page * ProtocolLimits.PageBytes) + offset), bytes);

    /// <inheritdoc/>
    public bool TryRead(long firstPage, Span<byte> destination)
    {
        ProcessMemory.Read(pid, address + (ulong)(firstPage * ProtocolLimits.PageBytes), destination);
        return true;
    }
}

/// <summary>A boot-time ROM that cannot be found in this QEMU: it is filled anew when the guest is reset.</summary>
internal sealed class UnreachableRomBlock(long bytes) : IStandbyBlock
{
    /// <inheritdoc/>
    public long Pages => bytes / ProtocolLimits.PageBytes;

    /// <inheritdoc/>
    public void Write(long firstPage, ReadOnlySpan<byte> content)
    {
    }

    /// <inheritdoc/>
    public void Clear(long firstPage, int pages)
    {
    }

    /// <inheritdoc/>
    public void Patch(long page, int offset, ReadOnlySpan<byte> bytes)
    {
    }

    /// <inheritdoc/>
    public bool TryRead(long firstPage, Span<byte> destination) => false;
}

/// <summary>Applies the memory frames of a committed round to the standby's blocks.</summary>
/// <remarks>Every run was checked against its block when it arrived. Applying the same round again gives the same memory.</remarks>
internal static class RoundApplier
{
    /// <summary>Applies the memory frames of a round.</summary>
    public static void ApplyMemory(IReadOnlyList<Chunk> chunks, IReadOnlyList<IStandbyBlock> blocks)
    {
        for (int i = 0; i < chunks.Count; i++)
        {
            if (i == chunks.Count / 2)
            {
                FaultPoint.Hit(FaultPoint.RecvHalfApplied);
            }

            ApplyMemory(chunks[i], blocks);
        }
    }

    /// <summary>Applies a data frame if it is one of memory.</summary>
    public static void ApplyMemory(Chunk chunk, IReadOnlyList<IStandbyBlock> blocks)
    {
        ApplyMemory(chunk.Span[..chunk.Length], blocks);
    }

    /// <summary>Applies the payload of a data frame if it is one of memory.</summary>
    public static void ApplyMemory(ReadOnlySpan<byte> payload, IReadOnlyList<IStandbyBlock> blocks)
    {
        DataPrefix prefix = DataPrefix.Read(payload);
        if (prefix.Section == SectionKind.Memory)
        {
            ApplyFrame(payload, prefix, blocks[prefix.Block]);
        }
    }

    private static void ApplyFrame(ReadOnlySpan<byte> payload, DataPrefix prefix, IStandbyBlock block)
    {
        ReadOnlySpan<byte> table = prefix.Table(payload);
        ReadOnlySpan<byte> content = prefix.Content(payload);
        for (int i = 0; i < prefix.Runs; i++)
        {
            MemoryRun run = MemoryRun.Read(table, i);
            if (run.Encoding == PageEncoding.Zero)
            {
                block.Clear(run.FirstPage, run.Pages);
            }
            else if (run.Encoding == PageEncoding.Delta)
            {
                PageDelta.Apply(content[..run.ContentBytes], run.FirstPage, run.Pages, block);
                content = content[run.ContentBytes..];
            }
            else
            {
                block.Write(run.FirstPage, content[..run.ContentBytes]);
                content = content[run.ContentBytes..];
            }
        }
    }
}
