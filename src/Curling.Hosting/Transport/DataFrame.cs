using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Hosting.Transport;

/// <summary>How a data frame lies in a <see cref="Chunk"/> on the sender: room for the header, then the payload.</summary>
public static class DataFrame
{
    /// <summary>A chunk that holds any data frame, in whole pages.</summary>
    public const int ChunkBytes =
        (FrameHeader.Bytes + ProtocolLimits.MaxDataPayload + ProtocolLimits.PageBytes - 1) / ProtocolLimits.PageBytes * ProtocolLimits.PageBytes;

    /// <summary>Where the payload begins.</summary>
    public const int PayloadAt = FrameHeader.Bytes;

    /// <summary>Where the content begins, behind the prefix.</summary>
    public const int ContentAt = PayloadAt + DataPrefix.Bytes;
}
