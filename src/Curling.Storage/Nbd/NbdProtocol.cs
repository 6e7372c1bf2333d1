namespace Curling.Storage.Nbd;

/// <summary>The numbers of the NBD protocol. All integers travel in network byte order. Source: nbd: doc/proto.md.</summary>
internal static class NbdProtocol
{
    internal const ulong Magic = 0x4e42444d41474943;
    internal const ulong OptionMagic = 0x49484156454F5054;
    internal const ulong OptionReplyMagic = 0x3e889045565a9;
    internal const uint RequestMagic = 0x25609513;
    internal const uint SimpleReplyMagic = 0x67446698;
    internal const uint StructuredReplyMagic = 0x668e33ef;

    internal const int GreetingBytes = 18;
    internal const int OptionHeaderBytes = 16;
    internal const int OptionReplyHeaderBytes = 20;
    internal const int RequestBytes = 28;
    internal const int SimpleReplyBytes = 16;
    internal const int StructuredReplyBytes = 20;

    /// <summary>The padding of the answer to <see cref="OptionExportName"/> that a client does without where it may.</summary>
    internal const int ExportNamePadding = 124;

    /// <summary>The longest payload of a request or a reply.</summary>
    internal const int MaxPayload = 32 << 20;

    /// <summary>The longest export name or metadata query, in bytes.</summary>
    internal const int MaxString = 4096;

    internal const ushort HandshakeFixedNewstyle = 1;
    internal const ushort HandshakeNoZeroes = 2;

    internal const uint OptionExportName = 1;
    internal const uint OptionAbort = 2;
    internal const uint OptionList = 3;
    internal const uint OptionStartTls = 5;
    internal const uint OptionInfo = 6;
    internal const uint OptionGo = 7;
    internal const uint OptionStructuredReply = 8;
    internal const uint OptionListMetaContext = 9;
    internal const uint OptionSetMetaContext = 10;

    internal const uint ReplyAck = 1;
    internal const uint ReplyServer = 2;
    internal const uint ReplyInfo = 3;
    internal const uint ReplyMetaContext = 4;
    internal const uint ReplyErrorUnsupported = 0x80000001;
    internal const uint ReplyErrorPolicy = 0x80000002;
    internal const uint ReplyErrorInvalid = 0x80000003;
    internal const uint ReplyErrorUnknown = 0x80000006;
    internal const uint ReplyErrorTooBig = 0x80000009;

    internal const ushort InfoExport = 0;
    internal const ushort InfoName = 1;
    internal const ushort InfoBlockSize = 3;

    internal const ushort FlagHasFlags = 1;
    internal const ushort FlagReadOnly = 1 << 1;
    internal const ushort FlagSendFlush = 1 << 2;
    internal const ushort FlagSendFua = 1 << 3;
    internal const ushort FlagSendTrim = 1 << 5;
    internal const ushort FlagSendWriteZeroes = 1 << 6;
    internal const ushort FlagSendDf = 1 << 7;
    internal const ushort FlagCanMultiConn = 1 << 8;

    internal const ushort CommandRead = 0;
    internal const ushort CommandWrite = 1;
    internal const ushort CommandDisconnect = 2;
    internal const ushort CommandFlush = 3;
    internal const ushort CommandTrim = 4;
    internal const ushort CommandWriteZeroes = 6;
    internal const ushort CommandBlockStatus = 7;

    internal const ushort CommandFlagFua = 1;
    internal const ushort CommandFlagNoHole = 1 << 1;
    internal const ushort CommandFlagDf = 1 << 2;
    internal const ushort CommandFlagReqOne = 1 << 3;

    internal const ushort ChunkDone = 1;
    internal const ushort ChunkNone = 0;
    internal const ushort ChunkOffsetData = 1;
    internal const ushort ChunkOffsetHole = 2;
    internal const ushort ChunkBlockStatus = 5;
    internal const ushort ChunkError = 0x8001;
    internal const ushort ChunkErrorOffset = 0x8002;

    internal const uint StateHole = 1;
    internal const uint StateZero = 2;

    internal const uint ErrorPermission = 1;
    internal const uint ErrorIo = 5;
    internal const uint ErrorInvalid = 22;
    internal const uint ErrorNoSpace = 28;
    internal const uint ErrorOverflow = 75;
    internal const uint ErrorNotSupported = 95;
    internal const uint ErrorShutdown = 108;

    internal const string BaseAllocation = "base:allocation";
    internal const uint BaseAllocationId = 1;
}
