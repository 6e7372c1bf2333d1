using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Curling.Qemu.Monitor;

/// <summary>
/// A second conversation with QEMU's monitor, for the cut alone: it waits on the calling thread, so that no scheduling of
/// ours lengthens the guest's pause, and sends stop and save in one write.
/// </summary>
/// <remarks>One thread uses it. Nothing is allocated in a cut once the buffers have grown.</remarks>
public sealed class QmpCutMonitor : IDisposable
{
    private readonly Socket _socket;
    private readonly QmpLineReader _lines = new(QmpClient.MaxLineBytes);
    private readonly byte[] _cont = "{\"execute\":\"cont\",\"id\":3}\n"u8.ToArray();
    private readonly byte[] _stop = "{\"execute\":\"stop\",\"id\":1}\n"u8.ToArray();
    private string? _path;
    private byte[] _stopAndSave = [];
    private byte[] _save = [];

    private QmpCutMonitor(Socket socket)
    {
        _socket = socket;
    }

    /// <summary>QEMU's stamp of the last stop, microseconds since 1970; 0 before the first.</summary>
    public long QemuStopMicros { get; private set; }

    /// <summary>QEMU's stamp of the last resume, microseconds since 1970; 0 before the first.</summary>
    public long QemuResumeMicros { get; private set; }

    /// <summary>Connects and opens the conversation.</summary>
    public static async Task<QmpCutMonitor> ConnectAsync(string path, TimeSpan limit, Task gaveUp, CancellationToken cancellation)
    {
        QmpCutMonitor monitor = new(await QmpLineReader.ConnectAsync(path, limit, gaveUp, cancellation));
        try
        {
            await Task.Run(
                () => monitor.Run("{\"execute\":\"qmp_capabilities\",\"id\":9}\n"u8.ToArray(), 9, "qmp_capabilities", limit),
                cancellation);
            return monitor;
        }
        catch
        {
            monitor.Dispose();
            throw;
        }
    }

    /// <summary>Stops the guest and has QEMU save its device state into a file.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void StopAndSave(string path, TimeSpan limit)
    {
        Prepare(path);
        Send(_stopAndSave, "stop");
        long deadline = Deadline(limit);
        Await(1, "stop", deadline);
        Await(2, "xen-save-devices-state", deadline);
    }

    /// <summary>Stops the guest.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Stop(TimeSpan limit) => Run(_stop, 1, "stop", limit);

    /// <summary>Has QEMU save the device state of a stopped guest into a file.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Save(string path, TimeSpan limit)
    {
        Prepare(path);
        Run(_save, 2, "xen-save-devices-state", limit);
    }

    /// <summary>Lets the guest run.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Continue(TimeSpan limit) => Run(_cont, 3, "cont", limit);

    /// <inheritdoc/>
    public void Dispose() => _socket.Dispose();

    private void Prepare(string path)
    {
        if (_path == path)
        {
            return;
        }

        string save = $"{{\"execute\":\"xen-save-devices-state\",\"id\":2,\"arguments\":{{\"filename\":\"{JsonEncodedText.Encode(path)}\",\"live\":false}}}}\n";
        _save = Encoding.UTF8.GetBytes(save);
        _stopAndSave = [.. _stop, .. _save];
        _path = path;
    }

    private void Run(byte[] command, int id, string name, TimeSpan limit)
    {
        Send(command, name);
        Await(id, name, Deadline(limit));
    }

    private static long Deadline(TimeSpan limit) => Stopwatch.GetTimestamp() + (long)(limit.TotalSeconds * Stopwatch.Frequency);

    private void Send(ReadOnlySpan<byte> bytes, string name)
    {
        try
        {
            while (!bytes.IsEmpty)
            {
                bytes = bytes[_socket.Send(bytes)..];
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw new QmpException($"{name}: QEMU closed its monitor");
        }
    }

    private void Await(int id, string name, long deadline)
    {
        while (true)
        {
            while (_lines.TryTake(out ReadOnlyMemory<byte> line))
            {
                if (Take(line.Span, id, name))
                {
                    return;
                }
            }

            long left = (deadline - Stopwatch.GetTimestamp()) * 1_000_000 / Stopwatch.Frequency;
            try
            {
                if (left <= 0 || !_socket.Poll((int)Math.Min(left, int.MaxValue), SelectMode.SelectRead))
                {
                    throw new QmpException($"{name}: QEMU did not answer in time");
                }

                int count = _socket.Receive(_lines.Room().Span);
                if (count == 0)
                {
                    throw new QmpException($"{name}: QEMU closed its monitor");
                }

                _lines.Filled(count);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                throw new QmpException($"{name}: QEMU closed its monitor");
            }
        }
    }

    /// <summary>Reads one line; true when it is the answer waited for.</summary>
    private bool Take(ReadOnlySpan<byte> line, int id, string name)
    {
        try
        {
            Utf8JsonReader reader = new(line);
            bool isAnswer = false;
            bool isError = false;
            bool isStop = false;
            bool isResume = false;
            long stamp = 0;
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject)
            {
                throw new QmpException("QEMU's monitor said something that is not QMP: a line is not an object");
            }

            while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
            {
                if (reader.ValueTextEquals("id"u8))
                {
                    reader.Read();
                    isAnswer = reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out int got) && got == id;
                }
                else if (reader.ValueTextEquals("event"u8))
                {
                    reader.Read();
                    isStop = reader.ValueTextEquals("STOP"u8);
                    isResume = reader.ValueTextEquals("RESUME"u8);
                }
                else if (reader.ValueTextEquals("timestamp"u8))
                {
                    reader.Read();
                    stamp = StampOf(ref reader);
                }
                else
                {
                    isError |= reader.ValueTextEquals("error"u8);
                    reader.Skip();
                }
            }

            QemuStopMicros = isStop ? stamp : QemuStopMicros;
            QemuResumeMicros = isResume ? stamp : QemuResumeMicros;
            return isAnswer && isError
                ? throw new QmpException($"QEMU refused {name}: {Encoding.UTF8.GetString(line)}", "GenericError")
                : isAnswer;
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw new QmpException($"QEMU's monitor said something that is not QMP: {e.Message}");
        }
    }

    private static long StampOf(ref Utf8JsonReader reader)
    {
        long seconds = 0;
        long micros = 0;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            bool isSeconds = reader.ValueTextEquals("seconds"u8);
            reader.Read();
            if (reader.TokenType == JsonTokenType.Number && reader.TryGetInt64(out long value))
            {
                seconds = isSeconds ? value : seconds;
                micros = isSeconds ? micros : value;
            }
        }

        return (seconds * 1_000_000) + micros;
    }
}
