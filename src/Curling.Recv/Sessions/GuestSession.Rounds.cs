using System.Diagnostics;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;

namespace Curling.Recv.Sessions;

/// <summary>What the reader of a connection hands over: rounds as they come in, and what else travels beside them.</summary>
internal sealed partial class GuestSession
{
    /// <inheritdoc/>
    public RoundContent Open(RoundBegin begin)
    {
        Volatile.Write(ref _arriving, begin.Round);
        Volatile.Write(ref _arrived, 0);
        Volatile.Write(ref _expected, begin.Kind == RoundKind.Incremental ? 0 : Math.Max(begin.ExpectedBytes, 1));
        Volatile.Write(ref _arrivingSince, Stopwatch.GetTimestamp());
        StreamFile? stream = begin.Kind == RoundKind.Full
            ? new StreamFile(StreamFile.NewPath(_directory.MemoryPath, begin.Round))
            : null;
        lock (_straight)
        {
            // A round that is whole stands in memory, also while its commit is still under way: the next one must not touch it.
            RoundContent content = new(begin, stream, _chunkLists.TryTake(out List<Chunk>? list) ? list : [])
            {
                GoesStraightIn = begin.Kind == RoundKind.Base && _machine.CommittedRound == 0 && !_anyWhole,
            };
            _goingIn = content.GoesStraightIn ? content : null;
            return content;
        }
    }

    /// <inheritdoc/>
    public void ApplyNow(RoundContent content, Chunk frame)
    {
        // The reader of a connection that was given up may still have a frame in its hands when the next one begins.
        lock (_straight)
        {
            if (_goingIn != content)
            {
                throw new IOException("a newer connection has begun this round anew");
            }

            RoundApplier.ApplyMemory(frame, _blocks);
        }
    }

    /// <inheritdoc/>
    public void Whole(Link link, RoundContent content, RoundEnd end)
    {
        lock (_straight)
        {
            if (content.GoesStraightIn && _goingIn != content)
            {
                content.Dispose();
                return;
            }

            _goingIn = null;
            _anyWhole = true;
        }

        _whole.Add(content, end);
        Post(link, new ReceiverInput.RoundWhole(end));
    }

    /// <inheritdoc/>
    public void Inbound(byte[] buffer, int length) => _inbound.Add(buffer, length);

    /// <inheritdoc/>
    public void Progress(RoundBegin begin, RoundCounts counts) => Volatile.Write(ref _arrived, counts.TotalBytes);

    /// <summary>How many chunks a buffer of so many bytes has.</summary>
    internal static int Chunks(long maxRoundBytes) => (int)(Math.Max(maxRoundBytes, DataFrame.ChunkBytes) / DataFrame.ChunkBytes);
}
