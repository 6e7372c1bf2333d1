using System.Threading.Channels;
using Curling.Hosting.Faults;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Send.Links;

/// <summary>
/// The line from the capture to the link: chunks go in as they are filled, a task of its own hashes and sends them. A
/// bounded number of chunks is out at once, so a slow link slows the capture and never grows memory.
/// </summary>
/// <remarks>One capture writes at a time. When the link is lost every wait ends with <see cref="OperationCanceledException"/>.</remarks>
internal sealed class RoundWriter : IAsyncDisposable
{
    private readonly FrameConnection _connection;
    private readonly FrameEncoding? _encoding;
    private readonly ChunkPool _pool;
    private readonly SemaphoreSlim _room;
    private readonly int _chunks;
    private readonly Channel<Item> _items;
    private readonly CancellationTokenSource _lost = new();
    private readonly RoundDigest _digest = new();
    private readonly byte[] _payload = new byte[RoundEnd.Bytes];
    private readonly Task _loop;
    private RoundCounts _counts;
    private int _narrowed;
    private bool _isBase;
    private long _roundBytes;
    private long _memoryBytes;
    private long _encodedBytes;
    private long _stateBytes;

    /// <summary>Starts the line.</summary>
    /// <param name="connection">The link, which stays the caller's.</param>
    /// <param name="pool">Where chunks come from.</param>
    /// <param name="windowBytes">What may be out at once.</param>
    /// <param name="encoding">Makes memory frames smaller, null for not; the line owns it.</param>
    public RoundWriter(FrameConnection connection, ChunkPool pool, long windowBytes, FrameEncoding? encoding = null)
    {
        _encoding = encoding;
        _connection = connection;
        _pool = pool;
        _chunks = (int)Math.Max(2, windowBytes / pool.ChunkBytes);
        _room = new SemaphoreSlim(_chunks, _chunks);
        _items = Channel.CreateUnbounded<Item>(new UnboundedChannelOptions { SingleReader = true });
        _loop = Task.Run(SendAsync);
    }

    /// <summary>Cancelled when the link is lost.</summary>
    public CancellationToken Lost => _lost.Token;

    /// <summary>Completes when nothing more can be sent, with the reason.</summary>
    public Task<string> Ended => _ended.Task;

    /// <summary>Content bytes sent of the round under way.</summary>
    public long RoundBytes => Volatile.Read(ref _roundBytes);

    /// <summary>Bytes of memory frames sent so far, headers included, as they were captured.</summary>
    public long MemoryBytes => Volatile.Read(ref _memoryBytes);

    /// <summary>The same as they travelled.</summary>
    public long EncodedMemoryBytes => Volatile.Read(ref _encodedBytes);

    /// <summary>How memory is made smaller now; null for not at all.</summary>
    public FrameEncoding? Encoding => _encoding;

    /// <summary>Bytes of all other data frames sent so far, headers included.</summary>
    public long StateBytes => Volatile.Read(ref _stateBytes);

    private readonly TaskCompletionSource<string> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Begins a round.</summary>
    public void Begin(RoundBegin begin) => _items.Writer.TryWrite(new Item(ItemKind.Begin, null, 0, begin, default));

    /// <summary>Waits for an empty chunk.</summary>
    public async ValueTask<Chunk> RentAsync(CancellationToken cancellation)
    {
        using CancellationTokenSource both = CancellationTokenSource.CreateLinkedTokenSource(cancellation, _lost.Token);
        await _room.WaitAsync(both.Token);
        return Take();
    }

    /// <summary>Waits for an empty chunk on the calling thread.</summary>
    /// <param name="waited">Set when there was none at once.</param>
    public Chunk Rent(ref bool waited)
    {
        if (!_room.Wait(0))
        {
            waited = true;
            _room.Wait(_lost.Token);
        }

        return Take();
    }

    /// <summary>
    /// Lets only so many chunks out at once until <see cref="Widen"/>: what is read further ahead than the link takes leaves the
    /// processor's caches before it is sent. It does not wait: while chunks are out already, as many more may be.
    /// </summary>
    /// <remarks>The capture calls it; waits end as always.</remarks>
    public void Narrow(int chunks)
    {
        while (_narrowed < _chunks - chunks && _room.Wait(0))
        {
            _narrowed++;
        }
    }

    /// <summary>Ends <see cref="Narrow"/>.</summary>
    public void Widen()
    {
        if (_narrowed > 0)
        {
            _room.Release(_narrowed);
            _narrowed = 0;
        }
    }

    /// <summary>Hands over a chunk: <see cref="Chunk.Length"/> is the payload's length, behind the room for a header.</summary>
    /// <param name="chunk">The chunk; the line owns it from now on.</param>
    /// <param name="pages">The pages its runs cover.</param>
    public void Data(Chunk chunk, long pages)
    {
        if (!_items.Writer.TryWrite(new Item(ItemKind.Data, chunk, pages, default, default)))
        {
            GiveBack(chunk);
        }
    }

    /// <summary>Gives an unused chunk back.</summary>
    public void GiveBack(Chunk chunk)
    {
        chunk.Return();
        _room.Release();
    }

    /// <summary>Ends the round: from here on it may be whole for the receiver.</summary>
    /// <param name="round">The round.</param>
    /// <param name="final">Whether it is the last of a switchover.</param>
    /// <param name="pauseMicroseconds">How long the guest stood still.</param>
    /// <param name="isComplete">Whether the guest can be started from it, its disks included.</param>
    /// <exception cref="OperationCanceledException">The link is lost, and the end surely never leaves.</exception>
    public void End(long round, bool final, long pauseMicroseconds, bool isComplete = true)
    {
        RoundEnd end = new(round, final, (uint)Math.Min(pauseMicroseconds, uint.MaxValue), default, default) { DisksIncomplete = !isComplete };
        if (!_items.Writer.TryWrite(new Item(ItemKind.End, null, 0, default, end)))
        {
            throw new OperationCanceledException("the link was lost before the round's end");
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _lost.CancelAsync();
        _items.Writer.TryComplete();
        await _loop;
        _encoding?.Dispose();
    }

    private Chunk Take() => _pool.TryRent(out Chunk chunk)
        ? chunk
        : throw new InvalidOperationException("the pool has fewer chunks than the window lets out");

    private async Task SendAsync()
    {
        string reason = "the connection was closed here";
        try
        {
            await foreach (Item item in _items.Reader.ReadAllAsync(_lost.Token))
            {
                await SendAsync(item);
            }
        }
        catch (IOException e)
        {
            reason = e.Message;
        }
        catch (OperationCanceledException)
        {
            // Closed here.
        }

        await _lost.CancelAsync();
        _items.Writer.TryComplete();
        while (_items.Reader.TryRead(out Item left))
        {
            if (left.Chunk is { } chunk)
            {
                GiveBack(chunk);
            }
        }

        _ended.TrySetResult(reason);
    }

    private async ValueTask SendAsync(Item item)
    {
        switch (item.Kind)
        {
            case ItemKind.Begin:
                _digest.Reset();
                _counts = default;
                _isBase = item.Begin.Kind == RoundKind.Base;
                Volatile.Write(ref _roundBytes, 0);
                item.Begin.Write(_payload);
                Memory<byte> begin = _payload.AsMemory(0, RoundBegin.Bytes);
                _digest.Add(FrameType.RoundBegin, begin.Length, FrameHeader.HashOf(begin.Span));
                await _connection.SendAsync(FrameType.RoundBegin, begin, _lost.Token);
                break;
            case ItemKind.End:
                await FaultPoint.HitAsync(FaultPoint.SendBeforeEnd);
                (item.End with { Counts = _counts, Digest = _digest.Current }).Write(_payload);
                await _connection.SendAsync(FrameType.RoundEnd, _payload.AsMemory(0, RoundEnd.Bytes), _lost.Token);
                break;
            default:
                await SendAsync(item.Chunk!, item.Pages);
                break;
        }
    }

    private async ValueTask SendAsync(Chunk chunk, long pages)
    {
        try
        {
            Memory<byte> frame = chunk.Memory[..(DataFrame.PayloadAt + chunk.Length)];
            if (IsMemory(frame.Span))
            {
                Volatile.Write(ref _memoryBytes, _memoryBytes + frame.Length);
                if (_encoding is { } encoding)
                {
                    frame = encoding.Encode(frame, _connection);
                }

                Volatile.Write(ref _encodedBytes, _encodedBytes + frame.Length);
            }
            else
            {
                Volatile.Write(ref _stateBytes, _stateBytes + frame.Length);
            }

            ulong hash = Count(frame.Span[DataFrame.PayloadAt..], pages);
            await _connection.SendInPlaceAsync(FrameType.RoundData, frame, hash, _lost.Token);
            if (_isBase)
            {
                await FaultPoint.HitAsync(FaultPoint.SendBasePart);
            }
        }
        finally
        {
            GiveBack(chunk);
        }
    }

    private static bool IsMemory(ReadOnlySpan<byte> frame) =>
        DataPrefix.Read(frame[DataFrame.PayloadAt..]).Section == SectionKind.Memory;

    private ulong Count(ReadOnlySpan<byte> payload, long pages)
    {
        DataPrefix prefix = DataPrefix.Read(payload);
        int content = payload.Length - DataPrefix.Bytes - (prefix.Runs * MemoryRun.Bytes);
        _counts = _counts.Plus(prefix.Section, content, pages);
        Volatile.Write(ref _roundBytes, _counts.TotalBytes);
        ulong hash = FrameHeader.HashOf(payload);
        _digest.Add(FrameType.RoundData, payload.Length, hash);
        return hash;
    }

    private enum ItemKind
    {
        Begin = 1,
        Data = 2,
        End = 3,
    }

    private readonly record struct Item(ItemKind Kind, Chunk? Chunk, long Pages, RoundBegin Begin, RoundEnd End);
}
