using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;

namespace Curling.Storage.Tests.Nbd;

/// <summary>A client that says exactly what a test wants said.</summary>
internal sealed class RawClient : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 20_000, SendTimeout = 20_000 };

    public RawClient(string path)
    {
        _socket.Connect(new UnixDomainSocketEndPoint(path));
    }

    public void Dispose() => _socket.Dispose();

    public void Send(ReadOnlySpan<byte> data)
    {
        while (data.Length > 0)
        {
            data = data[_socket.Send(data)..];
        }
    }

    public byte[] Receive(int count)
    {
        byte[] data = new byte[count];
        int got = 0;
        while (got < count)
        {
            int part = _socket.Receive(data, got, count - got, SocketFlags.None);
            if (part == 0)
            {
                throw new EndOfStreamException();
            }

            got += part;
        }

        return data;
    }

    /// <summary>Fills a buffer; allocates nothing.</summary>
    public void ReceiveInto(Span<byte> into)
    {
        while (into.Length > 0)
        {
            int got = _socket.Receive(into);
            if (got == 0)
            {
                throw new EndOfStreamException();
            }

            into = into[got..];
        }
    }

    /// <summary>Reads until the server closes the connection.</summary>
    public void WaitForEnd()
    {
        byte[] buffer = new byte[65536];
        try
        {
            while (_socket.Receive(buffer) > 0)
            {
            }
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
        {
            // Closed with bytes of ours unread.
        }
    }

    public void EndOfSending() => _socket.Shutdown(SocketShutdown.Send);

    public void Greet(uint flags = 3)
    {
        Receive(18);
        byte[] answer = new byte[4];
        BinaryPrimitives.WriteUInt32BigEndian(answer, flags);
        Send(answer);
    }

    public static byte[] Option(uint option, params byte[] data)
    {
        byte[] request = new byte[16 + data.Length];
        "IHAVEOPT"u8.CopyTo(request);
        BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(8), option);
        BinaryPrimitives.WriteInt32BigEndian(request.AsSpan(12), data.Length);
        data.CopyTo(request, 16);
        return request;
    }

    public (uint Type, byte[] Data) Answer(uint option)
    {
        byte[] header = Receive(20);
        Assert.Equal(0x3e889045565a9UL, BinaryPrimitives.ReadUInt64BigEndian(header));
        Assert.Equal(option, BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(8)));
        return (BinaryPrimitives.ReadUInt32BigEndian(header.AsSpan(12)), Receive(BinaryPrimitives.ReadInt32BigEndian(header.AsSpan(16))));
    }

    public uint Ask(uint option, params byte[] data)
    {
        Send(Option(option, data));
        while (true)
        {
            (uint type, _) = Answer(option);
            if (type is 1 or >= 0x80000000)
            {
                return type;
            }
        }
    }

    public static byte[] Named(string name, int requests = 0)
    {
        byte[] data = new byte[4 + name.Length + 2 + (2 * requests)];
        BinaryPrimitives.WriteInt32BigEndian(data, name.Length);
        Encoding.ASCII.GetBytes(name, data.AsSpan(4));
        BinaryPrimitives.WriteUInt16BigEndian(data.AsSpan(4 + name.Length), (ushort)requests);
        return data;
    }

    /// <summary>Negotiates up to the first request.</summary>
    public void Go(bool structured = false)
    {
        Greet();
        if (structured)
        {
            Assert.Equal(1u, Ask(8));
        }

        Assert.Equal(1u, Ask(7, Named("")));
    }

    public static byte[] Request(ushort command, ulong offset, uint length, ulong cookie = 1, ushort flags = 0, uint magic = 0x25609513, byte[]? payload = null)
    {
        byte[] request = new byte[28 + (payload?.Length ?? 0)];
        BinaryPrimitives.WriteUInt32BigEndian(request, magic);
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(4), flags);
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(6), command);
        BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(8), cookie);
        BinaryPrimitives.WriteUInt64BigEndian(request.AsSpan(16), offset);
        BinaryPrimitives.WriteUInt32BigEndian(request.AsSpan(24), length);
        payload?.CopyTo(request, 28);
        return request;
    }

    /// <summary>A simple reply's error.</summary>
    public uint Reply(ulong cookie = 1)
    {
        byte[] reply = Receive(16);
        Assert.Equal(0x67446698u, BinaryPrimitives.ReadUInt32BigEndian(reply));
        Assert.Equal(cookie, BinaryPrimitives.ReadUInt64BigEndian(reply.AsSpan(8)));
        return BinaryPrimitives.ReadUInt32BigEndian(reply.AsSpan(4));
    }
}
