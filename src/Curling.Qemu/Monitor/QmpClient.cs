using System.Buffers;
using System.Collections.Concurrent;
using System.Globalization;
using System.Net.Sockets;
using System.Text.Json;
using System.Threading.Channels;

namespace Curling.Qemu.Monitor;

/// <summary>Something QEMU says unasked.</summary>
/// <param name="Name">Its name, such as <c>SHUTDOWN</c>.</param>
/// <param name="Data">Its data; an empty object where it has none.</param>
/// <param name="Micros">QEMU's stamp, microseconds since 1970.</param>
public sealed record QmpEvent(string Name, JsonElement Data, long Micros);

/// <summary>A conversation with QEMU's monitor (QMP). Source: qemu docs/interop/qmp-spec, qapi/.</summary>
/// <remarks>
/// Thread-safe: several commands may be on their way; answers are matched by id. When QEMU closes the monitor, or says
/// something that is not QMP, every open command fails with what happened and <see cref="Events"/> ends.
/// </remarks>
public sealed class QmpClient : IAsyncDisposable
{
    /// <summary>The longest line taken from QEMU.</summary>
    public const int MaxLineBytes = 16 << 20;

    // Only events that matter pile up here; a reader always exists. Beyond this, something floods us.
    private const int MaxEvents = 65536;
    private static readonly TimeSpan DefaultLimit = TimeSpan.FromSeconds(30);
    private readonly Socket _socket;
    private readonly ConcurrentDictionary<long, (string Command, TaskCompletionSource<JsonElement> Answer)> _open = new();
    private readonly Channel<QmpEvent> _events = Channel.CreateBounded<QmpEvent>(
        new BoundedChannelOptions(MaxEvents) { FullMode = BoundedChannelFullMode.DropOldest, SingleWriter = true });

    private readonly SemaphoreSlim _writing = new(1, 1);
    private readonly CancellationTokenSource _cancellation = new();
    private readonly Task _reading;
    private string? _ended;
    private long _nextId;

    private QmpClient(Socket socket)
    {
        _socket = socket;
        _reading = Task.Run(ReadAsync);
    }

    /// <summary>What QEMU says unasked, in order; ends when the conversation does.</summary>
    public ChannelReader<QmpEvent> Events => _events.Reader;

    /// <summary>Connects and opens the conversation, retrying while QEMU is starting.</summary>
    /// <param name="path">The monitor's Unix socket.</param>
    /// <param name="limit">How long to try.</param>
    /// <param name="gaveUp">Completes when QEMU has ended and trying is of no use.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="QmpException">It could not be opened.</exception>
    public static async Task<QmpClient> ConnectAsync(
        string path, TimeSpan limit, Task? gaveUp = null, CancellationToken cancellation = default)
    {
        Socket socket = await QmpLineReader.ConnectAsync(
            path, limit, gaveUp ?? new TaskCompletionSource().Task, cancellation);
        QmpClient client = new(socket);
        try
        {
            await client.ExecuteAsync("qmp_capabilities", null, limit, cancellation);
            return client;
        }
        catch
        {
            await client.DisposeAsync();
            throw;
        }
    }

    /// <summary>Runs a command.</summary>
    /// <param name="command">Its name.</param>
    /// <param name="arguments">Writes the properties of its arguments object, or null for none.</param>
    /// <param name="limit">How long to wait, 30 s if not given.</param>
    /// <param name="cancellation">Ends the wait; QEMU may still run the command.</param>
    /// <returns>What it returned.</returns>
    /// <exception cref="QmpException">QEMU refused it, did not answer, or ended.</exception>
    public async Task<JsonElement> ExecuteAsync(
        string command, Action<Utf8JsonWriter>? arguments = null, TimeSpan? limit = null, CancellationToken cancellation = default)
    {
        TimeSpan wait = limit ?? DefaultLimit;
        long id = Interlocked.Increment(ref _nextId);
        TaskCompletionSource<JsonElement> answer = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _open[id] = (command, answer);
        using CancellationTokenSource timer = CancellationTokenSource.CreateLinkedTokenSource(cancellation, _cancellation.Token);
        timer.CancelAfter(wait);
        try
        {
            if (Volatile.Read(ref _ended) is { } ended)
            {
                throw new QmpException($"{command}: {ended}");
            }

            await SendAsync(Write(command, arguments, id), command, timer.Token);
            return await answer.Task.WaitAsync(timer.Token);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new QmpException(_cancellation.IsCancellationRequested
                ? $"{command}: the conversation with QEMU's monitor was closed"
                : $"{command}: QEMU did not answer within {wait.TotalSeconds:0.###} s");
        }
        finally
        {
            _open.TryRemove(id, out _);
        }
    }

    /// <summary>Runs a command of the human monitor and returns what it printed.</summary>
    /// <exception cref="QmpException">As <see cref="ExecuteAsync"/>.</exception>
    public async Task<string> HumanAsync(string command, CancellationToken cancellation = default)
    {
        JsonElement answer = await ExecuteAsync(
            "human-monitor-command", w => w.WriteString("command-line", command), cancellation: cancellation);
        return answer.ValueKind == JsonValueKind.String ? answer.GetString()! : "";
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        _socket.Dispose();
        await _reading;
    }

    private static byte[] Write(string command, Action<Utf8JsonWriter>? arguments, long id)
    {
        ArrayBufferWriter<byte> buffer = new(256);
        using (Utf8JsonWriter w = new(buffer))
        {
            w.WriteStartObject();
            w.WriteString("execute", command);
            w.WriteNumber("id", id);
            if (arguments is not null)
            {
                w.WriteStartObject("arguments");
                arguments(w);
                w.WriteEndObject();
            }

            w.WriteEndObject();
        }

        buffer.Write("\n"u8);
        return buffer.WrittenSpan.ToArray();
    }

    private async Task SendAsync(ReadOnlyMemory<byte> bytes, string command, CancellationToken cancellation)
    {
        await _writing.WaitAsync(cancellation);
        try
        {
            while (!bytes.IsEmpty)
            {
                bytes = bytes[await _socket.SendAsync(bytes, SocketFlags.None, cancellation)..];
            }
        }
        catch (OperationCanceledException)
        {
            // QEMU may hold half a command now; it would take the next one for the other half.
            _socket.Dispose();
            throw;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw new QmpException($"{command}: QEMU closed its monitor");
        }
        finally
        {
            _writing.Release();
        }
    }

    private async Task ReadAsync()
    {
        QmpLineReader lines = new(MaxLineBytes);
        string reason = "QEMU closed its monitor";
        try
        {
            while (true)
            {
                while (lines.TryTake(out ReadOnlyMemory<byte> line))
                {
                    Take(line);
                }

                int count = await _socket.ReceiveAsync(lines.Room(), SocketFlags.None, _cancellation.Token);
                if (count == 0)
                {
                    break;
                }

                lines.Filled(count);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
        {
            // Closed: the usual end.
        }
        catch (Exception e) when (e is QmpException or JsonException or InvalidOperationException)
        {
            reason = $"QEMU's monitor said something that is not QMP: {e.Message}";
            _socket.Dispose();
        }

        Volatile.Write(ref _ended, reason);
        foreach ((string command, TaskCompletionSource<JsonElement> answer) in _open.Values)
        {
            answer.TrySetException(new QmpException($"{reason} while {command} was on its way"));
        }

        _events.Writer.TryComplete();
    }

    private void Take(ReadOnlyMemory<byte> line)
    {
        if (line.Span.Trim("\r \t"u8).IsEmpty)
        {
            return;
        }

        using JsonDocument document = JsonDocument.Parse(line);
        JsonElement root = document.RootElement;
        if (root.ValueKind != JsonValueKind.Object)
        {
            throw new QmpException("a line is not an object");
        }

        if (root.TryGetProperty("event", out JsonElement name))
        {
            JsonElement data = root.TryGetProperty("data", out JsonElement d) ? d.Clone() : Empty;
            _events.Writer.TryWrite(new QmpEvent(name.GetString() ?? "", data, StampOf(root)));
        }
        else if (root.TryGetProperty("id", out JsonElement id) && id.ValueKind == JsonValueKind.Number
            && id.TryGetInt64(out long number) && _open.TryGetValue(number, out var open))
        {
            if (root.TryGetProperty("return", out JsonElement result))
            {
                open.Answer.TrySetResult(result.Clone());
            }
            else
            {
                open.Answer.TrySetException(ErrorOf(root, open.Command));
            }
        }
        else if (root.TryGetProperty("error", out _) && !root.TryGetProperty("id", out _))
        {
            // QEMU could not even read a command, so nobody knows whose answer will never come.
            throw ErrorOf(root, "a command");
        }
    }

    private static JsonElement Empty { get; } = JsonDocument.Parse("{}").RootElement;

    private static QmpException ErrorOf(JsonElement root, string command)
    {
        string text = "no description";
        string kind = "";
        if (root.TryGetProperty("error", out JsonElement error) && error.ValueKind == JsonValueKind.Object)
        {
            text = error.TryGetProperty("desc", out JsonElement desc) && desc.ValueKind == JsonValueKind.String ? desc.GetString()! : text;
            kind = error.TryGetProperty("class", out JsonElement c) && c.ValueKind == JsonValueKind.String ? c.GetString()! : "";
        }

        return new QmpException(string.Create(CultureInfo.InvariantCulture, $"QEMU refused {command}: {text}"), kind);
    }

    private static long StampOf(JsonElement root) =>
        root.TryGetProperty("timestamp", out JsonElement stamp) && stamp.ValueKind == JsonValueKind.Object
            && stamp.TryGetProperty("seconds", out JsonElement seconds) && seconds.TryGetInt64(out long s)
            && stamp.TryGetProperty("microseconds", out JsonElement micros) && micros.TryGetInt64(out long us)
            ? (s * 1_000_000) + us
            : 0;
}
