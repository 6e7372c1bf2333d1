using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>A disk that an NBD server on a Unix socket has: how images are opened that QEMU's tools understand and Curling does not.</summary>
/// <remarks>
/// Up to 64 requests are under way at once; further ones wait for their turn. When the connection breaks, they all fail, and every later one
/// does. A request that is under way is not broken off by its cancellation: its buffer is the caller's again only when the task has completed.
/// </remarks>
public sealed class NbdClientBackend : IDiskBackend
{
    private const int MaxCalls = 64;
    private const int MaxRange = 1 << 30;
    private static readonly TimeSpan GoodbyeLimit = TimeSpan.FromSeconds(10);
    private readonly Socket _socket;
    private readonly NbdOffer _offer;
    private readonly string _name;
    private readonly NbdCall[] _calls = new NbdCall[MaxCalls];
    private readonly Stack<NbdCall> _free = new(MaxCalls);
    private readonly SemaphoreSlim _turns = new(MaxCalls, MaxCalls);
    private readonly Lock _gate = new();
    private readonly Lock _sending = new();
    private readonly byte[] _request = new byte[RequestBytes];
    private readonly Thread _thread;
    private volatile DiskException? _broken;
    private int _disposed;

    private NbdClientBackend(Socket socket, NbdOffer offer, string name)
    {
        _socket = socket;
        _offer = offer;
        _name = name;
        for (int i = MaxCalls - 1; i >= 0; i--)
        {
            _calls[i] = new NbdCall(this, i);
            _free.Push(_calls[i]);
        }

        _thread = new Thread(Run) { IsBackground = true, Name = "nbd client" };
        _thread.Start();
    }

    /// <inheritdoc/>
    public long Length => _offer.Length;

    /// <inheritdoc/>
    public bool IsReadOnly => (_offer.Flags & FlagReadOnly) != 0;

    /// <summary>Connects to a server.</summary>
    /// <param name="socketPath">Its socket.</param>
    /// <param name="exportName">Which of its exports.</param>
    /// <param name="name">What the disk is called in messages.</param>
    /// <exception cref="DiskException">The server does not serve it.</exception>
    /// <exception cref="SocketException">Nobody listens there.</exception>
    public static NbdClientBackend Connect(string socketPath, string exportName, string name)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(socketPath));
            socket.ReceiveTimeout = socket.SendTimeout = (int)GoodbyeLimit.TotalMilliseconds;
            NbdOffer offer = NbdClientHandshake.Run(socket, exportName);
            socket.ReceiveTimeout = socket.SendTimeout = 0;
            return offer.Length <= 0 || offer.Length % 512 != 0
                ? throw new DiskException(DiskError.Io, $"{name} is {offer.Length} bytes long; a disk's size is a multiple of 512 bytes and not 0")
                : new NbdClientBackend(socket, offer, name);
        }
        catch (IOException e) when (e is not DiskException)
        {
            socket.Dispose();
            throw new DiskException(DiskError.Io, $"{name}: {e.Message}", e);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation)
    {
        Check(offset, into.Length);
        while (into.Length > 0)
        {
            Memory<byte> part = into[..Math.Min(into.Length, MaxPayload)];
            await CallAsync(CommandRead, 0, offset, part.Length, part, default, default, cancellation).ConfigureAwait(false);
            offset += part.Length;
            into = into[part.Length..];
        }
    }

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation)
    {
        CheckWrite(offset, data.Length);
        while (data.Length > 0)
        {
            ReadOnlyMemory<byte> part = data[..Math.Min(data.Length, MaxPayload)];
            await CallAsync(CommandWrite, 0, offset, part.Length, default, part, default, cancellation).ConfigureAwait(false);
            offset += part.Length;
            data = data[part.Length..];
        }
    }

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation)
    {
        CheckWrite(offset, length);
        bool offered = (_offer.Flags & FlagSendWriteZeroes) != 0;
        byte[]? zeros = offered ? null : new byte[Math.Min(length, 1 << 20)];
        while (length > 0)
        {
            long part = Math.Min(length, zeros?.Length ?? MaxRange);
            ushort flags = mayDeallocate ? (ushort)0 : CommandFlagNoHole;
            if (offered)
            {
                await CallAsync(CommandWriteZeroes, flags, offset, part, default, default, default, cancellation).ConfigureAwait(false);
            }
            else
            {
                await CallAsync(CommandWrite, 0, offset, part, default, zeros.AsMemory(0, (int)part), default, cancellation).ConfigureAwait(false);
            }

            offset += part;
            length -= part;
        }
    }

    /// <inheritdoc/>
    /// <remarks>The protocol's trim does not promise zeros, so zeros that may give room back are written instead.</remarks>
    public ValueTask TrimAsync(long offset, long length, CancellationToken cancellation) =>
        ZeroAsync(offset, length, mayDeallocate: true, cancellation);

    /// <inheritdoc/>
    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder))]
    public async ValueTask FlushAsync(CancellationToken cancellation)
    {
        if ((_offer.Flags & FlagSendFlush) != 0)
        {
            await CallAsync(CommandFlush, 0, 0, 0, default, default, default, cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public async ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation)
    {
        Check(offset, length);
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfZero(into.Length);
        if (!_offer.Allocation)
        {
            into.Span[0] = new DiskExtent(length, IsHole: false);
            return 1;
        }

        return await CallAsync(CommandBlockStatus, 0, offset, Math.Min(length, MaxRange), default, default, into, cancellation).ConfigureAwait(false);
    }

    /// <summary>Says goodbye to the server, which then completes what is under way, and closes the connection.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        Break("it is closed", null);
        try
        {
            lock (_sending)
            {
                WriteRequest(CommandDisconnect, 0, 0, 0, 0);
                _socket.SendTimeout = (int)GoodbyeLimit.TotalMilliseconds;
                NbdClientHandshake.SendAll(_socket, _request);
            }

            _socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is IOException or SocketException)
        {
            // It is gone already.
        }

        await Task.Run(() => _thread.Join(GoodbyeLimit));
        _socket.Dispose();
        _turns.Dispose();
    }

    /// <summary>Takes a call back whose result has been taken.</summary>
    internal void Return(NbdCall call)
    {
        lock (_gate)
        {
            _free.Push(call);
        }

        if (_disposed == 0)
        {
            _turns.Release();
        }
    }

    [AsyncMethodBuilder(typeof(PoolingAsyncValueTaskMethodBuilder<>))]
    private async ValueTask<int> CallAsync(
        ushort command, ushort flags, long offset, long length, Memory<byte> into, ReadOnlyMemory<byte> data, Memory<DiskExtent> extents,
        CancellationToken cancellation)
    {
        await _turns.WaitAsync(cancellation).ConfigureAwait(false);
        NbdCall call;
        bool asked;
        lock (_gate)
        {
            call = _free.Pop();
            call.Set(command, offset, length, into, extents);
            asked = call.IsAsked = _broken is null;
        }

        if (_broken is { } broken)
        {
            // Asked before the break, it has failed with the others; else it fails here.
            if (!asked)
            {
                call.Fail(broken);
            }
        }
        else
        {
            Send(command, flags, call.Number, offset, length, data.Span);
        }

        return await call.Task.ConfigureAwait(false);
    }

    private void Send(ushort command, ushort flags, int number, long offset, long length, ReadOnlySpan<byte> data)
    {
        try
        {
            lock (_sending)
            {
                WriteRequest(command, flags, number, offset, length);
                NbdClientHandshake.SendAll(_socket, _request);
                NbdClientHandshake.SendAll(_socket, data);
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            Break(e.Message, e);
        }
    }

    private void WriteRequest(ushort command, ushort flags, int number, long offset, long length)
    {
        Span<byte> request = _request;
        BinaryPrimitives.WriteUInt32BigEndian(request, RequestMagic);
        BinaryPrimitives.WriteUInt16BigEndian(request[4..], flags);
        BinaryPrimitives.WriteUInt16BigEndian(request[6..], command);
        BinaryPrimitives.WriteUInt64BigEndian(request[8..], (ulong)number);
        BinaryPrimitives.WriteInt64BigEndian(request[16..], offset);
        BinaryPrimitives.WriteUInt32BigEndian(request[24..], (uint)length);
    }

    private void Run()
    {
        try
        {
            NbdClientReplies replies = new(_socket, _name, Find, Finish);
            while (true)
            {
                replies.ReceiveOne();
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            Break(e.Message, e);
            FailAll(_broken!);
        }
    }

    private NbdCall Find(ulong cookie)
    {
        if (cookie < MaxCalls)
        {
            lock (_gate)
            {
                NbdCall call = _calls[cookie];
                if (call.IsAsked)
                {
                    return call;
                }
            }
        }

        throw new NbdViolationException(NbdViolation.Reply, "a reply has a cookie that nothing was asked under");
    }

    /// <summary>Completes a call whose last reply has come, unless the connection broke meanwhile.</summary>
    private void Finish(NbdCall call)
    {
        lock (_gate)
        {
            if (!call.IsAsked)
            {
                return;
            }

            call.IsAsked = false;
        }

        if (call.Failure is { } failure)
        {
            call.Fail(failure);
        }
        else
        {
            call.Succeed(call.Got);
        }
    }

    /// <summary>
    /// Lets no further request out and wakes whoever waits for the socket. What was asked for is failed by the receiving thread, which may
    /// be writing into the buffer of one of them still.
    /// </summary>
    private void Break(string why, Exception? inner)
    {
        lock (_gate)
        {
            _broken ??= new DiskException(DiskError.Io, $"{_name}: the connection to QEMU's tool is lost: {why}", inner);
        }

        try
        {
            // At an orderly end there is still a goodbye to be said.
            if (_disposed == 0)
            {
                _socket.Shutdown(SocketShutdown.Both);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // It is gone already.
        }
    }

    private void FailAll(DiskException broken)
    {
        foreach (NbdCall call in _calls)
        {
            lock (_gate)
            {
                if (!call.IsAsked)
                {
                    continue;
                }

                call.IsAsked = false;
            }

            call.Fail(broken);
        }
    }

    private void Check(long offset, long length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(offset);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(offset, Length - length);
    }

    private void CheckWrite(long offset, long length)
    {
        Check(offset, length);
        if (IsReadOnly)
        {
            throw new DiskException(DiskError.ReadOnly, $"{_name} is open for reading only");
        }
    }
}
