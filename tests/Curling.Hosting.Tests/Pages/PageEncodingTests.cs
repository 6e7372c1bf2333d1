using CsCheck;
using Curling.Hosting.Pages;
using Curling.Protocol;

namespace Curling.Hosting.Tests.Pages;

public class PageEncodingTests
{
    private const int Page = ProtocolLimits.PageBytes;
    private const int Block = 3;
    private const long BlockPages = 100;

    private static readonly Gen<PageCompression> Compressions = Gen.Int[0, 2].Select(i => (PageCompression)i);

    // What a guest does between two rounds: pages whole, pages touched in places, pages cleared.
    private static readonly Gen<(int First, int Count, int Kind, int Seed)[]> Writes = Gen.Select(
        Gen.Int[0, 95], Gen.Int[1, 5], Gen.Int[0, 4], Gen.Int).Array[1, 12];

    private static readonly Gen<(PageCompression, bool, (int, int, int, int)[])[]> Rounds =
        Gen.Select(Compressions, Gen.Frequency((9, Gen.Const(true)), (1, Gen.Const(false))), Writes).Array[1, 8];

    [Theory]
    [InlineData(1L << 20)]
    [InlineData(5L * Page)]
    [InlineData(0L)]
    public void What_is_applied_is_what_the_guest_has(long cacheBytes) => Rounds.Sample(
        rounds =>
        {
            using Lines lines = new(cacheBytes);
            foreach ((PageCompression compression, bool deltas, (int, int, int, int)[] writes) in rounds)
            {
                if (!deltas)
                {
                    lines.Encoder.Forget();
                }

                SortedSet<long> written = lines.Guest.Write(writes);
                lines.Send(written, compression, deltas);
                Assert.Equal(lines.Guest.Memory, lines.Standby.Memory);
            }
        },
        iter: 300,
        threads: 1);

    [Fact]
    public void Deltas_against_content_that_was_never_there_are_found_out()
    {
        // The defect: the cache outlives a connection, and the new one begins with other content.
        using Lines lines = new(1L << 20);
        SortedSet<long> written = lines.Guest.Write([(0, 5, 0, 1)]);
        lines.Send(written, PageCompression.Lz4, deltas: true);
        Array.Clear(lines.Standby.Memory);
        lines.Send(lines.Guest.Write([(0, 5, 1, 2)]), PageCompression.Lz4, deltas: true);
        Assert.NotEqual(lines.Guest.Memory, lines.Standby.Memory);
    }

    [Fact]
    public void Applying_a_round_twice_changes_nothing()
    {
        using Lines lines = new(1L << 20);
        lines.Send(lines.Guest.Write([(0, 40, 0, 1)]), PageCompression.Zstd, deltas: true);
        byte[] payload = lines.Send(lines.Guest.Write([(0, 40, 1, 2)]), PageCompression.Zstd, deltas: true);
        lines.Standby.Apply(payload);
        lines.Standby.Apply(payload);
        Assert.Equal(lines.Guest.Memory, lines.Standby.Memory);
    }

    [Fact]
    public void A_page_that_changed_in_a_word_costs_little()
    {
        using Lines lines = new(1L << 20);
        lines.Send(lines.Guest.Write([(0, 40, 0, 1)]), PageCompression.None, deltas: true);
        for (int page = 0; page < 40; page++)
        {
            lines.Guest.Memory[(page * Page) + 100] ^= 1;
        }

        byte[] payload = lines.Send([.. Enumerable.Range(0, 40).Select(p => (long)p)], PageCompression.None, deltas: true);
        Assert.True(payload.Length < 40 * 32, $"{payload.Length} bytes for 40 words");
    }

    [Theory]
    [InlineData(PageCompression.Lz4)]
    [InlineData(PageCompression.Zstd)]
    public void What_does_not_shrink_travels_as_it_is(PageCompression compression)
    {
        using Lines lines = new(0);
        byte[] payload = lines.Send(lines.Guest.Write([(0, 40, 0, 1)]), compression, deltas: false);
        Assert.Equal(DataPrefix.Bytes + (40 * Page) + MemoryRun.Bytes, payload.Length);
        Assert.Equal(PageEncoding.Raw, MemoryRun.Read(DataPrefix.Read(payload).Table(payload), 0).Encoding);
    }

    [Theory]
    [InlineData(PageCompression.Lz4)]
    [InlineData(PageCompression.Zstd)]
    public void What_shrinks_is_compressed(PageCompression compression)
    {
        using Lines lines = new(0);
        byte[] payload = lines.Send(lines.Guest.Write([(0, 40, 3, 1)]), compression, deltas: false);
        Assert.True(payload.Length < 40 * Page / 4, $"{payload.Length} bytes for 40 pages of text");
    }

    [Fact]
    public void Damaged_content_is_a_named_error_and_stays_inside() => Gen.Select(
        Compressions, Gen.Int[0, int.MaxValue], Gen.Byte, Gen.Int[0, 20]).Sample(
        (compression, where, flip, cut) =>
        {
            using Lines lines = new(1L << 20);
            lines.Send(lines.Guest.Write([(0, 20, 3, where)]), compression, deltas: true);
            byte[] payload = lines.Encode(lines.Guest.Write([(0, 20, 1, where + 1), (10, 30, 3, where)]), compression, deltas: true);
            payload[DataPrefix.Bytes + (where % (payload.Length - DataPrefix.Bytes))] ^= (byte)(flip | 1);
            payload = payload[..^Math.Min(cut / 10, payload.Length)];
            using PageDecoder decoder = new();
            byte[] decoded = new byte[ProtocolLimits.MaxDataPayload];
            try
            {
                DataPrefix prefix = DataPrefix.Read(payload);
                MemoryRun.Check(payload, prefix, BlockPages);
                int length = decoder.Decode(payload, prefix, decoded);
                lines.Standby.Apply(decoded[..length]);
            }
            catch (ProtocolException)
            {
                // Named; otherwise it was applied without leaving its pages, which are the block's.
            }
        },
        iter: 2000,
        threads: 1);

    [Fact]
    public void Deltas_of_any_bytes_are_whole_or_refused() => Gen.Byte.Array[0, 300].Select(Gen.Int[1, 3]).Sample(
        (bytes, pages) =>
        {
            if (PageDelta.IsWhole(bytes, pages))
            {
                Memory target = new();
                PageDelta.Apply(bytes, 0, pages, target);
            }
        },
        iter: 20000,
        threads: 1);

    [Fact]
    public void Lengths_that_lie_are_refused()
    {
        // One run of 64 pages that claims to decompress, twice: more than a frame may hold.
        byte[] payload = new byte[DataPrefix.Bytes + 20 + (2 * MemoryRun.Bytes)];
        new DataPrefix(SectionKind.Memory, Block, 2).Write(payload);
        new MemoryRun(0, 64, PageEncoding.Lz4, 10).Write(payload.AsSpan(DataPrefix.Bytes + 20));
        new MemoryRun(0, 64, PageEncoding.Zstd, 10).Write(payload.AsSpan(DataPrefix.Bytes + 20 + MemoryRun.Bytes));
        ProtocolException e = Assert.Throws<ProtocolException>(() => MemoryRun.Check(payload, DataPrefix.Read(payload), BlockPages));
        Assert.Contains("decode to 524288 bytes", e.Message, StringComparison.Ordinal);
    }

    /// <summary>Memory of one block, as the guest has it or as the standby gets it.</summary>
    private sealed class Memory : IPagePatch
    {
        public byte[] Content { get; } = new byte[BlockPages * Page];

        public void Patch(long page, int offset, ReadOnlySpan<byte> bytes) => bytes.CopyTo(Content.AsSpan((int)(page * Page) + offset));
    }

    private sealed class Side
    {
        private readonly Memory _memory = new();

        public byte[] Memory => _memory.Content;

        public SortedSet<long> Write((int First, int Count, int Kind, int Seed)[] writes)
        {
            SortedSet<long> written = [];
            foreach ((int first, int count, int kind, int seed) in writes)
            {
                Random random = new(seed);
                for (int page = first; page < Math.Min(first + count, (int)BlockPages); page++)
                {
                    Span<byte> bytes = Memory.AsSpan(page * Page, Page);
                    switch (kind)
                    {
                        case 0:
                            random.NextBytes(bytes);
                            break;
                        case 1:
                            for (int i = 0; i < 6; i++)
                            {
                                bytes[random.Next(Page)]++;
                            }

                            break;
                        case 2:
                            bytes.Clear();
                            break;
                        case 3:
                            for (int i = 0; i < Page; i++)
                            {
                                bytes[i] = (byte)('a' + (i / 7 % 20));
                            }

                            break;
                        default:
                            bytes[0] ^= 1;
                            bytes[Page - 1] ^= 1;
                            break;
                    }

                    written.Add(page);
                }
            }

            return written;
        }

        public void Apply(byte[] payload)
        {
            DataPrefix prefix = DataPrefix.Read(payload);
            ReadOnlySpan<byte> content = prefix.Content(payload);
            for (int i = 0; i < prefix.Runs; i++)
            {
                MemoryRun run = MemoryRun.Read(prefix.Table(payload), i);
                ReadOnlySpan<byte> own = content[..run.ContentBytes];
                content = content[run.ContentBytes..];
                Span<byte> place = Memory.AsSpan((int)run.FirstPage * Page, run.Pages * Page);
                switch (run.Encoding)
                {
                    case PageEncoding.Zero:
                        place.Clear();
                        break;
                    case PageEncoding.Delta:
                        PageDelta.Apply(own, run.FirstPage, run.Pages, _memory);
                        break;
                    default:
                        Assert.Equal(PageEncoding.Raw, run.Encoding);
                        own.CopyTo(place);
                        break;
                }
            }
        }
    }

    private sealed class Lines(long cacheBytes) : IDisposable
    {
        private readonly PageDecoder _decoder = new();

        public PageEncoder Encoder { get; } = new(cacheBytes);

        public Side Guest { get; } = new();

        public Side Standby { get; } = new();

        public byte[] Encode(SortedSet<long> pages, PageCompression compression, bool deltas)
        {
            byte[] frame = Capture(pages);
            byte[] encoded = new byte[ProtocolLimits.MaxDataPayload];
            int length = Encoder.Encode(frame, compression, deltas, encoded);
            return encoded[..length];
        }

        /// <summary>Encodes, checks as on arrival, decodes, applies; returns what travelled.</summary>
        public byte[] Send(SortedSet<long> pages, PageCompression compression, bool deltas)
        {
            byte[] last = [];
            foreach (long[] part in pages.Chunk(60))
            {
                byte[] encoded = Encode([.. part], compression, deltas);
                DataPrefix prefix = DataPrefix.Read(encoded);
                Assert.Equal(part.Length, MemoryRun.Check(encoded, prefix, BlockPages));
                byte[] decoded = new byte[ProtocolLimits.MaxDataPayload];
                int length = _decoder.Decode(encoded, prefix, decoded);
                Assert.False(MemoryRun.AnyCompressed(decoded.AsSpan(0, length), DataPrefix.Read(decoded.AsSpan(0, length))));
                Standby.Apply(decoded[..length]);
                last = encoded;
            }

            return last;
        }

        public void Dispose()
        {
            Encoder.Dispose();
            _decoder.Dispose();
        }

        private byte[] Capture(SortedSet<long> pages)
        {
            List<MemoryRun> runs = [];
            List<byte> content = [];
            foreach (long page in pages)
            {
                byte[] bytes = Guest.Memory[(int)(page * Page)..(int)((page + 1) * Page)];
                bool zero = bytes.All(b => b == 0);
                PageEncoding encoding = zero ? PageEncoding.Zero : PageEncoding.Raw;
                if (!zero)
                {
                    content.AddRange(bytes);
                }

                if (runs.Count > 0 && runs[^1].Encoding == encoding && runs[^1].FirstPage + runs[^1].Pages == page)
                {
                    runs[^1] = runs[^1] with { Pages = runs[^1].Pages + 1, ContentBytes = runs[^1].ContentBytes + (zero ? 0 : Page) };
                }
                else
                {
                    runs.Add(new MemoryRun(page, 1, encoding, zero ? 0 : Page));
                }
            }

            byte[] payload = new byte[DataPrefix.Bytes + content.Count + (runs.Count * MemoryRun.Bytes)];
            new DataPrefix(SectionKind.Memory, Block, runs.Count).Write(payload);
            content.CopyTo(payload, DataPrefix.Bytes);
            for (int i = 0; i < runs.Count; i++)
            {
                runs[i].Write(payload.AsSpan(DataPrefix.Bytes + content.Count + (i * MemoryRun.Bytes)));
            }

            return payload;
        }
    }
}
