using System.Buffers;
using System.Net.Sockets;
using Curling.Hosting.Faults;
using Curling.Hosting.Pages;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Recv.Rounds;
using Curling.Replication.Receiver;

namespace Curling.Recv.Sessions;

/// <summary>
/// Reads one connection: control frames become inputs of the session's machine, rounds become contents that are handed over
/// whole. What is not whole never leaves this class.
/// </summary>
/// <remarks>One task runs it. It owns the open round's content until <see cref="IRoundSink.Whole"/> takes it.</remarks>
internal sealed class RoundReader(Link link, IRoundSink sink, ChunkPool pool, long maxRoundBytes, IReadOnlyList<long> blockPages, IReadOnlyList<long> diskBlocks)
{
    private readonly RoundAssembler _assembler = new();
    private readonly byte[] _control = new byte[ProtocolLimits.MaxControlPayload];
    private StraightIn? _straightIn;
    private PageDecoder? _decoder;
    private byte[]? _decoded;
    private RoundContent? _open;

    /// <summary>Reads until the connection ends, by whatever cause, and tells the sink about it.</summary>
    public async Task RunAsync(CancellationToken cancellation)
    {
        ReceiverInput last = new ReceiverInput.LinkLost("the connection was closed here");
        try
        {
            while (await link.Connection.ReceiveHeaderAsync(cancellation) is { } header)
            {
                await TakeAsync(header, cancellation);
            }

            last = new ReceiverInput.LinkLost("the sender closed the connection");
        }
        catch (ProtocolException e) when (e.Error == ProtocolError.Truncated)
        {
            last = new ReceiverInput.LinkLost(e.Message);
        }
        catch (ProtocolException e)
        {
            last = new ReceiverInput.Damaged(
                e.Error == ProtocolError.DamagedRound ? RefusalCode.Round : RefusalCode.Protocol, e.Message);
        }
        catch (MemoryFileException e)
        {
            last = new ReceiverInput.Damaged(RefusalCode.Limit, e.Message);
        }
        catch (IOException e)
        {
            // Closed by the peer's kernel when its process ends; these come when nobody answers.
            last = new ReceiverInput.LinkLost(e.Message, Silent: e.InnerException is SocketException
            {
                SocketErrorCode: SocketError.TimedOut or SocketError.HostUnreachable or SocketError.HostDown or SocketError.NetworkUnreachable
                    or SocketError.NetworkDown,
            });
        }
        catch (OperationCanceledException)
        {
            // Closed here.
        }
        finally
        {
            if (_straightIn is { } straightIn)
            {
                await straightIn.DisposeAsync();
            }

            _open?.Dispose();
            _open = null;
            _decoder?.Dispose();
        }

        sink.Post(link, last);
    }

    private async ValueTask TakeAsync(FrameHeader header, CancellationToken cancellation)
    {
        if (header.Type == FrameType.RoundData)
        {
            await TakeDataAsync(header, cancellation);
            return;
        }

        if (header.Type == FrameType.Inbound)
        {
            byte[] inbound = ArrayPool<byte>.Shared.Rent(header.PayloadLength);
            await link.Connection.ReceivePayloadAsync(header, inbound, cancellation);
            sink.Inbound(inbound, header.PayloadLength);
            return;
        }

        if (header.PayloadLength > _control.Length)
        {
            throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
        }

        await link.Connection.ReceivePayloadAsync(header, _control, cancellation);
        ReadOnlyMemory<byte> payload = _control.AsMemory(0, header.PayloadLength);
        switch (header.Type)
        {
            case FrameType.Heartbeat:
                Heartbeat.Read(payload.Span);
                break;
            case FrameType.VouchAsk:
                VouchMessage asked = VouchMessage.Read(header.Type, payload.Span);
                sink.Post(link, new ReceiverInput.VouchAsked(asked.Sequence, TimeSpan.FromMilliseconds(asked.Milliseconds)));
                break;
            case FrameType.RoundBegin:
                RoundBegin begin = _assembler.Begin(header, payload.Span);
                sink.Post(link, new ReceiverInput.RoundBegan(begin));
                _open = sink.Open(begin);
                await FaultPoint.HitAsync(FaultPoint.RecvRoundOpen);
                break;
            case FrameType.RoundEnd:
                await FaultPoint.HitAsync(FaultPoint.RecvBeforeVerify);
                RoundEnd end = _assembler.End(payload.Span);
                await EndStraightInAsync();
                await FaultPoint.HitAsync(FaultPoint.RecvWhole);
                RoundContent content = _open!;
                _open = null;
                sink.Whole(link, content, end);
                break;
            case FrameType.RoundAbandon:
                await EndStraightInAsync();
                Abandon(RoundNumber.Read(header.Type, payload.Span));
                break;
            case FrameType.Refusal:
                sink.Post(link, new ReceiverInput.PeerRefused(CodedText.Read(header.Type, payload.Span).Text));
                break;
            case FrameType.Goodbye:
                CodedText goodbye = CodedText.Read(header.Type, payload.Span);
                GoodbyeReason reason = (GoodbyeReason)goodbye.Code;
                if (goodbye.Code is 0 or > (ushort)GoodbyeReason.QemuCrashed)
                {
                    throw new ProtocolException(ProtocolError.Malformed, $"goodbye code {goodbye.Code} is unknown");
                }

                sink.Post(link, new ReceiverInput.PeerGoodbye(reason, goodbye.Text));
                break;
            default:
                throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
        }
    }

    private async ValueTask EndStraightInAsync()
    {
        if (_straightIn is { } straightIn)
        {
            _straightIn = null;
            await straightIn.CompleteAsync();
        }
    }

    private void Abandon(long round)
    {
        if (_open is null || _open.Begin.Round != round)
        {
            throw new ProtocolException(ProtocolError.Order, $"round {round} is abandoned, but it is not the one that is open");
        }

        _assembler.Abandon();
        _open.Dispose();
        _open = null;
        sink.Post(link, new ReceiverInput.RoundAbandoned(round));
    }

    private async ValueTask TakeDataAsync(FrameHeader header, CancellationToken cancellation)
    {
        if (_open is not { } content)
        {
            throw new ProtocolException(ProtocolError.Order, "a data frame came outside a round");
        }

        if (!content.GoesStraightIn && _assembler.Counts.TotalBytes + header.PayloadLength > maxRoundBytes)
        {
            throw new MemoryFileException(
                $"round {content.Begin.Round} is larger than {ByteSize.Format(maxRoundBytes)}; start curling-recv with a larger"
                + " --max-round-bytes if it should be kept");
        }

        Chunk chunk = await RentAsync(content, cancellation);
        bool kept = false;
        try
        {
            await link.Connection.ReceivePayloadAsync(header, chunk.Memory, cancellation);
            chunk.Length = header.PayloadLength;
            ReadOnlySpan<byte> payload = chunk.Span[..chunk.Length];
            DataPrefix prefix = DataPrefix.Read(payload);
            long pages = prefix.Section switch
            {
                SectionKind.Memory => MemoryRun.Check(payload, prefix, PagesOf(prefix.Block)),
                SectionKind.Disk => CheckDisk(payload, prefix),
                _ => 0,
            };
            _assembler.Data(header, prefix, pages);
            if (prefix.Section == SectionKind.Memory && MemoryRun.AnyCompressed(payload, prefix))
            {
                Decompress(chunk, prefix);
            }

            if (content.Stream is { } stream && prefix.Section == SectionKind.Stream)
            {
                stream.Append(prefix.Content(payload));
            }
            else if (content.GoesStraightIn && prefix.Section == SectionKind.Memory)
            {
                _straightIn ??= new StraightIn(frame => sink.ApplyNow(content, frame));
                kept = true;
                await _straightIn.AddAsync(chunk, cancellation);
            }
            else
            {
                content.Add(chunk);
                kept = true;
            }
        }
        finally
        {
            if (!kept)
            {
                chunk.Return();
            }
        }

        sink.Progress(content.Begin, _assembler.Counts);
        await FaultPoint.HitAsync(FaultPoint.RecvData);
    }

    /// <summary>
    /// Decompresses before the round is acknowledged: what does not decompress must not be found out when it is committed.
    /// </summary>
    private void Decompress(Chunk chunk, DataPrefix prefix)
    {
        _decoder ??= new PageDecoder();
        _decoded ??= new byte[ProtocolLimits.MaxDataPayload];
        int length = _decoder.Decode(chunk.Span[..chunk.Length], prefix, _decoded);
        _decoded.AsSpan(0, length).CopyTo(chunk.Span);
        chunk.Length = length;
    }

    private long CheckDisk(ReadOnlySpan<byte> payload, DataPrefix prefix)
    {
        long blocks = MemoryRun.Check(payload, prefix, prefix.Block < diskBlocks.Count
            ? diskBlocks[prefix.Block]
            : throw new ProtocolException(ProtocolError.Malformed, $"disk {prefix.Block} was not named in the handshake"));
        ReadOnlySpan<byte> table = prefix.Table(payload);
        for (int i = 0; i < prefix.Runs; i++)
        {
            if (MemoryRun.Read(table, i).Encoding is not (PageEncoding.Raw or PageEncoding.Zero) and var encoding)
            {
                throw new ProtocolException(ProtocolError.Malformed, $"blocks of a disk do not travel as {encoding}");
            }
        }

        return blocks;
    }

    private long PagesOf(int block) => block < blockPages.Count
        ? blockPages[block]
        : throw new ProtocolException(ProtocolError.Malformed, $"memory block {block} was not named in the handshake");

    private async ValueTask<Chunk> RentAsync(RoundContent content, CancellationToken cancellation)
    {
        Chunk chunk;
        while (!pool.TryRent(out chunk))
        {
            // Earlier rounds are being committed and give their chunks back. If this round alone holds them all, it never will.
            if ((content.Chunks.Count + 1L) * pool.ChunkBytes > pool.MaxBytes)
            {
                throw new MemoryFileException(
                    $"round {content.Begin.Round} alone fills the prefetch buffer of {ByteSize.Format(pool.MaxBytes)}; start"
                    + " curling-recv with a larger --max-round-bytes");
            }

            link.WaitsForRoom = true;
            await Task.Delay(1, cancellation);
        }

        link.WaitsForRoom = false;
        return chunk;
    }
}

/// <summary>Where a <see cref="RoundReader"/> hands over what it read.</summary>
internal interface IRoundSink
{
    /// <summary>Something happened on a link, or beside one.</summary>
    void Post(Link? link, ReceiverInput input);

    /// <summary>A round begins: make room for its content.</summary>
    /// <exception cref="IOException">There is no room.</exception>
    RoundContent Open(RoundBegin begin);

    /// <summary>Puts a checked memory frame of a round that goes straight in where it belongs; the chunk stays the caller's.</summary>
    /// <exception cref="IOException">Another round has begun since, on a newer connection, or the memory cannot be written.</exception>
    void ApplyNow(RoundContent content, Chunk frame);

    /// <summary>A round is whole; the sink owns its content now.</summary>
    void Whole(Link link, RoundContent content, RoundEnd end);

    /// <summary>Frames that the guest was given at the primary.</summary>
    /// <param name="buffer">From the shared pool of arrays; owned by the sink from now on.</param>
    /// <param name="length">Bytes in it.</param>
    /// <exception cref="ProtocolException">They cannot be understood.</exception>
    void Inbound(byte[] buffer, int length);

    /// <summary>More of the open round arrived.</summary>
    void Progress(RoundBegin begin, RoundCounts counts);
}
