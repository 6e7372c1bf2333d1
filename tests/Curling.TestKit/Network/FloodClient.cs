using System.Buffers.Text;
using System.Diagnostics;
using System.Net;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>
/// Asks a counter in the guest with large datagrams, more of them than its host may hold answers, and looks for numbers that never come:
/// the guest numbers its answers as it sends them, so each gap is a frame that was lost on its way out.
/// </summary>
/// <remarks>Owns its socket.</remarks>
public sealed class FloodClient : IDisposable
{
    private const int DatagramBytes = 1400;
    private const int SocketLevel = 1;
    private const int ReceiveBufferForce = 33;
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(1);
    private readonly Socket _socket;
    private readonly HashSet<long> _numbers = [];
    private readonly Thread _receiving;
    private long _answered;
    private volatile bool _stop;

    /// <summary>Creates a client.</summary>
    public FloodClient(Socket socket, string address)
    {
        _socket = socket;

        // The kernel's usual limit would lose what comes in a burst.
        _socket.SetRawSocketOption(SocketLevel, ReceiveBufferForce, BitConverter.GetBytes(64 << 20));
        _socket.ReceiveTimeout = 100;
        _socket.Connect(new IPEndPoint(IPAddress.Parse(address), 1000));
        _receiving = new Thread(Receive) { IsBackground = true };
        _receiving.Start();
    }

    /// <summary>Answers so far.</summary>
    public long Answered => Volatile.Read(ref _answered);

    /// <summary>Asks for some time.</summary>
    public async Task FloodAsync(TimeSpan time)
    {
        byte[] bytes = new byte[DatagramBytes];
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            // More than a guest that is slowed can take: what it does not take is never answered, and no gap.
            for (int i = 0; i < 20; i++)
            {
                _socket.Send(bytes);
            }

            await Task.Delay(1);
        }
    }

    /// <summary>Waits until no answer comes any more.</summary>
    /// <returns>How many numbers between the first and the last never came.</returns>
    public async Task<long> MissingAsync()
    {
        long before;
        do
        {
            before = Answered;
            await Task.Delay(Quiet);
        }
        while (Answered > before);

        _stop = true;
        _receiving.Join();
        return _numbers.Count == 0 ? 0 : _numbers.Max() - _numbers.Min() + 1 - _numbers.Count;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop = true;
        _receiving.Join();
        _socket.Dispose();
    }

    private void Receive()
    {
        byte[] bytes = new byte[2048];
        while (!_stop)
        {
            try
            {
                int got = _socket.Receive(bytes);
                if (Utf8Parser.TryParse(bytes.AsSpan(0, got), out long number, out _) && _numbers.Add(number))
                {
                    Volatile.Write(ref _answered, _answered + 1);
                }
            }
            catch (SocketException)
            {
                // Nothing came for a while.
            }
        }
    }
}
