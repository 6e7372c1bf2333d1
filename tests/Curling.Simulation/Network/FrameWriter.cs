using Curling.Protocol;

namespace Curling.Simulation.Network;

/// <summary>Numbers frames and writes them to a pipe, as a connection of the daemons does.</summary>
internal sealed class FrameWriter(Pipe pipe)
{
    private uint _sequence;

    public void Send(FrameType type, ReadOnlySpan<byte> payload)
    {
        byte[] frame = new byte[FrameHeader.Bytes + payload.Length];
        payload.CopyTo(frame.AsSpan(FrameHeader.Bytes));
        new FrameHeader(type, payload.Length, _sequence++, FrameHeader.HashOf(payload)).Write(frame);
        pipe.Write(frame);
    }

    public void Send(FrameType type, long round)
    {
        Span<byte> payload = stackalloc byte[RoundNumber.Bytes];
        RoundNumber.Write(payload, round);
        Send(type, payload);
    }

    public void Send(FrameType type, ushort code, string text)
    {
        Span<byte> payload = stackalloc byte[2 + ProtocolLimits.MaxTextBytes];
        Send(type, payload[..new CodedText(code, text).Write(payload)]);
    }

    public void Close() => pipe.Close();
}
