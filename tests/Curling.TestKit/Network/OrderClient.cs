using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>Sends numbered datagrams to an echo service in a steady stream, and watches that they come back in order.</summary>
/// <remarks>Owns its socket.</remarks>
public sealed class OrderClient : IDisposable
{
    private readonly Socket _socket;
    private readonly CancellationTokenSource _stop = new();
    private readonly ConcurrentDictionary<long, long> _asked = new();
    private readonly ConcurrentQueue<(long Asked, long Answered)> _trips = new();
    private long _answered;
    private string? _disorder;

    /// <summary>Begins to send.</summary>
    public OrderClient(Socket socket, string address)
    {
        _socket = socket;
        _socket.Connect(new IPEndPoint(IPAddress.Parse(address), 7));
        _ = Task.Run(SendAsync);
        _ = Task.Run(ReceiveAsync);
    }

    /// <summary>Datagrams that came back.</summary>
    public long Answered => Volatile.Read(ref _answered);

    /// <summary>When each datagram was sent and was back, in <see cref="Stopwatch"/>'s ticks.</summary>
    public IReadOnlyCollection<(long Asked, long Answered)> Trips => _trips.ToArray();

    /// <summary>The first that came back behind a later one, or null.</summary>
    public string? Disorder => Volatile.Read(ref _disorder);

    /// <summary>Waits until so many more came back.</summary>
    public Task UntilAnsweredAsync(long more) => Answers.UntilAsync(() => Answered, more, "echo service");

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop.Cancel();
        _socket.Dispose();
    }

    private async Task SendAsync()
    {
        byte[] bytes = new byte[200];
        try
        {
            for (long number = 0; !_stop.IsCancellationRequested; number++)
            {
                BinaryPrimitives.WriteInt64LittleEndian(bytes, number);
                _asked[number] = Stopwatch.GetTimestamp();
                await _socket.SendAsync(bytes, _stop.Token);
                if (number % 5 == 4)
                {
                    await Task.Delay(2, _stop.Token);
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // Stopped.
        }
    }

    private async Task ReceiveAsync()
    {
        byte[] bytes = new byte[200];
        long last = -1;
        try
        {
            while (true)
            {
                await _socket.ReceiveAsync(bytes, _stop.Token);
                long number = BinaryPrimitives.ReadInt64LittleEndian(bytes);
                if (number < last)
                {
                    Interlocked.CompareExchange(ref _disorder, $"datagram {number} came back after {last}", null);
                }

                last = number;
                if (_asked.TryRemove(number, out long asked))
                {
                    _trips.Enqueue((asked, Stopwatch.GetTimestamp()));
                }

                Volatile.Write(ref _answered, _answered + 1);
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // Stopped.
        }
    }
}
