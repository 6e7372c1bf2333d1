using System.Buffers;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Faults;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Replication.Sender;

namespace Curling.Send.Links;

/// <summary>A connection to the receiver: made, greeted, fed with boot files; then its frames come in as inputs.</summary>
/// <remarks>Disposing closes it. Inputs are posted from its own task.</remarks>
internal sealed class ReceiverLink : IAsyncDisposable
{
    private static readonly TimeSpan ConnectLimit = TimeSpan.FromSeconds(5);
    private static readonly TimeSpan ReadyLimit = TimeSpan.FromSeconds(90);
    private static readonly TimeSpan HeardLimit = TimeSpan.FromSeconds(2);
    private readonly TaskCompletionSource _endedThere = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly FrameConnection _connection;
    private readonly LinkWriter _control;
    private readonly byte[] _buffer = new byte[ProtocolLimits.MaxControlPayload];
    private readonly CancellationTokenSource _cancellation;
    private int _disposed;

    private ReceiverLink(
        FrameConnection connection, LinkWriter control, RoundWriter rounds, bool takesInbound, CancellationTokenSource cancellation)
    {
        TakesInbound = takesInbound;
        _connection = connection;
        _control = control;
        Rounds = rounds;
        _cancellation = cancellation;
    }

    /// <summary>Where rounds go in.</summary>
    public RoundWriter Rounds { get; }

    /// <summary>The clock's timestamp at which the receiver was last heard.</summary>
    public long LastHeard => _connection.LastHeard;

    /// <summary>What the receiver's replicas of the guest's disks held when the connection was made; null for a guest without disks.</summary>
    public ReplicasMessage? Replicas { get; private init; }

    /// <summary>Whether the receiver takes copies of the frames that the guest was given.</summary>
    public bool TakesInbound { get; }

    /// <summary>The connection, for what travels beside rounds.</summary>
    public FrameConnection Connection => _connection;

    /// <summary>Hears what the receiver promised: a request's number, and for how long it takes nothing over. Set it before <see cref="RunAsync"/>.</summary>
    public Action<long, TimeSpan>? Vouched { get; set; }

    /// <summary>Bytes sent.</summary>
    public long BytesSent => _connection.BytesSent;

    /// <summary>Connects and shakes hands until the receiver's standby waits.</summary>
    /// <param name="options">Where to and how fast.</param>
    /// <param name="hello">What to say first.</param>
    /// <param name="files">The files that <paramref name="hello"/> names, in its order.</param>
    /// <param name="pool">Where the chunks of rounds come from.</param>
    /// <param name="windowBytes">What may be on its way to the link at once.</param>
    /// <param name="time">The clock.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="IOException">The connection could not be made or was lost.</exception>
    /// <exception cref="ProtocolException">The peer is not a receiver of this version.</exception>
    /// <exception cref="RefusedException">The receiver said no.</exception>
    public static async Task<ReceiverLink> ConnectAsync(
        SenderOptions options, Hello hello, IReadOnlyList<BootFile> files, ChunkPool pool, long windowBytes, TimeProvider time,
        CancellationToken cancellation)
    {
        await FaultPoint.HitAsync(FaultPoint.SendHandshake);
        FrameConnection connection = new(await DialAsync(options.Target, cancellation), options.Bandwidth.BytesPerSecond, time);
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(ReadyLimit);
        LinkWriter? control = null;
        try
        {
            await connection.SendAsync(FrameType.Hello, Handshake.Write(hello), limit.Token);
            Welcome welcome = Handshake.ReadWelcome(
                await ExpectAsync(connection, FrameType.Welcome, limit.Token), hello.Files.Count);
            if (hello.Capabilities.Contains(Handshake.Arbiter) && !welcome.Capabilities.Contains(Handshake.Arbiter))
            {
                // One of before arbiters: it would take the guest over without asking.
                throw new RefusedException(
                    RefusalCode.Host, "the receiver knows no arbiter, and this sender has one; upgrade curling-recv there and start it with --arbiter");
            }

            control = new LinkWriter(connection, options.FailureTimeout / 4, time);
            foreach (int index in welcome.MissingFiles)
            {
                await SendFileAsync(connection, index, files[index], limit.Token);
            }

            ReplicasMessage? replicas = hello.Disks.Count == 0
                ? null
                : Handshake.ReadReplicas(await ExpectAsync(connection, FrameType.Replicas, limit.Token), hello.Disks);
            await ExpectAsync(connection, FrameType.Ready, limit.Token);
            return new ReceiverLink(
                connection,
                control,
                new RoundWriter(connection, pool, windowBytes, FrameEncoding.For(options.Compress, welcome.Capabilities)),
                welcome.Capabilities.Contains(Handshake.Inbound),
                new CancellationTokenSource())
            {
                Replicas = replicas,
            };
        }
        catch (Exception e)
        {
            await connection.DisposeAsync();
            if (control is not null)
            {
                await control.DisposeAsync();
            }

            if (e is OperationCanceledException && !cancellation.IsCancellationRequested)
            {
                throw new IOException($"the receiver was not ready within {ReadyLimit.TotalSeconds:F0} s");
            }

            throw;
        }
    }

    /// <summary>Reads frames and posts what they mean until the connection ends; that end is the last thing posted.</summary>
    public async Task RunAsync(Action<SenderInput> post)
    {
        string reason = "the connection was closed here";
        try
        {
            while (await _connection.ReceiveHeaderAsync(_cancellation.Token) is { } header)
            {
                if (header.PayloadLength > _buffer.Length)
                {
                    throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
                }

                await _connection.ReceivePayloadAsync(header, _buffer, _cancellation.Token);
                if (Read(header, _buffer.AsSpan(0, header.PayloadLength)) is { } input)
                {
                    post(input);
                }
            }

            reason = "the receiver closed the connection";
            _endedThere.TrySetResult();
        }
        catch (IOException e)
        {
            reason = e.Message;
            _endedThere.TrySetResult();
        }
        catch (ProtocolException e)
        {
            reason = e.Message;
        }
        catch (OperationCanceledException)
        {
            // Closed here.
        }

        post(new SenderInput.LinkLost(reason));
    }

    /// <summary>Queues a request that the receiver promises to take nothing over.</summary>
    public void AskVouch(long sequence, TimeSpan time) =>
        _control.Post(FrameType.VouchAsk, new VouchMessage(sequence, (long)time.TotalMilliseconds));

    /// <summary>Queues a goodbye.</summary>
    public void SayGoodbye(GoodbyeReason reason, string text) => _control.Post(FrameType.Goodbye, (ushort)reason, text);

    /// <summary>Queues the news that this connection is given up, but not the guest.</summary>
    public void SayRefusal(string reason) => _control.Post(FrameType.Refusal, (ushort)RefusalCode.Protocol, reason);

    /// <summary>Writes what is queued beside the rounds, then closes.</summary>
    public async Task CloseAsync()
    {
        await _control.CompleteAsync(TimeSpan.FromSeconds(2));
        await DisposeAsync();
    }

    /// <summary>Says goodbye, waits until the receiver closes the connection because of it, and closes.</summary>
    /// <returns>Whether it did; false when nothing came of it within <see cref="HeardLimit"/>.</returns>
    public async Task<bool> LeaveAsync(GoodbyeReason reason, string text)
    {
        SayGoodbye(reason, text);
        await _control.CompleteAsync(HeardLimit);
        bool heard = await Task.WhenAny(_endedThere.Task, Task.Delay(HeardLimit)) == _endedThere.Task;
        await DisposeAsync();
        return heard;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            await _cancellation.CancelAsync();
            await _connection.DisposeAsync();
            await _control.DisposeAsync();
            await Rounds.DisposeAsync();
        }
    }

    private static async Task<Socket> DialAsync(Endpoint target, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(ConnectLimit);
        Socket socket = new(SocketType.Stream, ProtocolType.Tcp);
        try
        {
            if (IPAddress.TryParse(target.Host, out IPAddress? address))
            {
                socket.Dispose();
                socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
                await socket.ConnectAsync(address, target.Port, limit.Token);
            }
            else
            {
                await socket.ConnectAsync(target.Host, target.Port, limit.Token);
            }

            return socket;
        }
        catch (SocketException e)
        {
            socket.Dispose();
            throw new IOException(
                e.SocketErrorCode == SocketError.ConnectionRefused ? "nobody listens there" : e.Message, e);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            socket.Dispose();
            throw new IOException($"no answer within {ConnectLimit.TotalSeconds:F0} s");
        }
    }

    private static async Task<byte[]> ExpectAsync(FrameConnection connection, FrameType type, CancellationToken cancellation)
    {
        byte[] buffer = ArrayPool<byte>.Shared.Rent(ProtocolLimits.MaxHandshakePayload);
        try
        {
            while (true)
            {
                FrameHeader header = await connection.ReceiveHeaderAsync(cancellation)
                    ?? throw new IOException("the receiver closed the connection during the handshake");
                if (header.Type is not (FrameType.Heartbeat or FrameType.Refusal) && header.Type != type)
                {
                    throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame came, {type} was expected");
                }

                await connection.ReceivePayloadAsync(header, buffer, cancellation);
                ReadOnlySpan<byte> payload = buffer.AsSpan(0, header.PayloadLength);
                if (header.Type == FrameType.Refusal)
                {
                    CodedText refusal = CodedText.Read(header.Type, payload);
                    throw new RefusedException((RefusalCode)refusal.Code, refusal.Text);
                }

                if (header.Type == type)
                {
                    return payload.ToArray();
                }
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    private static async Task SendFileAsync(FrameConnection connection, int index, BootFile file, CancellationToken cancellation)
    {
        byte[] frame = new byte[FrameHeader.Bytes + FilePiece.Bytes + ProtocolLimits.MaxContentBytes];
        using FileStream stream = File.OpenRead(file.Path);
        long offset = 0;
        while (offset < file.Length)
        {
            int wanted = (int)Math.Min(ProtocolLimits.MaxContentBytes, file.Length - offset);
            int count = await stream.ReadAsync(frame.AsMemory(FrameHeader.Bytes + FilePiece.Bytes, wanted), cancellation);
            if (count == 0)
            {
                throw new IOException($"{file.Path} became shorter while it was sent");
            }

            new FilePiece(index, offset).Write(frame.AsSpan(FrameHeader.Bytes));
            Memory<byte> whole = frame.AsMemory(0, FrameHeader.Bytes + FilePiece.Bytes + count);
            await connection.SendInPlaceAsync(
                FrameType.FileData, whole, FrameHeader.HashOf(whole.Span[FrameHeader.Bytes..]), cancellation);
            offset += count;
        }
    }

    private SenderInput? Read(FrameHeader header, ReadOnlySpan<byte> payload)
    {
        switch (header.Type)
        {
            case FrameType.Heartbeat:
                Heartbeat.Read(payload);
                return null;
            case FrameType.Vouch:
                VouchMessage vouch = VouchMessage.Read(header.Type, payload);
                Vouched?.Invoke(vouch.Sequence, TimeSpan.FromMilliseconds(vouch.Milliseconds));
                return null;
            case FrameType.Complete:
                FaultPoint.Hit(FaultPoint.SendOnComplete);
                return new SenderInput.Completed(RoundNumber.Read(header.Type, payload));
            case FrameType.Committed:
                FaultPoint.Hit(FaultPoint.SendOnCommitted);
                return new SenderInput.Committed(RoundNumber.Read(header.Type, payload));
            case FrameType.Promoted:
                return new SenderInput.Promoted(RoundNumber.Read(header.Type, payload));
            case FrameType.Refusal:
                CodedText refusal = CodedText.Read(header.Type, payload);
                return new SenderInput.Refused((RefusalCode)refusal.Code, refusal.Text);
            case FrameType.Goodbye:
                return new SenderInput.ReceiverLeft(CodedText.Read(header.Type, payload).Text);
            default:
                throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
        }
    }
}

/// <summary>The receiver said no during the handshake.</summary>
internal sealed class RefusedException(RefusalCode code, string reason) : Exception(reason)
{
    /// <summary>Why, for programs.</summary>
    public RefusalCode Code { get; } = code;
}
