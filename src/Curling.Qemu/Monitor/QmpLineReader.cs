using System.Net.Sockets;

namespace Curling.Qemu.Monitor;

/// <summary>Cuts QMP's bytes into lines, with a bound on a line. Source: qemu docs/interop/qmp-spec.</summary>
/// <remarks>Not thread-safe. The buffer grows to the longest line seen and is reused.</remarks>
internal sealed class QmpLineReader
{
    private readonly int _maxLine;
    private byte[] _buffer = new byte[16 * 1024];
    private int _start;
    private int _end;
    private int _scanned;

    public QmpLineReader(int maxLine)
    {
        _maxLine = maxLine;
    }

    /// <summary>Takes the next whole line, without its end; valid until the next call of <see cref="Room"/>.</summary>
    public bool TryTake(out ReadOnlyMemory<byte> line)
    {
        int at = _buffer.AsSpan(_scanned, _end - _scanned).IndexOf((byte)'\n');
        if (at < 0)
        {
            _scanned = _end;
            line = default;
            return false;
        }

        line = _buffer.AsMemory(_start, _scanned + at - _start);
        _start = _scanned + at + 1;
        _scanned = _start;
        return true;
    }

    /// <summary>Room for more bytes; report how many came with <see cref="Filled"/>.</summary>
    /// <exception cref="QmpException">The line that is open is longer than allowed.</exception>
    public Memory<byte> Room()
    {
        if (_start > 0)
        {
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            _end -= _start;
            _scanned -= _start;
            _start = 0;
        }

        if (_end == _buffer.Length)
        {
            if (_end >= _maxLine)
            {
                throw new QmpException($"QEMU's monitor sent a line of more than {_maxLine} bytes");
            }

            Array.Resize(ref _buffer, Math.Min(_maxLine, _buffer.Length * 2));
        }

        return _buffer.AsMemory(_end);
    }

    /// <summary>Notes that bytes were put into the room.</summary>
    public void Filled(int count) => _end += count;

    /// <summary>Connects to a monitor that is being opened.</summary>
    public static async Task<Socket> ConnectAsync(string path, TimeSpan limit, Task gaveUp, CancellationToken cancellation)
    {
        using CancellationTokenSource timeout = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timeout.CancelAfter(limit);
        while (true)
        {
            Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), timeout.Token);
                return socket;
            }
            catch (SocketException) when (!gaveUp.IsCompleted)
            {
                socket.Dispose();
            }
            catch
            {
                socket.Dispose();
                cancellation.ThrowIfCancellationRequested();
                throw new QmpException($"QEMU did not open its monitor {path} within {limit.TotalSeconds:F0} s");
            }

            try
            {
                await Task.Delay(5, timeout.Token);
            }
            catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
            {
                throw new QmpException($"QEMU did not open its monitor {path} within {limit.TotalSeconds:F0} s");
            }
        }
    }
}
