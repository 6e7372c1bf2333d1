using Curling.Hosting.Pages;
using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Simulation.Network;

namespace Curling.Simulation.Receiver;

/// <summary>
/// The receiver's end of a connection: a greeting, then rounds, read by the rules of the real reader. What is not whole never leaves it.
/// </summary>
internal sealed class ReceiverConnection(ReceiverHost host, Link link)
{
    private readonly FrameReader _reader = new();
    private readonly RoundAssembler _assembler = new();
    private Session? _session;
    private RoundBuffer? _open;
    private bool _waits;
    private bool _ended;

    public FrameWriter Writer { get; } = new(link.ToSender);

    public Link Link => link;

    public TimeSpan Heard { get; private set; }

    /// <summary>What has arrived of the round that is not whole, for a defect that takes it.</summary>
    public RoundBuffer? Open => _open;

    /// <summary>Whether it is read no more.</summary>
    public bool IsEnded => _ended;

    /// <summary>From here on rounds are read for a session.</summary>
    public void Attach(Session session)
    {
        _session = session;
        _waits = false;
        Heard = host.World.History.Now;
        Read();
    }

    /// <summary>Reads what has arrived.</summary>
    public void Read()
    {
        ReceiverInput? last = null;
        try
        {
            while (last is null && !_ended && !_waits && TryRead(out FrameHeader header, out ReadOnlySpan<byte> payload, ref last))
            {
                Heard = host.World.History.Now;
                if (_session is { } session)
                {
                    Take(session, header, payload);
                }
                else
                {
                    Greet(header, payload);
                }
            }
        }
        catch (ProtocolException e) when (e.Error == ProtocolError.Truncated)
        {
            last = new ReceiverInput.LinkLost(e.Message);
        }
        catch (ProtocolException e)
        {
            last = new ReceiverInput.Damaged(e.Error == ProtocolError.DamagedRound ? RefusalCode.Round : RefusalCode.Protocol, e.Message);
        }
        catch (IOException e)
        {
            last = new ReceiverInput.LinkLost(e.Message);
        }

        if (last is not null && !_ended)
        {
            if (_session is { } session)
            {
                Stop();
                session.Post(this, last);
            }
            else
            {
                host.Refuse(this, RefusalCode.Protocol);
            }
        }
    }

    /// <summary>Nothing more is written; what still arrives is read for a moment, as tasks end when they come to it.</summary>
    public void Close()
    {
        Writer.Close();
        host.Process.In(host.World.History.Between(0, 4), Stop);
    }

    private void Stop()
    {
        _ended = true;
        if (!host.World.Defect.PromotesPartialRounds)
        {
            _open?.Dispose();
            _open = null;
        }
    }

    private bool TryRead(out FrameHeader header, out ReadOnlySpan<byte> payload, ref ReceiverInput? last)
    {
        while (!_reader.TryRead(out header, out payload))
        {
            if (!link.ToReceiver.TryRead(out ReadOnlyMemory<byte> piece))
            {
                return false;
            }

            if (piece.IsEmpty)
            {
                if (link.ToReceiver.TimedOut)
                {
                    last = new ReceiverInput.LinkLost("nobody answers", Silent: true);
                    return false;
                }

                _reader.End();
                last = new ReceiverInput.LinkLost("closed");
                return false;
            }

            _reader.Feed(piece.Span);
        }

        return true;
    }

    private void Greet(FrameHeader header, ReadOnlySpan<byte> payload)
    {
        if (header.Type != FrameType.Hello)
        {
            throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a connection begins with Hello, not with {header.Type}");
        }

        _waits = true;
        host.Admit(this, Handshake.ReadHello(payload));
    }

    private void Take(Session session, FrameHeader header, ReadOnlySpan<byte> payload)
    {
        switch (header.Type)
        {
            case FrameType.Heartbeat:
                Heartbeat.Read(payload);
                break;
            case FrameType.RoundBegin:
                RoundBegin begin = _assembler.Begin(header, payload);
                session.Post(this, new ReceiverInput.RoundBegan(begin));
                _open = session.Open(begin);
                break;
            case FrameType.RoundData:
                TakeData(session, header, payload);
                break;
            case FrameType.RoundEnd:
                RoundEnd end = host.World.Defect.SkipsTheDigest ? RoundEnd.Read(payload) : _assembler.End(payload);
                if (host.World.Defect.SkipsTheDigest)
                {
                    _assembler.Abandon();
                }

                RoundBuffer content = _open!;
                _open = null;
                session.Whole(this, content, end);
                break;
            case FrameType.VouchAsk:
                VouchMessage asked = VouchMessage.Read(header.Type, payload);
                session.Post(this, new ReceiverInput.VouchAsked(asked.Sequence, TimeSpan.FromMilliseconds(asked.Milliseconds)));
                break;
            case FrameType.Refusal:
                session.Post(this, new ReceiverInput.PeerRefused(CodedText.Read(header.Type, payload).Text));
                break;
            case FrameType.Goodbye:
                session.Post(this, new ReceiverInput.PeerGoodbye((GoodbyeReason)CodedText.Read(header.Type, payload).Code, "bye"));
                break;
            default:
                throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
        }
    }

    private void TakeData(Session session, FrameHeader header, ReadOnlySpan<byte> payload)
    {
        if (_open is not { } content)
        {
            throw new ProtocolException(ProtocolError.Order, "a data frame came outside a round");
        }

        DataPrefix prefix = DataPrefix.Read(payload);
        long pages = prefix.Section == SectionKind.Memory ? MemoryRun.Check(payload, prefix, session.Disk.Pages) : 0;
        _assembler.Data(header, prefix, pages);
        if (prefix.Section == SectionKind.Memory && MemoryRun.AnyCompressed(payload, prefix))
        {
            byte[] decoded = new byte[DataPrefix.Bytes + (pages * ProtocolLimits.PageBytes) + (prefix.Runs * MemoryRun.Bytes)];
            using PageDecoder decoder = new();
            payload = decoded.AsSpan(0, decoder.Decode(payload, prefix, decoded));
        }

        if (content.Stream is not null)
        {
            content.Append(prefix.Content(payload));
        }
        else if (content.GoesStraightIn && prefix.Section == SectionKind.Memory)
        {
            session.ApplyNow(content, payload);
        }
        else
        {
            content.Add(payload);
        }
    }
}
