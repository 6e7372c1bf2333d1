using System.Buffers.Text;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Curling.Qemu.Monitor;

/// <summary>
/// A second conversation with QEMU's monitor, for the cut alone: it waits on the calling thread, so that no scheduling of
/// ours lengthens the guest's pause, and sends stop and save in one write.
/// </summary>
/// <remarks>
/// One thread uses it. Nothing is allocated in a cut once the buffers have grown. After a command that was not answered in
/// time it can still be used: every command has an id of its own, and an answer that comes late is thrown away. Were it taken
/// for the answer to a later command, a round would be sealed with the device state of another instant.
/// </remarks>
public sealed class QmpCutMonitor : IDisposable
{
    private const string SaveName = "xen-save-devices-state";
    private const int MaxPath = 4096;
    private readonly Socket _socket;
    private readonly QmpLineReader _lines = new(QmpClient.MaxLineBytes);
    private readonly QmpCutMessage _message = new();

    // A character of the path becomes six bytes at most.
    private readonly byte[] _out = new byte[(6 * MaxPath) + 512];
    private int _length;
    private long _id;
    private string? _path;
    private byte[] _escapedPath = [];
    private string? _broken;

    private QmpCutMonitor(Socket socket)
    {
        _socket = socket;
    }

    /// <summary>QEMU's stamp of the last stop, microseconds since 1970; 0 before the first.</summary>
    public long QemuStopMicros { get; private set; }

    /// <summary>QEMU's stamp of the last resume, microseconds since 1970; 0 before the first.</summary>
    public long QemuResumeMicros { get; private set; }

    /// <summary>When the last stop was read here, by <see cref="Stopwatch"/>; 0 before the first.</summary>
    public long StoppedAt { get; private set; }

    /// <summary>When the last resume was read here, by <see cref="Stopwatch"/>; 0 before the first.</summary>
    public long ResumedAt { get; private set; }

    /// <summary>Connects and opens the conversation.</summary>
    /// <exception cref="QmpException">It could not be opened.</exception>
    public static async Task<QmpCutMonitor> ConnectAsync(string path, TimeSpan limit, Task gaveUp, CancellationToken cancellation)
    {
        QmpCutMonitor monitor = new(await QmpLineReader.ConnectAsync(path, limit, gaveUp, cancellation));
        try
        {
            await Task.Run(() => monitor.Open(limit), cancellation);
            return monitor;
        }
        catch
        {
            monitor.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Stops the guest and has QEMU save its device state into a file. If only the saving fails, the guest stays stopped unless
    /// it was to continue.
    /// </summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    /// <param name="path">The file; it is at rest when this returns or throws.</param>
    /// <param name="limit">How long to wait for QEMU.</param>
    /// <param name="whileSaving">
    /// Called when the guest stands still, while QEMU still saves: saving reads no RAM that is not final, for QEMU's own
    /// migration sends RAM before devices too. What it throws is thrown on, after QEMU has answered, and the guest stays
    /// stopped.
    /// </param>
    /// <param name="thenContinue">
    /// Lets the guest run as soon as it is saved and <paramref name="whileSaving"/> has returned: the command waits in QEMU
    /// behind the save, which spares the guest the way of the answer here and of the command back.
    /// </param>
    public void StopAndSave(string path, TimeSpan limit, Action? whileSaving = null, bool thenContinue = false)
    {
        long deadline = Deadline(limit);
        Prepare(path);
        long stop = Write("stop"u8);
        long save = WriteSave();
        Send("stop");
        QmpException? refused = Await(stop, "stop", deadline);
        long cont = -1;
        try
        {
            if (refused is null)
            {
                whileSaving?.Invoke();
                if (thenContinue)
                {
                    cont = Write("cont"u8);
                    Send("cont");
                }
            }
        }
        finally
        {
            // QEMU runs the save even after a stop that it refused: wait for both, so that the file is at rest afterwards.
            refused = Await(save, SaveName, deadline) is { } second ? refused ?? second : refused;
        }

        if (cont >= 0)
        {
            refused = Await(cont, "cont", deadline) is { } third ? refused ?? third : refused;
        }

        if (refused is not null)
        {
            throw refused;
        }
    }

    /// <summary>Stops the guest.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Stop(TimeSpan limit) => Run("stop"u8, "stop", limit);

    /// <summary>Has QEMU save the device state of a stopped guest into a file.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Save(string path, TimeSpan limit)
    {
        Prepare(path);
        Run(WriteSave(), SaveName, limit);
    }

    /// <summary>Lets the guest run.</summary>
    /// <exception cref="QmpException">QEMU refused, did not answer within <paramref name="limit"/>, or ended.</exception>
    public void Continue(TimeSpan limit) => Run("cont"u8, "cont", limit);

    /// <inheritdoc/>
    public void Dispose() => _socket.Dispose();

    /// <summary>
    /// Opens the conversation with out-of-band execution where QEMU has it: then commands wait in a queue of QEMU's own, where
    /// otherwise the next is not even read before the last is answered.
    /// </summary>
    private void Open(TimeSpan limit)
    {
        try
        {
            Append("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":"u8);
            Run(AppendId(), "qmp_capabilities", limit);
        }
        catch (QmpException e) when (e.ErrorClass.Length > 0)
        {
            Run("qmp_capabilities"u8, "qmp_capabilities", limit);
        }
    }

    private void Run(ReadOnlySpan<byte> command, string name, TimeSpan limit) => Run(Write(command), name, limit);

    private void Run(long id, string name, TimeSpan limit)
    {
        long deadline = Deadline(limit);
        Send(name);
        if (Await(id, name, deadline) is { } refused)
        {
            throw refused;
        }
    }

    private static long Deadline(TimeSpan limit) => Stopwatch.GetTimestamp() + (long)(limit.TotalSeconds * Stopwatch.Frequency);

    private long Write(ReadOnlySpan<byte> command)
    {
        Append("{\"execute\":\""u8);
        Append(command);
        Append("\",\"id\":"u8);
        return AppendId();
    }

    private void Prepare(string path)
    {
        if (string.Equals(_path, path, StringComparison.Ordinal))
        {
            return;
        }

        if (path.Length is 0 or > MaxPath)
        {
            throw new ArgumentException($"a path of {path.Length} characters is not usable; 1 to {MaxPath} are", nameof(path));
        }

        _escapedPath = JsonEncodedText.Encode(path).EncodedUtf8Bytes.ToArray();
        _path = path;
    }

    private long WriteSave()
    {
        // live=false: QEMU keeps its disks, for the guest goes on here.
        Append("{\"execute\":\"xen-save-devices-state\",\"arguments\":{\"live\":false,\"filename\":\""u8);
        Append(_escapedPath);
        Append("\"},\"id\":"u8);
        return AppendId();
    }

    private void Append(ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(_out.AsSpan(_length));
        _length += bytes.Length;
    }

    private long AppendId()
    {
        _id++;
        Utf8Formatter.TryFormat(_id, _out.AsSpan(_length), out int digits);
        _length += digits;
        Append("}\n"u8);
        return _id;
    }

    private void Send(string name)
    {
        ReadOnlySpan<byte> bytes = _out.AsSpan(0, _length);
        _length = 0;
        if (_broken is { } why)
        {
            throw new QmpException($"{name}: {why}");
        }

        try
        {
            while (!bytes.IsEmpty)
            {
                bytes = bytes[_socket.Send(bytes)..];
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Break(name, "QEMU closed its monitor");
        }
    }

    /// <summary>Reads until the answer to one command is there: null, or QEMU's refusal.</summary>
    private QmpException? Await(long id, string name, long deadline)
    {
        while (true)
        {
            while (_lines.TryTake(out ReadOnlyMemory<byte> line))
            {
                if (Take(line.Span, id, name, out QmpException? refused))
                {
                    return refused;
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
                    throw Break(name, "QEMU closed its monitor");
                }

                _lines.Filled(count);
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                throw Break(name, "QEMU closed its monitor");
            }
        }
    }

    /// <summary>Reads one line; true when it is the answer waited for.</summary>
    private bool Take(ReadOnlySpan<byte> line, long id, string name, out QmpException? refused)
    {
        refused = null;
        if (line.Trim(" \t\r"u8).IsEmpty)
        {
            return false;
        }

        try
        {
            _message.Read(line);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException)
        {
            throw Break(name, $"QEMU's monitor said something that is not QMP: {e.Message}");
        }

        switch (_message.Kind)
        {
            case QmpCutMessageKind.Stop:
                StoppedAt = Stopwatch.GetTimestamp();
                QemuStopMicros = _message.Micros;
                return false;
            case QmpCutMessageKind.Resume:
                ResumedAt = Stopwatch.GetTimestamp();
                QemuResumeMicros = _message.Micros;
                return false;
            case QmpCutMessageKind.Error when _message.Id < 0:
                // QEMU could not even read a command, so nobody knows which answer will never come.
                throw Break(name, $"QEMU did not understand a command: {_message.ErrorDescription}");
            case QmpCutMessageKind.Error when _message.Id == id:
                refused = new QmpException($"QEMU refused {name}: {_message.ErrorDescription}", _message.ErrorClass);
                return true;
            default:
                return _message.Kind == QmpCutMessageKind.Return && _message.Id == id;
        }
    }

    private QmpException Break(string name, string why)
    {
        _broken = why;
        return new QmpException($"{name}: {why}");
    }
}
