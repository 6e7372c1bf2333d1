using Curling.Protocol;

namespace Curling.Simulation.Network;

/// <summary>Finds frames in bytes that come in pieces, and checks them as a connection of the daemons does.</summary>
internal sealed class FrameReader
{
    private byte[] _buffer = new byte[4096];
    private int _start;
    private int _end;
    private FrameHeader? _header;
    private uint _received;

    /// <summary>Takes in bytes.</summary>
    public void Feed(ReadOnlySpan<byte> bytes)
    {
        if (_end + bytes.Length > _buffer.Length)
        {
            byte[] old = _buffer;
            if (_end - _start + bytes.Length > old.Length)
            {
                _buffer = new byte[Math.Max(old.Length * 2, _end - _start + bytes.Length)];
            }

            old.AsSpan(_start, _end - _start).CopyTo(_buffer);
            _end -= _start;
            _start = 0;
        }

        bytes.CopyTo(_buffer.AsSpan(_end));
        _end += bytes.Length;
    }

    /// <summary>Takes the next frame that is here whole; the payload is valid until bytes are fed.</summary>
    /// <exception cref="ProtocolException">The bytes break the protocol.</exception>
    public bool TryRead(out FrameHeader header, out ReadOnlySpan<byte> payload)
    {
        payload = default;
        if (_header is null)
        {
            if (_end - _start < FrameHeader.Bytes)
            {
                header = default;
                return false;
            }

            FrameHeader read = FrameHeader.Read(_buffer.AsSpan(_start, FrameHeader.Bytes));
            if (read.Sequence != _received)
            {
                throw new ProtocolException(ProtocolError.Order, $"{read.Type} frame has number {read.Sequence}, expected {_received}");
            }

            _received++;
            _start += FrameHeader.Bytes;
            _header = read;
        }

        header = _header.Value;
        if (_end - _start < header.PayloadLength)
        {
            return false;
        }

        payload = _buffer.AsSpan(_start, header.PayloadLength);
        header.Check(payload);
        _start += header.PayloadLength;
        _header = null;
        return true;
    }

    /// <summary>The stream has ended.</summary>
    /// <exception cref="ProtocolException">In the middle of a frame.</exception>
    public void End()
    {
        if (_header is not null || _end > _start)
        {
            throw new ProtocolException(ProtocolError.Truncated, "the connection ended inside a frame");
        }
    }
}
