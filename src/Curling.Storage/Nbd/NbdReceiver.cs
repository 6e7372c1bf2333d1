using System.Net.Sockets;
using Curling.Linux.Storage;

namespace Curling.Storage.Nbd;

/// <summary>What comes in on a connection: taken from the socket in large pieces, handed out in the protocol's small ones.</summary>
/// <remarks>For one thread.</remarks>
internal sealed class NbdReceiver
{
    private const int Bytes = 128 << 10;
    private readonly PinnedBuffer _buffer = new(Bytes);
    private readonly Socket _socket;
    private int _start;
    private int _end;

    public NbdReceiver(Socket socket) => _socket = socket;

    /// <summary>The bytes that are here and not taken yet.</summary>
    public ReadOnlySpan<byte> Here => _buffer.Bytes.AsSpan(_start, _end - _start);

    /// <summary>Takes bytes off the front of <see cref="Here"/>.</summary>
    public void Take(int count) => _start += count;

    /// <summary>Waits until more bytes are here than before.</summary>
    /// <returns>False when the peer has ended the stream.</returns>
    /// <exception cref="NbdViolationException">The socket's time limit has passed.</exception>
    /// <exception cref="IOException">The connection is broken.</exception>
    public bool Receive()
    {
        if (_start == _end)
        {
            _start = _end = 0;
        }
        else if (_start > 0)
        {
            Buffer.BlockCopy(_buffer.Bytes, _start, _buffer.Bytes, 0, _end - _start);
            _end -= _start;
            _start = 0;
        }

        int got = StreamSocket.Receive(_socket.SafeHandle, new BufferPart(_buffer, _end, Bytes - _end));
        CheckTime(got);
        _end += got;
        return got > 0;
    }

    /// <summary>Fills the rest of a payload, of which what was here has been taken; what follows it comes into this buffer.</summary>
    public void Fill(PinnedBuffer into, int start, int length)
    {
        while (length > 0)
        {
            if (_start != _end)
            {
                throw new InvalidOperationException("bytes that came earlier were not taken");
            }

            _start = _end = 0;
            int got = StreamSocket.Receive(_socket.SafeHandle, new BufferPart(into, start, length), new BufferPart(_buffer, 0, Bytes));
            CheckTime(got);
            if (got == 0)
            {
                throw new NbdViolationException(NbdViolation.Truncated, $"the stream ended {length} bytes before the end of a payload");
            }

            _end = Math.Max(0, got - length);
            int filled = got - _end;
            start += filled;
            length -= filled;
        }
    }

    private static void CheckTime(int got)
    {
        if (got < 0)
        {
            throw new NbdViolationException(NbdViolation.HandshakeTimeout, "nothing came for as long as the negotiation may take");
        }
    }
}
