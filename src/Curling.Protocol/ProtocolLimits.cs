namespace Curling.Protocol;

/// <summary>Every bound of the wire format in one place. No length from a peer is used before it is held against these.</summary>
public static class ProtocolLimits
{
    /// <summary>The version of the wire format that this code speaks.</summary>
    public const byte Version = 2;

    /// <summary>Guest memory is tracked, sent and applied in pages of this many bytes.</summary>
    public const int PageBytes = 4096;

    /// <summary>Bytes of content in one data frame: 64 pages.</summary>
    public const int MaxContentBytes = 64 * PageBytes;

    /// <summary>Memory runs in one data frame; a run is at least one page, but runs of zero pages have no content.</summary>
    public const int MaxRuns = 512;

    /// <summary>The largest payload of a data frame: prefix, content and run table.</summary>
    public const int MaxDataPayload = DataPrefix.Bytes + MaxContentBytes + (MaxRuns * MemoryRun.Bytes);

    /// <summary>The largest payload of a handshake frame, a JSON document.</summary>
    public const int MaxHandshakePayload = 256 * 1024;

    /// <summary>The largest payload of any other frame.</summary>
    public const int MaxControlPayload = 4096;

    /// <summary>The largest boot file (kernel, initrd, firmware) that travels.</summary>
    public const long MaxBootFileBytes = 2L << 30;

    /// <summary>Boot files of one guest.</summary>
    public const int MaxBootFiles = 8;

    /// <summary>Memory blocks of one guest.</summary>
    public const int MaxBlocks = 256;

    /// <summary>Disks of one guest.</summary>
    public const int MaxDisks = 16;

    /// <summary>Earlier histories of a disk that are named.</summary>
    public const int MaxAncestors = 32;

    /// <summary>The longest text (a reason, a name) in a control frame, in bytes of UTF-8.</summary>
    public const int MaxTextBytes = 2048;
}
