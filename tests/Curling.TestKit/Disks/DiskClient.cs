using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Curling.TestKit.Disks;

/// <summary>
/// Asks a disk program of a guest for one durable record or transaction after the other, each with a text of its own, and remembers
/// what it was told.
/// </summary>
/// <remarks>Owns its socket. What went wrong is thrown by <see cref="StopAsync"/>.</remarks>
public sealed class DiskClient : IDisposable
{
    /// <summary>The port of the log's writer (<c>curling.disk=log</c>).</summary>
    public const int LogPort = 11;

    /// <summary>The port of the database (<c>curling.disk=sqlite</c>).</summary>
    public const int SqlPort = 12;

    /// <summary>The port of the block writer (<c>curling.disk=raw</c>).</summary>
    public const int RawPort = 13;

    /// <summary>The port of the load (<c>curling.disk=bench</c>).</summary>
    public const int BenchPort = 14;

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);
    private static int _clients;
    private readonly Socket _socket;
    private readonly string _name = string.Create(CultureInfo.InvariantCulture, $"c{Interlocked.Increment(ref _clients)}");
    private readonly List<Acknowledged> _acknowledged = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly CancellationTokenSource _cut = new();
    private readonly Task _work;
    private long _longest;

    /// <summary>Begins to ask.</summary>
    /// <param name="socket">A connection to the service.</param>
    public DiskClient(Socket socket)
    {
        _socket = socket;
        _work = Task.Run(RunAsync);
    }

    /// <summary>What was answered so far.</summary>
    public IReadOnlyList<Acknowledged> Acknowledged
    {
        get
        {
            lock (_acknowledged)
            {
                return [.. _acknowledged];
            }
        }
    }

    /// <summary>Answers so far.</summary>
    public long Answered
    {
        get
        {
            lock (_acknowledged)
            {
                return _acknowledged.Count;
            }
        }
    }

    /// <summary>The longest that an answer was waited for.</summary>
    public TimeSpan LongestWait => TimeSpan.FromSeconds((double)Volatile.Read(ref _longest) / Stopwatch.Frequency);

    /// <summary>Connects to a port of this host that leads to a service in a guest, and asks until it answers.</summary>
    /// <remarks>QEMU's own network takes a connection before the guest does: only an answer shows that somebody is there.</remarks>
    public static async Task<Socket> ConnectAsync(int port)
    {
        long start = Stopwatch.GetTimestamp();
        byte[] answer = new byte[64];
        while (true)
        {
            Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp) { NoDelay = true };
            try
            {
                using CancellationTokenSource limit = new(TimeSpan.FromSeconds(1));
                await socket.ConnectAsync(IPAddress.Loopback, port, limit.Token);
                await socket.SendAsync("hello\n"u8.ToArray(), limit.Token);
                if (await socket.ReceiveAsync(answer, limit.Token) > 0)
                {
                    return socket;
                }
            }
            catch (Exception e) when (e is SocketException or OperationCanceledException && Stopwatch.GetElapsedTime(start) < Patience)
            {
                // Not there yet.
            }

            socket.Dispose();
            await Task.Delay(100);
        }
    }

    /// <summary>Asks one thing over a connection.</summary>
    /// <returns>The number that was answered.</returns>
    /// <exception cref="InvalidDataException">The answer is to something else, or the connection ended.</exception>
    public static async Task<long> AskAsync(Socket socket, string text, CancellationToken cancellation)
    {
        byte[] bytes = Encoding.ASCII.GetBytes(text + "\n");
        for (int sent = 0; sent < bytes.Length;)
        {
            sent += await socket.SendAsync(bytes.AsMemory(sent), cancellation);
        }

        byte[] got = new byte[512];
        int length = 0;
        while (length == 0 || got[length - 1] != (byte)'\n')
        {
            int now = length < got.Length ? await socket.ReceiveAsync(got.AsMemory(length), cancellation) : 0;
            length += now > 0 ? now : throw new InvalidDataException($"the connection ended at \"{text}\"");
        }

        string answer = Encoding.ASCII.GetString(got, 0, length - 1);
        int space = answer.IndexOf(' ', StringComparison.Ordinal);
        return space > 0 && answer[(space + 1)..] == text && long.TryParse(answer.AsSpan(0, space), CultureInfo.InvariantCulture, out long number)
            ? number
            : throw new InvalidDataException($"\"{text}\" was answered with \"{answer}\"");
    }

    /// <summary>Waits until so many more answers came.</summary>
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
                throw new TimeoutException($"the disk's service does not answer; {Answered} answers so far");
            }

            await Task.Delay(5);
        }
    }

    /// <summary>Stops asking, waits for the last answer, and throws what went wrong.</summary>
    public async Task StopAsync()
    {
        await _stop.CancelAsync();
        _cut.CancelAfter(Patience);
        await _work;
    }

    /// <summary>Waits for the end of a connection whose guest was killed.</summary>
    public async Task LostAsync()
    {
        try
        {
            await _work.WaitAsync(Patience);
        }
        catch (Exception e) when (e is SocketException or InvalidDataException)
        {
            // As it must be.
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop.Cancel();
        _cut.Cancel();
        _socket.Dispose();
        _ = _work.ContinueWith(t => t.Exception, TaskScheduler.Default);
    }

    private async Task RunAsync()
    {
        long highest = 0;
        for (long question = 0; !_stop.IsCancellationRequested; question++)
        {
            string text = string.Create(CultureInfo.InvariantCulture, $"{_name}-{question}");
            long start = Stopwatch.GetTimestamp();
            long number = await AskAsync(_socket, text, _cut.Token);
            Volatile.Write(ref _longest, Math.Max(_longest, Stopwatch.GetTimestamp() - start));
            if (number <= highest)
            {
                throw new InvalidDataException($"\"{text}\" was answered with {number} after {highest} had been said");
            }

            highest = number;
            lock (_acknowledged)
            {
                _acknowledged.Add(new Acknowledged(number, text));
            }
        }
    }
}
