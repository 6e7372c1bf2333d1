using Curling.Protocol;
using Curling.Simulation.Network;

namespace Curling.Simulation.Sender;

/// <summary>The sender's end of a connection: bytes in, frames out, until it ends.</summary>
internal sealed class SenderConnection(SenderHost host, Link link)
{
    private readonly FrameReader _reader = new();
    private bool _ended;

    public Link Link => link;

    public FrameWriter Writer { get; } = new(link.ToReceiver);

    /// <summary>Reads what has arrived.</summary>
    public void Read()
    {
        try
        {
            while (!_ended && link.ToSender.TryRead(out ReadOnlyMemory<byte> piece))
            {
                if (piece.IsEmpty)
                {
                    _ended = true;
                    _reader.End();
                    host.Lose(this, "closed");
                    return;
                }

                _reader.Feed(piece.Span);
                while (!_ended && _reader.TryRead(out FrameHeader header, out ReadOnlySpan<byte> payload))
                {
                    host.Hear(this, header, payload);
                }
            }
        }
        catch (ProtocolException e)
        {
            _ended = true;
            host.Lose(this, e.Message);
        }
    }

    /// <summary>Ends it; with <paramref name="torn"/> in the middle of what is being written.</summary>
    public void Close(bool torn = false)
    {
        _ended = true;
        if (torn)
        {
            link.ToReceiver.Tear();
        }
        else
        {
            link.ToReceiver.Close();
        }
    }
}
