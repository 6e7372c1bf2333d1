using System.Text;
using System.Text.Json;
using CsCheck;

namespace Curling.Protocol.Tests;

/// <summary>Every decoder: what was written is read back; any bytes give a record or a named error, within bounds.</summary>
public sealed class DecoderTests
{
    private static readonly Gen<byte[]> AnyBytes = Gen.Byte.Array[0, 600];

    [Fact]
    public void Header_is_read_back() =>
        Gen.Select(Gen.Enum<FrameType>(), Gen.Int[0, ProtocolLimits.MaxControlPayload], Gen.UInt, Gen.ULong).Sample((type, length, sequence, hash) =>
        {
            byte[] bytes = new byte[FrameHeader.Bytes];
            FrameHeader header = new(type, length, sequence, hash);
            header.Write(bytes);
            Assert.Equal(header, FrameHeader.Read(bytes));
        });

    [Fact]
    public void Every_single_bit_flip_of_a_header_is_refused()
    {
        byte[] bytes = new byte[FrameHeader.Bytes];
        new FrameHeader(FrameType.RoundData, 5000, 42, 0x0123456789ABCDEF).Write(bytes);
        for (int bit = 0; bit < bytes.Length * 8; bit++)
        {
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.Throws<ProtocolException>(() => FrameHeader.Read(bytes));
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
        }
    }

    [Theory]
    [InlineData(0, ProtocolError.NotCurling)]
    [InlineData(4, ProtocolError.Version)]
    [InlineData(9, ProtocolError.DamagedHeader)]
    public void Damaged_header_names_what_is_wrong(int at, ProtocolError expected)
    {
        byte[] bytes = new byte[FrameHeader.Bytes];
        new FrameHeader(FrameType.Heartbeat, 8, 0, 1).Write(bytes);
        bytes[at] ^= 0xFF;
        Assert.Equal(expected, Assert.Throws<ProtocolException>(() => FrameHeader.Read(bytes)).Error);
    }

    [Fact]
    public void Length_beyond_the_types_bound_is_refused()
    {
        foreach (FrameType type in Enum.GetValues<FrameType>())
        {
            foreach (int length in (int[])[FrameHeader.MaxPayload(type) + 1, int.MaxValue, -1, int.MinValue])
            {
                byte[] bytes = new byte[FrameHeader.Bytes];
                new FrameHeader(type, length, 0, 0).Write(bytes);
                Assert.Equal(ProtocolError.TooLong, Assert.Throws<ProtocolException>(() => FrameHeader.Read(bytes)).Error);
            }
        }
    }

    [Fact]
    public void Payload_that_differs_from_its_header_is_refused() =>
        Gen.Select(Gen.Byte.Array[1, 300], Gen.Int[0, 299], Gen.Int[0, 7]).Sample((payload, at, bit) =>
        {
            FrameHeader header = new(FrameType.FileData, payload.Length, 0, FrameHeader.HashOf(payload));
            header.Check(payload);
            payload[at % payload.Length] ^= (byte)(1 << bit);
            Assert.Equal(ProtocolError.DamagedPayload, Assert.Throws<ProtocolException>(() => header.Check(payload)).Error);
        });

    [Fact]
    public void Round_begin_is_read_back() =>
        Gen.Select(Gen.Long[2, long.MaxValue], Gen.Enum<RoundKind>(), Gen.Long[0, long.MaxValue]).Sample((round, kind, expected) =>
        {
            byte[] bytes = new byte[RoundBegin.Bytes];
            RoundBegin begin = new(round, kind == RoundKind.Incremental ? round - 1 : 0, kind, expected);
            begin.Write(bytes);
            Assert.Equal(begin, RoundBegin.Read(bytes));
            Assert.Throws<ProtocolException>(() => RoundBegin.Read(bytes.AsSpan(1)));
            (begin with { Parent = round }).Write(bytes);
            Assert.Throws<ProtocolException>(() => RoundBegin.Read(bytes));
        });

    [Fact]
    public void Round_end_is_read_back() =>
        Gen.Select(Gen.Long, Gen.Bool, Gen.UInt, Gen.Long, Gen.Long).Sample((round, final, pause, a, b) =>
        {
            byte[] bytes = new byte[RoundEnd.Bytes];
            RoundEnd end = new(round, final, pause, new RoundCounts((int)a, b, a ^ b, a, b), new UInt128((ulong)a, (ulong)b));
            end.Write(bytes);
            Assert.Equal(end, RoundEnd.Read(bytes));
            bytes[0] ^= 1;
            Assert.Throws<ProtocolException>(() => RoundEnd.Read(bytes));
        });

    [Fact]
    public void Coded_text_is_read_back_without_control_characters()
    {
        Gen.Select(Gen.UShort, Gen.String[0, 400]).Sample((code, text) =>
        {
            byte[] bytes = new byte[ProtocolLimits.MaxControlPayload];
            int length = new CodedText(code, text).Write(bytes);
            CodedText read = CodedText.Read(FrameType.Goodbye, bytes.AsSpan(0, length));
            Assert.Equal(code, read.Code);
            Assert.DoesNotContain(read.Text, char.IsControl);
        });
        byte[] room = new byte[ProtocolLimits.MaxControlPayload];
        int cut = new CodedText(1, new string('ü', 5000)).Write(room);
        Assert.True(cut <= 2 + ProtocolLimits.MaxTextBytes);
        Assert.StartsWith("üü", CodedText.Read(FrameType.Refusal, room.AsSpan(0, cut)).Text);
    }

    [Fact]
    public void Vouch_is_sixteen_bytes_and_promises_something_bounded()
    {
        byte[] bytes = new byte[VouchMessage.Bytes];
        new VouchMessage(0x0102030405060708, 3000).Write(bytes);
        Assert.Equal("0807060504030201B80B000000000000", Convert.ToHexString(bytes));
        Assert.Equal(new VouchMessage(0x0102030405060708, 3000), VouchMessage.Read(FrameType.VouchAsk, bytes));
        foreach (VouchMessage wrong in (VouchMessage[])[new(0, 1), new(-1, 1), new(1, 0), new(1, -1), new(1, VouchMessage.MaxMilliseconds + 1)])
        {
            wrong.Write(bytes);
            Assert.Throws<ProtocolException>(() => VouchMessage.Read(FrameType.Vouch, bytes));
        }

        Assert.Throws<ProtocolException>(() => VouchMessage.Read(FrameType.Vouch, new byte[VouchMessage.Bytes + 1]));
    }

    [Fact]
    public void Runs_that_fit_their_block_pass_and_others_are_refused()
    {
        Gen.Select(Gen.Long[0, 90], Gen.Int[1, 8], Gen.Enum<PageEncoding>(), Gen.Frequency((1, Gen.Int[0, 16]), (4, Gen.Int[0, 40000]))).Sample((first, pages, encoding, content) =>
        {
            byte[] payload = new byte[DataPrefix.Bytes + content + MemoryRun.Bytes];
            DataPrefix prefix = new(SectionKind.Memory, 3, 1);
            prefix.Write(payload);
            MemoryRun run = new(first, pages, encoding, content);
            run.Write(payload.AsSpan(DataPrefix.Bytes + content));
            Assert.Equal(prefix, DataPrefix.Read(payload));
            Assert.Equal(run, MemoryRun.Read(prefix.Table(payload), 0));
            bool fits = first + pages <= 96 && encoding switch
            {
                PageEncoding.Raw => content == pages * ProtocolLimits.PageBytes,
                PageEncoding.Zero => content == 0,
                PageEncoding.Lz4 or PageEncoding.Zstd => content > 0 && content < pages * ProtocolLimits.PageBytes,

                // All zero: deltas of no pieces, two bytes each.
                PageEncoding.Delta => content == pages * 2,
                _ => false,
            };
            if (fits)
            {
                Assert.Equal(pages, MemoryRun.Check(payload, prefix, 96));
            }
            else
            {
                Assert.Throws<ProtocolException>(() => MemoryRun.Check(payload, prefix, 96));
            }
        });
    }

    [Fact]
    public void Any_bytes_give_a_record_or_a_named_error()
    {
        // Valid beginnings with a few bytes changed reach deeper than noise does.
        byte[][] valid = [.. GoldenRound.Frames().Select(f => f.Payload), Encoding.UTF8.GetBytes("{\"sender\":\"a\",\"generation\":1,\"guest\":{},\"files\":[{\"role\":\"kernel\"}]}")];
        Gen<byte[]> mutated = Gen.Select(Gen.Int[0, valid.Length - 1], Gen.Int[0, 8191], Gen.Byte, Gen.Int[0, 8191], Gen.Byte, Gen.Int[0, 20])
            .Select((i, a, x, b, y, cut) =>
            {
                byte[] bytes = (byte[])valid[i].Clone();
                bytes[a % bytes.Length] = x;
                bytes[b % bytes.Length] ^= y;
                return bytes[..Math.Max(0, bytes.Length - (cut < 10 ? 0 : cut))];
            });
        foreach (Gen<byte[]> input in (Gen<byte[]>[])[AnyBytes, mutated])
        {
            input.Sample(Decode, iter: 5000, threads: 1);
        }
    }

    [Fact]
    public void Decoding_takes_bounded_memory()
    {
        byte[] hostile = Encoding.UTF8.GetBytes($"{{\"sender\":\"{new string('x', 100_000)}\"}}");
        byte[] noise = new byte[600];
        new Random(5).NextBytes(noise);
        Decode(hostile);
        Decode(noise);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 50; i++)
        {
            Decode(noise);
        }

        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 50 * 400_000L);
        before = GC.GetAllocatedBytesForCurrentThread();
        Decode(hostile);
        Assert.True(GC.GetAllocatedBytesForCurrentThread() - before < 40L * hostile.Length);
    }

    [Fact]
    public void Handshake_is_read_back()
    {
        using JsonDocument guest = JsonDocument.Parse("{\"name\":\"x\"}");
        Hello hello = new(
            "0123", 3, guest.RootElement, "pc-q35-7.2", "tcg", "7.2.0", [Handshake.Full], [new HelloFile("kernel", 5, new string('a', 64))],
            [new HelloBlock("ram", 8192)]);
        Hello read = Handshake.ReadHello(Handshake.Write(hello));
        Assert.Equal(hello.Sender, read.Sender);
        Assert.Equal(hello.Files, read.Files);
        Assert.Equal(hello.Blocks, read.Blocks);
        Assert.Equal("{\"name\":\"x\"}", read.Guest.GetRawText());
        Welcome welcome = Handshake.ReadWelcome(Handshake.Write(new Welcome([0], [Handshake.Full], 4)), 1);
        Assert.Equal(4, welcome.CommittedRound);
        Assert.Throws<ProtocolException>(() => Handshake.ReadWelcome(Handshake.Write(new Welcome([1], [], 4)), 1));
        Assert.Throws<ProtocolException>(() => Handshake.ReadWelcome(Handshake.Write(new Welcome([0, 0], [], 4)), 2));
        foreach (Hello wrong in (Hello[])[
            hello with { Sender = "" },
            hello with { Generation = 0 },
            hello with { Accelerator = "xen" },
            hello with { Files = [new HelloFile("disk", 5, new string('a', 64))] },
            hello with { Files = [new HelloFile("kernel", -1, new string('a', 64))] },
            hello with { Files = [new HelloFile("kernel", 1, "../../etc/passwd" + new string('a', 48))] },
            hello with { Blocks = [new HelloBlock("ram", 5)] },
            hello with { Blocks = [.. Enumerable.Range(0, 300).Select(i => new HelloBlock("b" + i, 4096))] }])
        {
            Assert.Equal(ProtocolError.Malformed, Assert.Throws<ProtocolException>(() => Handshake.ReadHello(Handshake.Write(wrong))).Error);
        }
    }

    private static void Decode(byte[] bytes)
    {
        foreach (Action decoder in (Action[])[
            () => FrameHeader.Read(bytes),
            () => RoundBegin.Read(bytes),
            () => RoundEnd.Read(bytes),
            () => CodedText.Read(FrameType.Refusal, bytes),
            () => RoundNumber.Read(FrameType.Complete, bytes),
            () => FilePiece.Read(bytes),
            () => Heartbeat.Read(bytes),
            () => VouchMessage.Read(FrameType.Vouch, bytes),
            () => Handshake.ReadHello(bytes),
            () => Handshake.ReadWelcome(bytes, 2),
            () =>
            {
                DataPrefix prefix = DataPrefix.Read(bytes);
                _ = prefix.Content(bytes).Length;
                if (prefix.Section == SectionKind.Memory)
                {
                    MemoryRun.Check(bytes, prefix, 1 << 20);
                }
            }])
        {
            try
            {
                decoder();
            }
            catch (ProtocolException e)
            {
                Assert.True(Enum.IsDefined(e.Error));
                Assert.NotEmpty(e.Message);
            }
        }
    }
}
