using System.Net.Sockets;
using System.Text;
using Curling.Linux.Storage;
using Microsoft.Extensions.Logging;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>Serves a disk over the NBD protocol on a Unix socket, to QEMU or any other client (nbd: doc/proto.md).</summary>
/// <remarks>
/// One export, under its name and under the empty one, for several connections at once. The backend stays the caller's: dispose the server
/// first. The socket's file should be in a directory that only its user can enter; it is removed at the end.
/// </remarks>
public sealed class NbdServer : IAsyncDisposable
{
    // sockaddr_un has room for 108 bytes, the terminating zero included (unix(7)).
    private const int MaxPathBytes = 107;
    private const int SendBufferBytes = 2 << 20;
    private static readonly TimeSpan AbortLimit = TimeSpan.FromSeconds(5);
    private readonly object _gate = new();
    private readonly Socket _listener;
    private readonly ILogger _log;
    private readonly string _path;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly HashSet<NbdConnection> _connections = [];
    private readonly Task _accepting;
    private int _numbers;
    private bool _disposed;
    private long _reads;
    private long _writes;
    private long _flushes;
    private long _bytesRead;
    private long _bytesWritten;
    private long _errors;
    private long _violations;

    private NbdServer(Socket listener, string path, string exportName, IDiskBackend backend, ILogger log, NbdServerOptions options)
    {
        _listener = listener;
        _path = path;
        ExportName = exportName;
        Backend = backend;
        Options = options;
        _log = log;
        Cancellation = _cancellation.Token;
        _accepting = AcceptAsync();
    }

    /// <summary>The export's name; clients may also ask for the empty one.</summary>
    public string ExportName { get; }

    /// <summary>What it has done so far; from any thread.</summary>
    public NbdServerCounters Counters
    {
        get
        {
            lock (_gate)
            {
                return new NbdServerCounters(
                    _connections.Count,
                    Interlocked.Read(ref _reads),
                    Interlocked.Read(ref _writes),
                    Interlocked.Read(ref _flushes),
                    Interlocked.Read(ref _bytesRead),
                    Interlocked.Read(ref _bytesWritten),
                    Interlocked.Read(ref _errors),
                    Interlocked.Read(ref _violations));
            }
        }
    }

    internal IDiskBackend Backend { get; }

    internal NbdServerOptions Options { get; }

    internal NbdBuffers Buffers { get; } = new();

    internal CancellationToken Cancellation { get; }

    /// <summary>Begins to serve; clients can connect when this returns.</summary>
    /// <exception cref="IOException">The socket cannot be made; the message says why.</exception>
    public static NbdServer Start(string socketPath, string exportName, IDiskBackend backend, ILogger log, NbdServerOptions? options = null)
    {
        if (Encoding.UTF8.GetByteCount(socketPath) > MaxPathBytes)
        {
            throw new IOException($"the path {socketPath} is too long for a socket ({MaxPathBytes} bytes at most)");
        }

        if (Encoding.UTF8.GetByteCount(exportName) > MaxString)
        {
            throw new ArgumentException($"an export's name has {MaxString} bytes at most", nameof(exportName));
        }

        Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            RemoveStale(socketPath);
            listener.Bind(new UnixDomainSocketEndPoint(socketPath));
            File.SetUnixFileMode(socketPath, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            listener.Listen(16);
        }
        catch (SocketException e)
        {
            listener.Dispose();
            throw new IOException($"no socket can be made at {socketPath}: {e.Message}", e);
        }
        catch
        {
            listener.Dispose();
            throw;
        }

        NbdServerLog.Exported(log, exportName, socketPath, backend.Length);
        return new NbdServer(listener, socketPath, exportName, backend, log, options ?? new NbdServerOptions());
    }

    /// <summary>Lets no client in any more, answers what is under way, within <see cref="NbdServerOptions.DrainLimit"/>, and ends.</summary>
    public async ValueTask DisposeAsync()
    {
        NbdConnection[] connections;
        lock (_gate)
        {
            if (_disposed)
            {
                return;
            }

            _disposed = true;
            connections = [.. _connections];
        }

        // Disposing the listener unlinks its file.
        _listener.Dispose();
        File.Delete(_path);
        await _accepting;
        foreach (NbdConnection connection in connections)
        {
            connection.Stop();
        }

        Task ended = Task.WhenAll(connections.Select(c => c.Ended));
        try
        {
            await ended.WaitAsync(Options.DrainLimit);
        }
        catch (TimeoutException)
        {
            NbdServerLog.Unfinished(_log, ExportName, Options.DrainLimit.TotalSeconds);
            await _cancellation.CancelAsync();
            foreach (NbdConnection connection in connections)
            {
                connection.Abort();
            }

            await Task.WhenAny(ended, Task.Delay(AbortLimit));
        }

        _cancellation.Dispose();
    }

    internal void Count(NbdRequest request)
    {
        if (request.Error != 0)
        {
            Interlocked.Increment(ref _errors);
            return;
        }

        switch (request.Command)
        {
            case CommandRead:
                Interlocked.Increment(ref _reads);
                Interlocked.Add(ref _bytesRead, request.Length);
                break;
            case CommandWrite:
                Interlocked.Increment(ref _writes);
                Interlocked.Add(ref _bytesWritten, request.Length);
                break;
            case CommandTrim or CommandWriteZeroes:
                Interlocked.Increment(ref _writes);
                break;
            case CommandFlush:
                Interlocked.Increment(ref _flushes);
                break;
        }
    }

    internal void CountViolation() => Interlocked.Increment(ref _violations);

    /// <summary>A socket's file that nobody listens on any more is in the way only.</summary>
    private static void RemoveStale(string path)
    {
        if (!File.Exists(path))
        {
            return;
        }

        using Socket probe = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused && (File.GetAttributes(path) & FileAttributes.Directory) == 0)
        {
            if (new FileInfo(path).Length == 0)
            {
                File.Delete(path);
                return;
            }
        }

        throw new IOException($"{path} is in use: another program listens there, or it is no socket");
    }

    private async Task AcceptAsync()
    {
        while (true)
        {
            Socket socket;
            try
            {
                socket = await _listener.AcceptAsync().ConfigureAwait(false);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                lock (_gate)
                {
                    if (_disposed)
                    {
                        return;
                    }
                }

                // No descriptor is left, or the client was gone already: others may come.
                await Task.Delay(TimeSpan.FromMilliseconds(100)).ConfigureAwait(false);
                continue;
            }

            Admit(socket);
        }
    }

    private void Admit(Socket socket)
    {
        NbdConnection connection;
        lock (_gate)
        {
            if (_disposed || _connections.Count >= Options.MaxConnections)
            {
                socket.Dispose();
                NbdServerLog.Refused(_log, ExportName, _connections.Count);
                return;
            }

            socket.Blocking = true;

            // Room for a long read's reply as a whole: one that does not fit is sent by a thread that waits for the client.
            StreamSocket.WidenSendBuffer(socket, SendBufferBytes);
            connection = new NbdConnection(this, socket, ++_numbers, _log);
            _connections.Add(connection);
            connection.Start();
        }

        _ = ForgetAsync(connection);
    }

    private async Task ForgetAsync(NbdConnection connection)
    {
        await connection.Ended.ConfigureAwait(false);
        lock (_gate)
        {
            _connections.Remove(connection);
        }
    }
}
