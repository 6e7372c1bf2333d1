using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Curling.Linux.Storage;

/// <summary>Receiving into and sending from several buffers with one call to the kernel, on a connected stream socket that blocks.</summary>
/// <remarks>One thread may receive while another sends. Nothing is allocated.</remarks>
public static unsafe class StreamSocket
{
    /// <summary>How many buffers one call takes; more are left for the next.</summary>
    public const int MaxParts = 128;

    /// <summary>Receives what is there, and waits while there is nothing.</summary>
    /// <returns>How many bytes; 0 when the peer has ended the stream, -1 when the socket's time limit has passed.</returns>
    /// <exception cref="IOException">The connection is broken.</exception>
    public static int Receive(SafeHandle socket, BufferPart first, BufferPart second = default)
    {
        Interop.IoVector* vectors = stackalloc Interop.IoVector[2];
        vectors[0] = Vector(first);
        int count = 1;
        if (second.Length > 0)
        {
            vectors[1] = Vector(second);
            count = 2;
        }

        Interop.Message message = new() { Vectors = vectors, Count = (nuint)count };
        while (true)
        {
            // Safety: the vectors lie within pinned arrays that the caller holds.
            nint got = Interop.recvmsg((int)socket.DangerousGetHandle(), &message, 0);
            if (got >= 0)
            {
                return (int)got;
            }

            switch (Marshal.GetLastPInvokeError())
            {
                case Interop.Interrupted:
                    continue;
                case Interop.Again:
                    return -1;
                case int error:
                    throw new IOException(Marshal.GetPInvokeErrorMessage(error));
            }
        }
    }

    /// <summary>Sends parts one after the other.</summary>
    /// <param name="socket">The socket.</param>
    /// <param name="parts">What is sent; at most <see cref="MaxParts"/> of it.</param>
    /// <param name="wait">Whether to wait until the peer has read enough.</param>
    /// <returns>How many bytes the kernel took; -1 when it took none and would have to be waited for.</returns>
    /// <exception cref="IOException">The connection is broken.</exception>
    public static long Send(SafeHandle socket, ReadOnlySpan<BufferPart> parts, bool wait)
    {
        int count = Math.Min(parts.Length, MaxParts);
        Interop.IoVector* vectors = stackalloc Interop.IoVector[count];
        for (int i = 0; i < count; i++)
        {
            vectors[i] = Vector(parts[i]);
        }

        Interop.Message message = new() { Vectors = vectors, Count = (nuint)count };
        int flags = Interop.MessageNoSignal | (wait ? 0 : Interop.MessageDontWait);
        while (true)
        {
            // Safety: the vectors lie within pinned arrays that the caller holds.
            nint sent = Interop.sendmsg((int)socket.DangerousGetHandle(), &message, flags);
            if (sent >= 0)
            {
                return sent;
            }

            switch (Marshal.GetLastPInvokeError())
            {
                case Interop.Interrupted:
                    continue;
                case Interop.Again when !wait:
                    return -1;
                case Interop.Again:
                    throw new IOException("the peer does not read");
                case int error:
                    throw new IOException(Marshal.GetPInvokeErrorMessage(error));
            }
        }
    }

    /// <summary>
    /// Lets that much wait in the kernel for a peer that has not read it yet, beyond the host's usual limit (net.core.wmem_max) where this
    /// process may go beyond it (CAP_NET_ADMIN), else up to that limit.
    /// </summary>
    /// <exception cref="SocketException">The socket is not usable.</exception>
    public static void WidenSendBuffer(Socket socket, int bytes)
    {
        try
        {
            socket.SetRawSocketOption(Interop.SocketLevel, Interop.SendBufferForce, MemoryMarshal.AsBytes(new ReadOnlySpan<int>(ref bytes)));
        }
        catch (SocketException)
        {
            socket.SendBufferSize = bytes;
        }
    }

    private static Interop.IoVector Vector(BufferPart part)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(part.Start);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)part.Length, (uint)(part.Buffer.Bytes.Length - part.Start));
        return new Interop.IoVector { Base = part.Buffer.Address + part.Start, Length = (nuint)part.Length };
    }
}
