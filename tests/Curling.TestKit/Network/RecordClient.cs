using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>
/// Streams numbered records to an echo service over one connection, a few at a time, and checks every byte that comes back.
/// </summary>
/// <remarks>Owns its socket. What went wrong is thrown by <see cref="StopAsync"/>.</remarks>
public sealed class RecordClient : IDisposable
{
    private const int HeaderBytes = 8;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);
    private readonly Socket _socket;
    private readonly SemaphoreSlim _window;
    private readonly ConcurrentQueue<long> _sent = new();
    private readonly ConcurrentQueue<(long Asked, long Answered)> _trips = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly CancellationTokenSource _cut = new();
    private readonly Task _work;
    private long _longest;
    private long _answered;

    /// <summary>Begins to stream.</summary>
    /// <param name="socket">A connection to an echo service.</param>
    /// <param name="inFlight">Records that may be under way at once.</param>
    public RecordClient(Socket socket, int inFlight)
    {
        _socket = socket;
        _window = new SemaphoreSlim(inFlight, inFlight);
        _work = Task.WhenAll(Task.Run(SendAsync), Task.Run(ReceiveAsync));
    }

    /// <summary>Records that came back whole and right.</summary>
    public long Answered => Volatile.Read(ref _answered);

    /// <summary>When each record was sent and was back, in <see cref="Stopwatch"/>'s ticks.</summary>
    public IReadOnlyCollection<(long Asked, long Answered)> Trips => _trips.ToArray();

    /// <summary>The longest that a record was waited for since the last <see cref="ForgetWaits"/>.</summary>
    public TimeSpan LongestWait => TimeSpan.FromSeconds((double)Volatile.Read(ref _longest) / Stopwatch.Frequency);

    /// <summary>Waits from here on count.</summary>
    public void ForgetWaits() => Volatile.Write(ref _longest, 0);

    /// <summary>Waits until so many more records came back.</summary>
    /// <exception cref="TimeoutException">They do not come.</exception>
    public async Task UntilAnsweredAsync(long more)
    {
        long wanted = Answered + more;
        long start = Stopwatch.GetTimestamp();
        while (Answered < wanted)
        {
            if (_work.IsFaulted)
            {
                await _work;
            }

            if (Stopwatch.GetElapsedTime(start) > Patience)
            {
                throw new TimeoutException($"no answer for {Patience.TotalSeconds:F0} s after record {Answered}");
            }

            await Task.Delay(5);
        }
    }

    /// <summary>Stops sending, waits for what is under way, and throws what went wrong.</summary>
    public async Task StopAsync()
    {
        await _stop.CancelAsync();
        _cut.CancelAfter(Patience);
        await _work;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop.Cancel();
        _cut.Cancel();
        _socket.Dispose();
        _ = _work.ContinueWith(t => t.Exception, TaskScheduler.Default);
    }

    private static int LengthOf(long record) => HeaderBytes + (int)((ulong)record * 2654435761 % 1800);

    private static void Fill(Span<byte> bytes, long record)
    {
        BinaryPrimitives.WriteInt64LittleEndian(bytes, record);
        for (int i = HeaderBytes; i < bytes.Length; i++)
        {
            bytes[i] = (byte)(record + (i * 7));
        }
    }

    private async Task SendAsync()
    {
        byte[] bytes = new byte[2048];
        try
        {
            for (long record = 0; ; record++)
            {
                await _window.WaitAsync(_stop.Token);
                int length = LengthOf(record);
                Fill(bytes.AsSpan(0, length), record);
                _sent.Enqueue(Stopwatch.GetTimestamp());
                for (int at = 0; at < length;)
                {
                    at += await _socket.SendAsync(bytes.AsMemory(at, length - at), _cut.Token);
                }
            }
        }
        catch (OperationCanceledException) when (_stop.IsCancellationRequested)
        {
            _socket.Shutdown(SocketShutdown.Send);
        }
    }

    private async Task ReceiveAsync()
    {
        byte[] got = new byte[2048];
        byte[] wanted = new byte[2048];
        for (long record = 0; ; record++)
        {
            int length = LengthOf(record);
            for (int at = 0; at < length;)
            {
                int count = await _socket.ReceiveAsync(got.AsMemory(at, length - at), _cut.Token);
                if (count == 0)
                {
                    if (at == 0 && _stop.IsCancellationRequested && _sent.IsEmpty)
                    {
                        return;
                    }

                    throw new InvalidDataException($"the connection ended inside record {record}, {at} of {length} bytes had come");
                }

                at += count;
            }

            Fill(wanted.AsSpan(0, length), record);
            if (!got.AsSpan(0, length).SequenceEqual(wanted.AsSpan(0, length)))
            {
                throw new InvalidDataException($"record {record} came back as something else");
            }

            _sent.TryDequeue(out long since);
            long now = Stopwatch.GetTimestamp();
            _trips.Enqueue((since, now));
            long wait = now - since;
            if (wait > Volatile.Read(ref _longest))
            {
                Volatile.Write(ref _longest, wait);
            }

            Volatile.Write(ref _answered, record + 1);
            _window.Release();
        }
    }
}
