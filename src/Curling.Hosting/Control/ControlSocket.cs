using System.Net.Sockets;
using System.Text.Json;
using Curling.Hosting.Options;

namespace Curling.Hosting.Control;

/// <summary>Where control sockets are. A daemon has one of its own, named after what tells it from the others on the host.</summary>
public static class ControlPaths
{
    /// <summary>The directory of a user's daemons: only its owner may enter.</summary>
    public static string RuntimeDirectory()
    {
        string? given = Environment.GetEnvironmentVariable("CURLING_RUNTIME");
        string path = !string.IsNullOrEmpty(given) ? given
            : Environment.IsPrivilegedProcess ? "/run/curling"
            : Environment.GetEnvironmentVariable("XDG_RUNTIME_DIR") is { Length: > 0 } runtime ? Path.Combine(runtime, "curling")
            : $"/tmp/curling-{Environment.UserName}";
        try
        {
            Directory.CreateDirectory(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new OperatorException($"{path} cannot be created: {e.Message}; set CURLING_RUNTIME to a directory of your own");
        }

        return path;
    }

    /// <summary>The default path of a daemon's socket.</summary>
    public static string For(string role, string name)
    {
        string clean = string.Concat(name.Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' ? c : '-'));
        return Path.Combine(RuntimeDirectory(), $"{role}-{clean[..Math.Min(clean.Length, 48)]}.sock");
    }

    /// <summary>The socket to talk to: the one given, else the only one there is.</summary>
    /// <exception cref="OperatorException">There is none, or several.</exception>
    public static string Choose(string role, string? given)
    {
        if (given is not null)
        {
            return given;
        }

        string directory = RuntimeDirectory();
        string[] found = [.. Directory.GetFiles(directory, $"{role}-*.sock").Where(ControlServer.Answers).Order()];
        return found.Length switch
        {
            1 => found[0],
            0 => throw new OperatorException(
                $"no curling-{role} runs here (looked in {directory}); start one, or name its socket with --control PATH"),
            _ => throw new OperatorException(
                $"several curling-{role} run here; name one with --control PATH: {string.Join(", ", found)}"),
        };
    }
}

/// <summary>Answers questions about a daemon on a Unix socket: one line of JSON in, one line out.</summary>
/// <remarks>
/// Requests for the status are answered at once and beside each other; what changes something is done one after the other, and a
/// promotion that takes its time keeps nobody from looking. Disposing removes the socket.
/// </remarks>
public sealed class ControlServer : IAsyncDisposable
{
    private const int MaxRequest = 64 * 1024;
    private const int MaxClients = 32;
    /// <summary>How long a client may take to say what it wants, and to read what it is told.</summary>
    private static readonly TimeSpan ReadLimit = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan AnswerLimit = TimeSpan.FromSeconds(2);
    private readonly Socket _listener;
    private readonly Func<ControlRequest, CancellationToken, Task<ControlReply>> _handler;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly SemaphoreSlim _room = new(MaxClients);
    private readonly SemaphoreSlim _acting = new(1);
    private readonly Task _loop;
    private volatile bool _closing;

    private ControlServer(Socket listener, string path, Func<ControlRequest, CancellationToken, Task<ControlReply>> handler)
    {
        _listener = listener;
        _handler = handler;
        SocketPath = path;
        _loop = Task.Run(AcceptAsync);
    }

    /// <summary>The socket's path.</summary>
    public string SocketPath { get; }

    /// <summary>Starts to answer.</summary>
    /// <exception cref="OperatorException">Another daemon answers there, or the socket cannot be made.</exception>
    public static ControlServer Start(string path, Func<ControlRequest, CancellationToken, Task<ControlReply>> handler)
    {
        if (File.Exists(path))
        {
            if (Answers(path))
            {
                throw new OperatorException($"another daemon uses the control socket {path}; give this one another with --control PATH");
            }

            File.Delete(path);
        }

        Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            listener.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            listener.Listen(128);
        }
        catch (Exception e) when (e is SocketException or IOException or ArgumentException or UnauthorizedAccessException)
        {
            listener.Dispose();
            throw new OperatorException($"the control socket {path} cannot be made: {e.Message}; name another with --control PATH");
        }

        return new ControlServer(listener, path, handler);
    }

    /// <summary>Whether somebody listens on a socket.</summary>
    public static bool Answers(string path)
    {
        try
        {
            using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        // Whoever is being answered gets the answer; nobody new is let in.
        File.Delete(SocketPath);
        _closing = true;
        _listener.Dispose();
        _cancellation.CancelAfter(AnswerLimit);
        await _loop;
        for (int client = 0; client < MaxClients; client++)
        {
            await _room.WaitAsync();
        }

        _cancellation.Dispose();
        _acting.Dispose();
        _room.Dispose();
    }

    private async Task AcceptAsync()
    {
        while (!_closing)
        {
            await _room.WaitAsync();
            try
            {
                Socket client = await _listener.AcceptAsync();
                _ = Task.Run(() => ServeAsync(client));
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                _room.Release();

                // We end; or the listener fails for another reason, and must not spin.
                await Task.Delay(10);
            }
        }
    }

    private async Task ServeAsync(Socket client)
    {
        try
        {
            using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(_cancellation.Token);
            limit.CancelAfter(ReadLimit);
            ControlReply reply = await AnswerAsync(client, limit);
            using CancellationTokenSource last = CancellationTokenSource.CreateLinkedTokenSource(_cancellation.Token);
            last.CancelAfter(ReadLimit);
            await ControlClient.WriteLineAsync(client, JsonSerializer.SerializeToUtf8Bytes(reply, ControlJson.Default.ControlReply), last.Token);
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException or ObjectDisposedException or IOException)
        {
            // The client went away, or we do.
        }
        finally
        {
            client.Dispose();
            _room.Release();
        }
    }

    private async Task<ControlReply> AnswerAsync(Socket client, CancellationTokenSource readLimit)
    {
        try
        {
            byte[] line = await ControlClient.ReadLineAsync(client, MaxRequest, readLimit.Token);
            ControlRequest? request = JsonSerializer.Deserialize(line, ControlJson.Default.ControlRequest);
            if (request?.Command is null)
            {
                return ControlReply.Failed("the request names no command");
            }

            if (request.Command == "status")
            {
                return await _handler(request, _cancellation.Token);
            }

            bool queued = !await _acting.WaitAsync(0, _cancellation.Token);
            if (queued)
            {
                await _acting.WaitAsync(_cancellation.Token);
            }

            try
            {
                // Who has left meanwhile does not want it any more: a promotion must not happen later than it was asked for.
                if (queued && client.Poll(0, SelectMode.SelectRead) && client.Available == 0)
                {
                    return ControlReply.Failed("whoever asked has left");
                }

                return await _handler(request, _cancellation.Token);
            }
            finally
            {
                _acting.Release();
            }
        }
        catch (JsonException)
        {
            return ControlReply.Failed("the request is not JSON");
        }
        catch (InvalidDataException e)
        {
            return ControlReply.Failed(e.Message);
        }
        catch (OperatorException e)
        {
            return ControlReply.Failed(e.Message);
        }
        catch (Exception e) when (e is not (OperationCanceledException or SocketException))
        {
            return ControlReply.Failed($"the daemon failed at it: {e.GetType().Name}: {e.Message}; look at its log, and report this");
        }
    }
}

/// <summary>Asks a daemon on its control socket.</summary>
public static class ControlClient
{
    private const int MaxReply = 4 << 20;

    /// <summary>Sends a request and waits for the answer.</summary>
    /// <exception cref="OperatorException">Nobody answers, or not in time, or the answer makes no sense.</exception>
    public static async Task<ControlReply> CallAsync(
        string path, ControlRequest request, TimeSpan limit, CancellationToken cancellation = default)
    {
        using CancellationTokenSource timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timeout.CancelAfter(limit);
        try
        {
            using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), timeout.Token);
            await WriteLineAsync(socket, JsonSerializer.SerializeToUtf8Bytes(request, ControlJson.Default.ControlRequest), timeout.Token);
            byte[] line = await ReadLineAsync(socket, MaxReply, timeout.Token);
            return JsonSerializer.Deserialize(line, ControlJson.Default.ControlReply)
                ?? throw new OperatorException($"the daemon at {path} answered nothing");
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            throw new OperatorException($"no daemon answers at {path}: {e.Message}; is it running, or is its socket another (--control)?");
        }
        catch (Exception e) when (e is JsonException or InvalidDataException)
        {
            throw new OperatorException($"the daemon at {path} answered something else: {e.Message}");
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new OperatorException($"the daemon at {path} did not answer within {Durations.Format(limit)}");
        }
    }

    internal static async Task WriteLineAsync(Socket socket, byte[] json, CancellationToken cancellation)
    {
        ReadOnlyMemory<byte> left = (byte[])[.. json, (byte)'\n'];
        while (!left.IsEmpty)
        {
            left = left[await socket.SendAsync(left, SocketFlags.None, cancellation)..];
        }
    }

    internal static async Task<byte[]> ReadLineAsync(Socket socket, int maxBytes, CancellationToken cancellation)
    {
        byte[] buffer = new byte[Math.Min(maxBytes, 16 * 1024)];
        int length = 0;
        while (true)
        {
            if (length == buffer.Length)
            {
                if (length >= maxBytes)
                {
                    throw new InvalidDataException($"a line is longer than {maxBytes} bytes");
                }

                Array.Resize(ref buffer, Math.Min(maxBytes, length * 2));
            }

            int count = await socket.ReceiveAsync(buffer.AsMemory(length), SocketFlags.None, cancellation);
            int end = buffer.AsSpan(length, count).IndexOf((byte)'\n');
            if (end >= 0)
            {
                return buffer[..(length + end)];
            }

            if (count == 0)
            {
                throw new InvalidDataException("the connection ended in the middle of a line");
            }

            length += count;
        }
    }
}
