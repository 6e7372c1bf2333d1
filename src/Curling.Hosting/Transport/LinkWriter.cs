using System.Buffers.Binary;
using System.Threading.Channels;
using Curling.Protocol;

namespace Curling.Hosting.Transport;

/// <summary>
/// Writes the small frames of a connection (acknowledgements, heartbeats, goodbyes) from a task of its own, so that whoever
/// decides to send one never waits for the network.
/// </summary>
/// <remarks>Posting is safe from any thread. Dispose it before its connection.</remarks>
public sealed class LinkWriter : IAsyncDisposable
{
    // Acknowledgements are bounded by the rounds in flight; a peer that does not read this many is as good as gone.
    private const int MaxQueued = 1024;

    private readonly FrameConnection _connection;
    private readonly Channel<Item> _items = Channel.CreateBounded<Item>(new BoundedChannelOptions(MaxQueued)
    {
        SingleReader = true,
    });

    private readonly CancellationTokenSource _cancellation = new();
    private readonly TimeSpan _heartbeat;
    private readonly TimeProvider _time;
    private readonly byte[] _payload = new byte[ProtocolLimits.MaxControlPayload];
    private readonly Task _loop;
    private long _beats;

    /// <summary>Starts writing.</summary>
    /// <param name="connection">The connection, which stays the caller's.</param>
    /// <param name="heartbeat">A heartbeat is sent this often, whatever else travels.</param>
    /// <param name="time">The clock of the heartbeats.</param>
    public LinkWriter(FrameConnection connection, TimeSpan heartbeat, TimeProvider time)
    {
        _connection = connection;
        _heartbeat = heartbeat;
        _time = time;
        _loop = Task.Run(RunAsync);
    }

    /// <summary>Ends, with null or the reason, when nothing more can be written.</summary>
    public Task Finished => _loop;

    /// <summary>Queues a frame that carries a round's number.</summary>
    public bool Post(FrameType type, long round) => _items.Writer.TryWrite(new Item(type, round, 0, null));

    /// <summary>Queues a frame without payload.</summary>
    public bool Post(FrameType type) => _items.Writer.TryWrite(new Item(type, 0, 0, null));

    /// <summary>Queues a frame that carries a code and a text.</summary>
    public bool Post(FrameType type, ushort code, string text) => _items.Writer.TryWrite(new Item(type, 0, code, text));

    /// <summary>Queues a request for a vouch, or a vouch.</summary>
    public bool Post(FrameType type, VouchMessage vouch) => _items.Writer.TryWrite(new Item(type, 0, 0, null, vouch));

    /// <summary>Queues a frame with a payload that is ready; it must not be changed any more.</summary>
    public bool Post(FrameType type, byte[] payload) => _items.Writer.TryWrite(new Item(type, 0, 0, null, default, payload));

    /// <summary>Writes what is queued, waits for it at most <paramref name="limit"/>, then stops.</summary>
    public async Task CompleteAsync(TimeSpan limit)
    {
        _items.Writer.TryComplete();
        await Task.WhenAny(_loop, Task.Delay(limit, _time));
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _items.Writer.TryComplete();
        await _cancellation.CancelAsync();
        await _loop;
        _cancellation.Dispose();
    }

    private async Task RunAsync()
    {
        try
        {
            using PeriodicTimer timer = new(_heartbeat, _time);
            Task<bool> beat = timer.WaitForNextTickAsync(_cancellation.Token).AsTask();
            Task<bool> item = _items.Reader.WaitToReadAsync(_cancellation.Token).AsTask();
            while (true)
            {
                await Task.WhenAny(beat, item);
                if (beat.IsCompleted)
                {
                    await beat;
                    Heartbeat.Write(_payload, ++_beats);
                    await _connection.SendAsync(
                        FrameType.Heartbeat, _payload.AsMemory(0, Heartbeat.Bytes), _cancellation.Token);
                    beat = timer.WaitForNextTickAsync(_cancellation.Token).AsTask();
                }

                if (item.IsCompleted)
                {
                    if (!await item)
                    {
                        return;
                    }

                    while (_items.Reader.TryRead(out Item next))
                    {
                        await _connection.SendAsync(next.Type, next.Payload ?? _payload.AsMemory(0, Write(next)), _cancellation.Token);
                    }

                    item = _items.Reader.WaitToReadAsync(_cancellation.Token).AsTask();
                }
            }
        }
        catch (Exception e) when (e is IOException or OperationCanceledException)
        {
            // The reader of the connection notices its end and says why; here there is nothing left to do.
        }
    }

    private int Write(Item item)
    {
        if (item.Text is { } text)
        {
            return new CodedText(item.Code, text).Write(_payload);
        }

        if (item.Vouch is { Sequence: > 0 } vouch)
        {
            vouch.Write(_payload);
            return VouchMessage.Bytes;
        }

        if (item.Round == 0)
        {
            return 0;
        }

        BinaryPrimitives.WriteInt64LittleEndian(_payload, item.Round);
        return RoundNumber.Bytes;
    }

    private readonly record struct Item(FrameType Type, long Round, ushort Code, string? Text, VouchMessage Vouch = default, byte[]? Payload = null);
}
