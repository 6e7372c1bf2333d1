using System.Text.Json;
using CsCheck;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Curling.Recv.Sessions;
using Curling.Recv.Standby;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>What a receiver that dies at any step leaves is one committed round, whole.</summary>
public sealed class JournalTests : IDisposable
{
    private const int Page = ProtocolLimits.PageBytes;
    private const int RamPages = 64;
    private const long MaxRoundBytes = 4L * DataFrame.ChunkBytes;
    private static readonly int Chunks = GuestSession.Chunks(MaxRoundBytes);

    private static readonly Gen<JournalRecord> Records = Gen.Select(
        Gen.Long[1, long.MaxValue], Gen.Int[1, 3], Gen.String[Gen.Char['a', 'z'], 1, 30], Gen.Long[1, 1 << 30],
        Gen.Select(Gen.Int[0, Chunks - 1], Gen.Int[0, DataFrame.ChunkBytes]).Array[0, Chunks]).Select(
        (round, kind, name, length, toApply) => new JournalRecord
        {
            Round = round,
            Kind = (RoundKind)kind,
            StateFile = name,
            StateLength = length,
            StateHash = (ulong)round * 31,
            At = DateTimeOffset.FromUnixTimeMilliseconds(length),
            ToApply = [.. toApply],
        });

    private readonly string _directory = Directory.CreateDirectory(Path.Combine("/dev/shm", "cj" + Guid.NewGuid().ToString("N")[..8])).FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public void Record_that_is_cut_or_has_a_bit_turned_is_none() => Records.Sample(
        record =>
        {
            byte[] slot = new byte[JournalRecord.MaxBytes(Chunks)];
            int length = record.Write(slot);
            JournalRecord read = JournalRecord.TryRead(slot, Chunks, DataFrame.ChunkBytes)!;
            Assert.Equal(record.ToApply, read.ToApply);
            Assert.Equal(record with { ToApply = [] }, read with { ToApply = [] });
            for (int i = 0; i < length; i++)
            {
                Assert.Null(JournalRecord.TryRead(slot.AsSpan(0, i), Chunks, DataFrame.ChunkBytes));
                slot[i] ^= (byte)(1 << (i % 8));
                Assert.Null(JournalRecord.TryRead(slot, Chunks, DataFrame.ChunkBytes));
                slot[i] ^= (byte)(1 << (i % 8));
            }
        },
        iter: 50,
        threads: 1);

    [Fact]
    public void Record_that_names_what_cannot_be_is_none()
    {
        JournalRecord good = new() { Round = 1, Kind = RoundKind.Base, StateFile = "device-0", StateLength = 1, At = DateTimeOffset.UnixEpoch };
        foreach (JournalRecord bad in (JournalRecord[])[
            good with { StateFile = "../else" },
            good with { StateFile = "" },
            good with { Round = 0 },
            good with { StateLength = -1 },
            good with { Kind = (RoundKind)9 },
            good with { ToApply = [(Chunks, 1)] },
            good with { ToApply = [(0, DataFrame.ChunkBytes + 1)] },
            good with { ToApply = [(-1, 1)] }])
        {
            byte[] slot = new byte[JournalRecord.MaxBytes(Chunks)];
            bad.Write(slot);
            Assert.Null(JournalRecord.TryRead(slot, Chunks, DataFrame.ChunkBytes));
        }
    }

    [Fact]
    public void Any_bytes_are_no_record() => Gen.Byte.Array[0, 400].Sample(
        bytes => Assert.Null(JournalRecord.TryRead(bytes, Chunks, DataFrame.ChunkBytes)), iter: 20000, threads: 1);

    /// <summary>
    /// The steps of a commit, taken one by one; after each the process is taken to be dead, and its files are looked at as the
    /// next receiver does.
    /// </summary>
    [Fact]
    public void Death_at_any_step_of_a_commit_leaves_one_round_whole()
    {
        using SharedMapping ram = SharedMapping.Create(Path.Combine(_directory, "ram"), RamPages * Page);
        using ChunkPool pool = new(DataFrame.ChunkBytes, MaxRoundBytes, Path.Combine(_directory, GuestSession.PrefetchFile));
        using CommittedState committed = new(_directory);
        using RoundJournal journal = RoundJournal.Create(_directory, Chunks);
        IReadOnlyList<IStandbyBlock> blocks = [new MappedBlock(ram)];
        Assert.Null(Look());

        byte[][] memories = new byte[6][];
        memories[0] = new byte[RamPages * Page];
        int applied = 0;
        for (int round = 1; round <= 5; round++)
        {
            // Two frames of memory; the second one patches pages of the first as well as others.
            Chunk[] frames = [Frame(pool, round, 0, 30), Frame(pool, round, 20, 30), State(pool, round)];
            byte[] after = (byte[])memories[round - 1].Clone();
            foreach (Chunk frame in frames)
            {
                Paint(after, frame);
            }

            memories[round] = after;
            JournalRecord record = committed.WriteDeviceState(frames, new JournalRecord { Round = round, Kind = RoundKind.Incremental, At = DateTimeOffset.UnixEpoch });
            Expect(round - 1, memories);
            byte[] old = File.ReadAllBytes(Path.Combine(_directory, "journal"));
            journal.Write(record with { ToApply = [.. frames.Select(f => (f.Index, f.Length))] });
            byte[] whole = File.ReadAllBytes(Path.Combine(_directory, "journal"));

            // The record itself may be torn anywhere.
            for (int cut = 0; cut < 200; cut += 7)
            {
                byte[] torn = (byte[])whole.Clone();
                int at = 4096 * (JournalRecord.MaxBytes(Chunks) + 4095) / 4096;
                int slot = Enumerable.Range(0, whole.Length).First(i => i >= old.Length || old[i] != whole[i]) / at * at;
                for (int i = slot + cut; i < Math.Min(torn.Length, slot + at); i++)
                {
                    torn[i] = i < old.Length ? old[i] : (byte)0;
                }

                if (!torn.AsSpan().SequenceEqual(whole))
                {
                    Expect(round - 1, memories, torn);
                }
            }

            Expect(round, memories);
            for (int frame = 0; frame < frames.Length; frame++)
            {
                RoundApplier.ApplyMemory(frames[frame], blocks);
                Expect(round, memories);
                applied++;
            }

            journal.Write(record);
            committed.UseDeviceState(record);
            Expect(round, memories);
            foreach (Chunk frame in frames)
            {
                // Whoever rents it next writes something else there.
                frame.Span.Fill(0xEE);
                frame.Return();
            }

            Expect(round, memories);
        }

        Assert.Equal(15, applied);
    }

    private void Expect(int round, byte[][] memories, byte[]? journal = null)
    {
        (long Round, byte[] Memory, byte[] State)? found = Look(journal);
        if (round == 0)
        {
            Assert.Null(found);
            return;
        }

        Assert.Equal(round, found!.Value.Round);
        Assert.True(memories[round].AsSpan().SequenceEqual(found.Value.Memory), $"the memory is not that of round {round}");
        Assert.Equal([.. Enumerable.Repeat((byte)round, 1000 + round)], found.Value.State);
    }

    /// <summary>What a later receiver finds, in a copy.</summary>
    private (long Round, byte[] Memory, byte[] State)? Look(byte[]? journal = null)
    {
        string copy = Directory.CreateDirectory(_directory + "-copy").FullName;
        try
        {
            foreach (string file in Directory.GetFiles(_directory))
            {
                File.Copy(file, Path.Combine(copy, Path.GetFileName(file)));
            }

            if (journal is not null)
            {
                File.WriteAllBytes(Path.Combine(copy, "journal"), journal);
            }

            using SharedMapping ram = SharedMapping.Open(Path.Combine(copy, "ram"), writable: true);
            Hello hello = new(
                "s", 1, JsonDocument.Parse("{}").RootElement, "pc-q35-7.2", "tcg", "7.2.22", [], [], [new HelloBlock("ram", RamPages * Page)]);
            RestoredSession? restored = RestoredSession.Replay(
                copy, new SessionFile("tcp:h:1", MaxRoundBytes, hello), ram, StandbyDisks.None("g", NullLogger.Instance));
            if (restored is null)
            {
                return null;
            }

            byte[] state = new byte[5000];
            int length = restored.Committed.Read(state, 0);
            restored.Committed.Leave();
            restored.Journal.Dispose();
            return (restored.Last.Round, ram.Span(0, RamPages * Page).ToArray(), state[..length]);
        }
        finally
        {
            Directory.Delete(copy, recursive: true);
        }
    }

    private static Chunk Frame(ChunkPool pool, int round, int first, int pages)
    {
        Assert.True(pool.TryRent(out Chunk chunk));
        Span<byte> span = chunk.Span;
        new DataPrefix(SectionKind.Memory, 0, 1).Write(span);
        span.Slice(DataPrefix.Bytes, pages * Page).Fill((byte)((round * 16) + first));
        new MemoryRun(first, pages, PageEncoding.Raw, pages * Page).Write(span[(DataPrefix.Bytes + (pages * Page))..]);
        chunk.Length = DataPrefix.Bytes + (pages * Page) + MemoryRun.Bytes;
        return chunk;
    }

    private static Chunk State(ChunkPool pool, int round)
    {
        Assert.True(pool.TryRent(out Chunk chunk));
        new DataPrefix(SectionKind.DeviceState, 0, 0).Write(chunk.Span);
        chunk.Span.Slice(DataPrefix.Bytes, 1000 + round).Fill((byte)round);
        chunk.Length = DataPrefix.Bytes + 1000 + round;
        return chunk;
    }

    private static void Paint(byte[] memory, Chunk frame)
    {
        DataPrefix prefix = DataPrefix.Read(frame.Span[..frame.Length]);
        if (prefix.Section == SectionKind.Memory)
        {
            MemoryRun run = MemoryRun.Read(prefix.Table(frame.Span[..frame.Length]), 0);
            prefix.Content(frame.Span[..frame.Length]).CopyTo(memory.AsSpan((int)run.FirstPage * Page));
        }
    }
}
