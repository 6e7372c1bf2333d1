using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>What a server offers.</summary>
/// <param name="Length">The disk's size in bytes.</param>
/// <param name="Flags">The transmission flags.</param>
/// <param name="Structured">Replies are structured.</param>
/// <param name="Allocation">Extents can be asked for.</param>
internal readonly record struct NbdOffer(long Length, ushort Flags, bool Structured, bool Allocation);

/// <summary>The client's side of the fixed newstyle negotiation (nbd: doc/proto.md).</summary>
/// <remarks>For one thread; blocks on the socket within its time limits.</remarks>
internal static class NbdClientHandshake
{
    private const int MaxReply = 16 << 10;
    private const int MaxReplies = 64;

    /// <summary>Negotiates with a server for an export.</summary>
    /// <exception cref="NbdViolationException">The server does not speak the protocol.</exception>
    /// <exception cref="IOException">It refuses, or the connection is broken.</exception>
    public static NbdOffer Run(Socket socket, string exportName)
    {
        Span<byte> greeting = stackalloc byte[GreetingBytes];
        ReceiveAll(socket, greeting);
        if (BinaryPrimitives.ReadUInt64BigEndian(greeting) != Magic || BinaryPrimitives.ReadUInt64BigEndian(greeting[8..]) != OptionMagic
            || (BinaryPrimitives.ReadUInt16BigEndian(greeting[16..]) & HandshakeFixedNewstyle) == 0)
        {
            throw new NbdViolationException(NbdViolation.Reply, "the server does not greet as a fixed newstyle NBD server");
        }

        bool noZeroes = (BinaryPrimitives.ReadUInt16BigEndian(greeting[16..]) & HandshakeNoZeroes) != 0;
        Span<byte> flags = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(flags, HandshakeFixedNewstyle | (noZeroes ? HandshakeNoZeroes : 0u));
        SendAll(socket, flags);

        byte[] name = Encoding.UTF8.GetBytes(exportName);
        bool structured = Ask(socket, OptionStructuredReply, [], out _, out _) is ReplyAck;
        bool allocation = false;
        if (structured)
        {
            byte[] query = new byte[4 + name.Length + 8 + BaseAllocation.Length];
            BinaryPrimitives.WriteInt32BigEndian(query, name.Length);
            name.CopyTo(query, 4);
            BinaryPrimitives.WriteInt32BigEndian(query.AsSpan(4 + name.Length), 1);
            BinaryPrimitives.WriteInt32BigEndian(query.AsSpan(8 + name.Length), BaseAllocation.Length);
            Encoding.ASCII.GetBytes(BaseAllocation, query.AsSpan(12 + name.Length));
            allocation = Ask(socket, OptionSetMetaContext, query, out _, out uint context) is ReplyAck && context != 0;
        }

        byte[] go = new byte[4 + name.Length + 2];
        BinaryPrimitives.WriteInt32BigEndian(go, name.Length);
        name.CopyTo(go, 4);
        uint answer = Ask(socket, OptionGo, go, out byte[]? export, out _);
        if (answer != ReplyAck || export is null)
        {
            throw new IOException($"the server refuses the export '{exportName}' (0x{answer:x})");
        }

        long length = BinaryPrimitives.ReadInt64BigEndian(export.AsSpan(2));
        return new NbdOffer(length, BinaryPrimitives.ReadUInt16BigEndian(export.AsSpan(10)), structured, allocation);
    }

    /// <summary>Sends an option and follows the answers up to the one that ends them.</summary>
    private static uint Ask(Socket socket, uint option, byte[] data, out byte[]? export, out uint context)
    {
        export = null;
        context = 0;
        byte[] request = new byte[OptionHeaderBytes + data.Length];
        BinaryPrimitives.WriteUInt64BigEndian(request, OptionMagic);
        BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(8), option);
        BinaryPrimitives.WriteInt32BigEndian(request.AsSpan(12), data.Length);
        data.CopyTo(request, OptionHeaderBytes);
        SendAll(socket, request);
        byte[] header = new byte[OptionReplyHeaderBytes];
        for (int i = 0; i < MaxReplies; i++)
        {
            ReceiveAll(socket, header);
            uint type = BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(12));
            uint length = BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(16));
            if (BinaryPrimitives.ReadUInt64BigEndian(header) != OptionReplyMagic || BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(8)) != option
                || length > MaxReply)
            {
                throw new NbdViolationException(NbdViolation.Reply, "an answer of the negotiation is not one to what was asked");
            }

            byte[] reply = new byte[length];
            ReceiveAll(socket, reply);
            switch (type)
            {
                case ReplyInfo when length == 12 && BinaryPrimitives.ReadUInt16BigEndian(reply) == InfoExport:
                    export = reply;
                    break;
                case ReplyMetaContext when length == 4 + BaseAllocation.Length && reply.AsSpan(4).SequenceEqual("base:allocation"u8):
                    // A context's number may be any; what matters is that it is the only one.
                    context = 1;
                    break;
                case ReplyInfo or ReplyMetaContext:
                    break;
                default:
                    return type;
            }
        }

        throw new NbdViolationException(NbdViolation.Reply, "the negotiation does not come to an end");
    }

    /// <summary>Receives until the buffer is full.</summary>
    internal static void ReceiveAll(Socket socket, Span<byte> into)
    {
        try
        {
            while (into.Length > 0)
            {
                int got = socket.Receive(into);
                if (got == 0)
                {
                    throw new NbdViolationException(NbdViolation.Truncated, "the server ended the connection");
                }

                into = into[got..];
            }
        }
        catch (SocketException e)
        {
            throw new IOException(e.Message, e);
        }
    }

    /// <summary>Sends all of it.</summary>
    internal static void SendAll(Socket socket, ReadOnlySpan<byte> data)
    {
        try
        {
            while (data.Length > 0)
            {
                data = data[socket.Send(data)..];
            }
        }
        catch (SocketException e)
        {
            throw new IOException(e.Message, e);
        }
    }
}
