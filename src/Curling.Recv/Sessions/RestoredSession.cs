using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Memory;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;

namespace Curling.Recv.Sessions;

/// <summary>What an earlier receiver left of a session, brought to the round that it had decided on.</summary>
/// <param name="File">Who it belongs to.</param>
/// <param name="Last">The round it stands at.</param>
/// <param name="Committed">The state that goes with the memory.</param>
/// <param name="Journal">The journal, to go on with.</param>
internal sealed record RestoredSession(SessionFile File, JournalRecord Last, CommittedState Committed, RoundJournal Journal)
{
    /// <summary>Why the guest cannot be started from the round although it was whole: its disks stand elsewhere. Null when they do not.</summary>
    public string? DisksDiffer { get; init; }

    /// <summary>
    /// Brings a session's memory to its last round: one that was being put into memory is put there again, from the buffer.
    /// </summary>
    /// <param name="directory">The session's memory directory, adopted.</param>
    /// <param name="file">What its record says.</param>
    /// <param name="memory">The standby's memory.</param>
    /// <param name="disks">The replicas of its disks.</param>
    /// <returns>Null when no round was ever committed.</returns>
    /// <exception cref="IOException">What is there does not fit together.</exception>
    public static RestoredSession? Replay(string directory, SessionFile file, SharedMapping memory, StandbyDisks disks)
    {
        int chunks = GuestSession.Chunks(file.MaxRoundBytes);
        (RoundJournal journal, JournalRecord? last) = RoundJournal.Open(directory, chunks, DataFrame.ChunkBytes);
        CommittedState committed = new(directory);
        try
        {
            if (last is null)
            {
                journal.Dispose();
                return null;
            }

            // Since that receiver died another one may have gone on with the replicas.
            string prefetch = Path.Combine(directory, GuestSession.PrefetchFile);
            bool isApplied = last.ToApply.Count == 0;
            string? differ = isApplied && last.IsIncomplete ? null : disks.WhyNotAt(last.Round, isApplied);
            if (differ is not null)
            {
                last = last with { IsIncomplete = true };
            }

            if (!isApplied)
            {
                Apply(directory, file.Hello.Blocks, last, memory, disks, differ is null, prefetch);
                last = last with { ToApply = [] };
                journal.Write(last);
            }

            committed.Restore(last);
            System.IO.File.Delete(prefetch);
            StreamFile.DeleteOthers(directory, last.StateFile);
            return new RestoredSession(file, last, committed, journal) { DisksDiffer = differ };
        }
        catch
        {
            journal.Dispose();
            committed.Leave();
            throw;
        }
    }

    private static void Apply(
        string directory, IReadOnlyList<HelloBlock> named, JournalRecord last, SharedMapping memory, StandbyDisks disks,
        bool withDisks, string prefetch)
    {
        List<SharedMapping> shadows = [];
        try
        {
            List<IStandbyBlock> blocks = [];
            for (int i = 0; i < named.Count; i++)
            {
                string shadow = ShadowedBlock.PathOf(directory, i);
                if (named[i].Name == RamBlock.Ram)
                {
                    blocks.Add(new MappedBlock(memory));
                }
                else if (System.IO.File.Exists(shadow))
                {
                    SharedMapping mapping = SharedMapping.Open(shadow, writable: true);
                    shadows.Add(mapping);
                    blocks.Add(new MappedBlock(mapping));
                }
                else
                {
                    blocks.Add(new UnreachableRomBlock(named[i].Bytes));
                }
            }

            using SharedMapping buffered = SharedMapping.Open(prefetch, writable: false);
            long[] pages = [.. named.Select(b => b.Bytes / ProtocolLimits.PageBytes)];
            foreach ((int index, int length) in last.ToApply)
            {
                ReadOnlySpan<byte> payload = buffered.Span((long)index * DataFrame.ChunkBytes, length);
                DataPrefix prefix = DataPrefix.Read(payload);
                if (prefix.Section == SectionKind.Disk)
                {
                    MemoryRun.Check(payload, prefix, prefix.Block < disks.Blocks.Count ? disks.Blocks[prefix.Block] : 0);
                }
                else if (prefix.Section == SectionKind.Memory)
                {
                    // It was checked when it arrived; what another process left is checked again before it is trusted.
                    MemoryRun.Check(payload, prefix, prefix.Block < pages.Length ? pages[prefix.Block] : 0);
                    RoundApplier.ApplyMemory(payload, blocks);
                }
            }

            if (!withDisks)
            {
                return;
            }

            disks.Commit(last.Round, !last.IsIncomplete, (int i, out ReadOnlySpan<byte> payload) =>
            {
                bool isThere = i < last.ToApply.Count;
                payload = isThere ? buffered.Span((long)last.ToApply[i].Index * DataFrame.ChunkBytes, last.ToApply[i].Length) : default;
                return isThere;
            });
        }
        catch (Exception e) when (e is ProtocolException or ArgumentOutOfRangeException)
        {
            throw new IOException($"the buffer of round {last.Round} is damaged: {e.Message}", e);
        }
        finally
        {
            shadows.ForEach(s => s.Dispose());
        }
    }
}
