namespace Curling.Protocol.Tests;

/// <summary>A round is whole only when every frame of it came once, in order, unchanged.</summary>
public sealed class RoundAssemblerTests
{
    [Fact]
    public void Whole_round_is_whole()
    {
        RoundEnd end = Assemble(GoldenRound.Frames());
        Assert.Equal(2, end.Round);
        Assert.Equal(4096 + 3, end.Counts.TotalBytes);
    }

    [Fact]
    public void Dropped_repeated_and_swapped_frames_are_refused()
    {
        IReadOnlyList<(FrameType Type, byte[] Payload)> frames = GoldenRound.Frames();
        for (int i = 0; i < frames.Count - 1; i++)
        {
            List<(FrameType, byte[])> dropped = [.. frames];
            dropped.RemoveAt(i);
            Assert.Throws<ProtocolException>(() => Assemble(dropped));
            List<(FrameType, byte[])> repeated = [.. frames];
            repeated.Insert(i, frames[i]);
            Assert.Throws<ProtocolException>(() => Assemble(repeated));
            List<(FrameType, byte[])> swapped = [.. frames];
            (swapped[i], swapped[i + 1]) = (swapped[i + 1], swapped[i]);
            Assert.Throws<ProtocolException>(() => Assemble(swapped));
        }
    }

    [Fact]
    public void Every_count_matters()
    {
        RoundEnd right = RoundEnd.Read(GoldenRound.Frames()[3].Payload);
        RoundCounts c = right.Counts;
        foreach (RoundEnd wrong in (RoundEnd[])[
            right with { Counts = c with { Frames = c.Frames + 1 } },
            right with { Counts = c with { StreamBytes = 1 } },
            right with { Counts = c with { MemoryBytes = c.MemoryBytes - 1 } },
            right with { Counts = c with { MemoryPages = c.MemoryPages + 1 } },
            right with { Counts = c with { DeviceBytes = 0 } },
            right with { Digest = right.Digest + 1 }])
        {
            List<(FrameType, byte[])> frames = [.. GoldenRound.Frames()];
            byte[] end = new byte[RoundEnd.Bytes];
            wrong.Write(end);
            frames[3] = (FrameType.RoundEnd, end);
            Assert.Equal(ProtocolError.DamagedRound, Assert.Throws<ProtocolException>(() => Assemble(frames)).Error);
        }
    }

    [Fact]
    public void Content_that_changed_shows_in_the_digest_even_with_a_checksum_of_its_own()
    {
        List<(FrameType Type, byte[] Payload)> frames = [.. GoldenRound.Frames()];
        frames[1].Payload[100] ^= 1;
        Assert.Equal(ProtocolError.DamagedRound, Assert.Throws<ProtocolException>(() => Assemble(frames)).Error);
    }

    [Fact]
    public void Round_without_device_state_is_refused()
    {
        RoundAssembler assembler = new();
        byte[] begin = new byte[RoundBegin.Bytes];
        new RoundBegin(1, 0, RoundKind.Full, 0).Write(begin);
        assembler.Begin(new FrameHeader(FrameType.RoundBegin, begin.Length, 0, FrameHeader.HashOf(begin)), begin);
        RoundDigest digest = new();
        digest.Add(FrameType.RoundBegin, begin.Length, FrameHeader.HashOf(begin));
        byte[] end = new byte[RoundEnd.Bytes];
        new RoundEnd(1, false, 0, default, digest.Current).Write(end);
        Assert.Contains("no device state", Assert.Throws<ProtocolException>(() => assembler.End(end)).Message);
    }

    [Fact]
    public void Stream_has_no_place_in_an_incremental_round()
    {
        List<(FrameType Type, byte[] Payload)> frames = [.. GoldenRound.Frames()];
        frames[2].Payload[0] = (byte)SectionKind.Stream;
        Assert.Equal(ProtocolError.UnexpectedFrame, Assert.Throws<ProtocolException>(() => Assemble(frames)).Error);
    }

    private static RoundEnd Assemble(IReadOnlyList<(FrameType Type, byte[] Payload)> frames)
    {
        RoundAssembler assembler = new();
        RoundEnd? end = null;
        foreach ((FrameType type, byte[] payload) in frames)
        {
            FrameHeader header = new(type, payload.Length, 0, FrameHeader.HashOf(payload));
            switch (type)
            {
                case FrameType.RoundBegin:
                    assembler.Begin(header, payload);
                    break;
                case FrameType.RoundData:
                    DataPrefix prefix = DataPrefix.Read(payload);
                    assembler.Data(header, prefix, prefix.Section == SectionKind.Memory ? MemoryRun.Check(payload, prefix, 100) : 0);
                    break;
                default:
                    end = assembler.End(payload);
                    break;
            }
        }

        return end ?? throw new ProtocolException(ProtocolError.Truncated, "there was no end");
    }
}
