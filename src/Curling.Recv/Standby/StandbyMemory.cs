using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Recv.Rounds;

namespace Curling.Recv.Standby;

/// <summary>One block of the standby's memory, as something pages can be written to.</summary>
internal interface IStandbyBlock
{
    /// <summary>Pages of the block.</summary>
    long Pages { get; }

    /// <summary>Writes whole pages.</summary>
    void Write(long firstPage, ReadOnlySpan<byte> content);

    /// <summary>Makes pages zero.</summary>
    void Clear(long firstPage, int pages);
}

/// <summary>A block in a shared memory file: the waiting QEMU maps the same pages.</summary>
internal sealed class MappedBlock(SharedMapping mapping) : IStandbyBlock
{
    /// <inheritdoc/>
    public long Pages => mapping.Length / ProtocolLimits.PageBytes;

    /// <inheritdoc/>
    public void Write(long firstPage, ReadOnlySpan<byte> content) =>
        content.CopyTo(mapping.Span(firstPage * ProtocolLimits.PageBytes, content.Length));

    /// <inheritdoc/>
    public void Clear(long firstPage, int pages)
    {
        for (int i = 0; i < pages; i++)
        {
            Span<byte> page = mapping.Span((firstPage + i) * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes);

            // A page that was never touched stays a hole instead of becoming memory that holds zeros.
            if (!MemoryCopy.IsZero(page))
            {
                page.Clear();
            }
        }
    }
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
            ReadOnlySpan<byte> payload = chunks[i].Span[..chunks[i].Length];
            DataPrefix prefix = DataPrefix.Read(payload);
            if (prefix.Section == SectionKind.Memory)
            {
                ApplyFrame(payload, prefix, blocks[prefix.Block]);
            }
        }
    }

    /// <summary>Collects the device state of a round.</summary>
    public static void CollectDeviceState(IReadOnlyList<Chunk> chunks, MemoryStream destination)
    {
        destination.SetLength(0);
        for (int i = 0; i < chunks.Count; i++)
        {
            ReadOnlySpan<byte> payload = chunks[i].Span[..chunks[i].Length];
            DataPrefix prefix = DataPrefix.Read(payload);
            if (prefix.Section == SectionKind.DeviceState)
            {
                destination.Write(prefix.Content(payload));
            }
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
            else
            {
                block.Write(run.FirstPage, content[..run.ContentBytes]);
                content = content[run.ContentBytes..];
            }
        }
    }
}
