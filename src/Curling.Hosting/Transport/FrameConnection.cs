using System.Buffers;
using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using Curling.Protocol;

namespace Curling.Hosting.Transport;

/// <summary>
/// Frames over a connected socket: numbers and checks them in both directions. It owns the socket.
/// </summary>
/// <remarks>
/// Sending is safe from several threads (frames never mix); receiving is for one reader. A send that is cancelled or fails
/// leaves the stream cut in the middle of a frame, so the connection refuses further sends: dispose it.
/// </remarks>
public sealed class FrameConnection : IAsyncDisposable
{
    private readonly Socket _socket;
    private readonly RateLimiter _limiter;
    private readonly TimeProvider _time;
    private readonly SemaphoreSlim _writing = new(1, 1);
    private readonly byte[] _control = new byte[FrameHeader.Bytes + ProtocolLimits.MaxControlPayload];
    private readonly byte[] _header = new byte[FrameHeader.Bytes];
    private uint _sent;
    private uint _received;
    private bool _broken;
    private bool _disposed;
    private long _lastHeard;
    private long _bytesSent;
    private long _bytesReceived;

    /// <summary>Wraps a connected socket and takes it over.</summary>
    /// <param name="socket">A connected stream socket.</param>
    /// <param name="bytesPerSecond">The limit for what is sent, 0 for none.</param>
    /// <param name="time">The clock that rate and silence are measured on.</param>
    public FrameConnection(Socket socket, long bytesPerSecond, TimeProvider time)
    {
        _socket = socket;
        _time = time;
        _limiter = new RateLimiter(bytesPerSecond, time);
        _lastHeard = time.GetTimestamp();
        if (socket.ProtocolType == ProtocolType.Tcp)
        {
            socket.NoDelay = true;
        }
    }

    /// <summary>The clock's timestamp at which bytes last came in; bytes of any kind are a sign of life.</summary>
    public long LastHeard => Volatile.Read(ref _lastHeard);

    /// <summary>Bytes written so far.</summary>
    public long BytesSent => Volatile.Read(ref _bytesSent);

    /// <summary>Bytes read so far.</summary>
    public long BytesReceived => Volatile.Read(ref _bytesReceived);

    /// <summary>
    /// Bytes a second that the way to the peer takes: the kernel's own measure (tcp(7), <c>tcpi_delivery_rate</c>), or the limit
    /// that was set where that is lower. 0 when it is not known.
    /// </summary>
    public long DeliveryRate()
    {
        const int Tcp = 6;
        const int TcpInfo = 11;
        const int DeliveryRateAt = 160;
        long rate = 0;
        if (_socket.ProtocolType == ProtocolType.Tcp && !_disposed)
        {
            Span<byte> info = stackalloc byte[DeliveryRateAt + sizeof(long)];
            try
            {
                rate = _socket.GetRawSocketOption(Tcp, TcpInfo, info) == info.Length
                    ? BinaryPrimitives.ReadInt64LittleEndian(info[DeliveryRateAt..])
                    : 0;
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It is gone; the next send says so.
            }
        }

        long limit = _limiter.BytesPerSecond;
        return limit > 0 && (rate == 0 || limit < rate) ? limit : rate;
    }

    /// <summary>Sends a frame with a small payload, which is copied.</summary>
    /// <exception cref="IOException">The connection is gone.</exception>
    public async ValueTask SendAsync(FrameType type, ReadOnlyMemory<byte> payload, CancellationToken cancellation)
    {
        byte[]? rented = null;
        await _writing.WaitAsync(cancellation);
        try
        {
            byte[] buffer = _control;
            if (payload.Length > ProtocolLimits.MaxControlPayload)
            {
                buffer = rented = ArrayPool<byte>.Shared.Rent(FrameHeader.Bytes + payload.Length);
            }

            payload.CopyTo(buffer.AsMemory(FrameHeader.Bytes));
            NextHeader(type, payload.Length, FrameHeader.HashOf(payload.Span)).Write(buffer);
            await WriteAsync(buffer.AsMemory(0, FrameHeader.Bytes + payload.Length), cancellation);
        }
        finally
        {
            _writing.Release();
            if (rented is not null)
            {
                ArrayPool<byte>.Shared.Return(rented);
            }
        }
    }

    /// <summary>
    /// Sends a frame whose payload already stands behind <see cref="FrameHeader.Bytes"/> free bytes; the header is written
    /// there, nothing is copied.
    /// </summary>
    /// <param name="type">The type of the frame.</param>
    /// <param name="frame">Room for the header, then the payload.</param>
    /// <param name="payloadHash">The payload's <see cref="FrameHeader.HashOf"/>.</param>
    /// <param name="cancellation">Cuts the stream.</param>
    /// <exception cref="IOException">The connection is gone.</exception>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask SendInPlaceAsync(
        FrameType type, Memory<byte> frame, ulong payloadHash, CancellationToken cancellation)
    {
        await _writing.WaitAsync(cancellation);
        try
        {
            NextHeader(type, frame.Length - FrameHeader.Bytes, payloadHash).Write(frame.Span);
            await WriteAsync(frame, cancellation);
        }
        finally
        {
            _writing.Release();
        }
    }

    /// <summary>Receives the next header, checked and in order; null when the peer closed the connection between frames.</summary>
    /// <exception cref="ProtocolException">The bytes break the protocol.</exception>
    /// <exception cref="IOException">The connection is gone.</exception>
    public async ValueTask<FrameHeader?> ReceiveHeaderAsync(CancellationToken cancellation)
    {
        int got = await ReadAsync(_header, cancellation);
        if (got == 0)
        {
            return null;
        }

        if (got < FrameHeader.Bytes)
        {
            // What little came may still tell a peer that is not Curling from one that was cut off.
            if (got >= 4 && !_header.AsSpan(0, 4).SequenceEqual("CRLG"u8))
            {
                _header.AsSpan(got).Clear();
                FrameHeader.Read(_header);
            }

            throw new ProtocolException(ProtocolError.Truncated, $"the connection ended inside a frame header ({got} bytes of it)");
        }

        FrameHeader header = FrameHeader.Read(_header);
        if (header.Sequence != _received)
        {
            throw new ProtocolException(
                ProtocolError.Order,
                $"{header.Type} frame has number {header.Sequence}, expected {_received}: a frame was lost, repeated or moved");
        }

        _received++;
        return header;
    }

    /// <summary>Receives the payload of <paramref name="header"/> into the start of <paramref name="destination"/> and checks it.</summary>
    /// <exception cref="ProtocolException">The payload is cut off or damaged.</exception>
    /// <exception cref="IOException">The connection is gone.</exception>
    public async ValueTask ReceivePayloadAsync(FrameHeader header, Memory<byte> destination, CancellationToken cancellation)
    {
        Memory<byte> payload = destination[..header.PayloadLength];
        int got = await ReadAsync(payload, cancellation);
        if (got < payload.Length)
        {
            throw new ProtocolException(
                ProtocolError.Truncated, $"the connection ended inside a {header.Type} frame ({got} of {payload.Length} bytes)");
        }

        header.Check(payload.Span);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        if (!_disposed)
        {
            _disposed = true;
            try
            {
                _socket.Shutdown(SocketShutdown.Both);
            }
            catch (SocketException)
            {
                // Already gone.
            }

            _socket.Dispose();
        }

        return ValueTask.CompletedTask;
    }

    private FrameHeader NextHeader(FrameType type, int length, ulong hash)
    {
        if (_broken)
        {
            throw new IOException("the connection was cut in the middle of a frame");
        }

        return new FrameHeader(type, length, _sent++, hash);
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    private async ValueTask WriteAsync(ReadOnlyMemory<byte> bytes, CancellationToken cancellation)
    {
        bool done = false;
        try
        {
            while (!bytes.IsEmpty)
            {
                ReadOnlyMemory<byte> slice = bytes[..Math.Min(bytes.Length, _limiter.SliceBytes)];
                await _limiter.WaitAsync(slice.Length, cancellation);
                while (!slice.IsEmpty)
                {
                    int sent = await _socket.SendAsync(slice, SocketFlags.None, cancellation);
                    Volatile.Write(ref _bytesSent, _bytesSent + sent);
                    slice = slice[sent..];
                    bytes = bytes[sent..];
                }
            }

            done = true;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw new IOException(Explain(e), e);
        }
        finally
        {
            _broken |= !done;
        }
    }

    private async ValueTask<int> ReadAsync(Memory<byte> destination, CancellationToken cancellation)
    {
        int got = 0;
        try
        {
            while (got < destination.Length)
            {
                int count = await _socket.ReceiveAsync(destination[got..], SocketFlags.None, cancellation);
                if (count == 0)
                {
                    break;
                }

                got += count;
                Volatile.Write(ref _lastHeard, _time.GetTimestamp());
                Volatile.Write(ref _bytesReceived, _bytesReceived + count);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw new IOException(Explain(e), e);
        }

        return got;
    }

    private static string Explain(Exception e) => e is SocketException s
        ? s.SocketErrorCode switch
        {
            SocketError.ConnectionReset => "the peer closed the connection",
            SocketError.Shutdown => "the peer closed the connection",
            _ => s.Message,
        }
        : "the connection was closed here";
}
