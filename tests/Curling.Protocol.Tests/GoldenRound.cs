using Curling.Protocol;

namespace Curling.Protocol.Tests;

/// <summary>A small whole round, built frame by frame with the product's own writers.</summary>
internal static class GoldenRound
{
    /// <summary>Round 2 changes round 1: page 5 of block 0 becomes 0x5A, pages 9 and 10 become zero; three bytes of device state.</summary>
    public static IReadOnlyList<(FrameType Type, byte[] Payload)> Frames()
    {
        byte[] begin = new byte[RoundBegin.Bytes];
        new RoundBegin(2, 1, RoundKind.Incremental, 0).Write(begin);

        byte[] memory = new byte[DataPrefix.Bytes + ProtocolLimits.PageBytes + (2 * MemoryRun.Bytes)];
        new DataPrefix(SectionKind.Memory, 0, 2).Write(memory);
        memory.AsSpan(DataPrefix.Bytes, ProtocolLimits.PageBytes).Fill(0x5A);
        new MemoryRun(5, 1, PageEncoding.Raw, ProtocolLimits.PageBytes).Write(memory.AsSpan(DataPrefix.Bytes + ProtocolLimits.PageBytes));
        new MemoryRun(9, 2, PageEncoding.Zero, 0).Write(memory.AsSpan(DataPrefix.Bytes + ProtocolLimits.PageBytes + MemoryRun.Bytes));

        byte[] device = new byte[DataPrefix.Bytes + 3];
        new DataPrefix(SectionKind.DeviceState, 0, 0).Write(device);
        "QEV"u8.CopyTo(device.AsSpan(DataPrefix.Bytes));

        RoundDigest digest = new();
        digest.Add(FrameType.RoundBegin, begin.Length, FrameHeader.HashOf(begin));
        digest.Add(FrameType.RoundData, memory.Length, FrameHeader.HashOf(memory));
        digest.Add(FrameType.RoundData, device.Length, FrameHeader.HashOf(device));
        byte[] end = new byte[RoundEnd.Bytes];
        new RoundEnd(2, false, 1234, new RoundCounts(2, 0, ProtocolLimits.PageBytes, 3, 3), digest.Current).Write(end);
        return [(FrameType.RoundBegin, begin), (FrameType.RoundData, memory), (FrameType.RoundData, device), (FrameType.RoundEnd, end)];
    }

    /// <summary>The frames as they stand on the wire, numbered from <paramref name="first"/>.</summary>
    public static IReadOnlyList<byte[]> OnTheWire(uint first) => [.. Frames().Select((frame, i) =>
    {
        byte[] wire = new byte[FrameHeader.Bytes + frame.Payload.Length];
        new FrameHeader(frame.Type, frame.Payload.Length, first + (uint)i, FrameHeader.HashOf(frame.Payload)).Write(wire);
        frame.Payload.CopyTo(wire, FrameHeader.Bytes);
        return wire;
    })];

    /// <summary>Hexadecimal digits; a page of one byte is written as that byte times 4096.</summary>
    public static string Show(byte[] wire) => Convert.ToHexString(wire).Replace(
        string.Concat(Enumerable.Repeat("5A", ProtocolLimits.PageBytes)), " 5A×4096 ");
}
