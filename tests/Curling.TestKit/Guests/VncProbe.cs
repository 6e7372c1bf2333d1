using System.Buffers.Binary;
using System.Globalization;
using System.Net.Sockets;

namespace Curling.TestKit.Guests;

/// <summary>What a VNC client saw.</summary>
/// <param name="Width">In pixels.</param>
/// <param name="Height">In pixels.</param>
/// <param name="Pixels">32 bits each, row by row.</param>
public sealed record VncPicture(int Width, int Height, uint[] Pixels)
{
    /// <summary>Colours in it.</summary>
    public int Colours => Pixels.Distinct().Count();

    /// <summary>The share of pixels that are the same in another picture of the same size.</summary>
    public double SameAs(VncPicture other) => (double)Pixels.Zip(other.Pixels).Count(p => p.First == p.Second) / Pixels.Length;
}

/// <summary>A VNC client that takes one look. Source: RFC 6143 (RFB 3.8), raw encoding, no security.</summary>
public static class VncProbe
{
    /// <summary>Connects to <c>host:port</c> and fetches the whole picture.</summary>
    public static async Task<VncPicture> LookAsync(string address)
    {
        int colon = address.LastIndexOf(':');
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(30));
        using TcpClient client = new();
        await client.ConnectAsync(address[..colon], int.Parse(address[(colon + 1)..], CultureInfo.InvariantCulture), limit.Token);
        NetworkStream stream = client.GetStream();
        await ReadAsync(stream, 12, limit.Token);
        await stream.WriteAsync("RFB 003.008\n"u8.ToArray(), limit.Token);
        int kinds = (await ReadAsync(stream, 1, limit.Token))[0];
        byte[] offered = await ReadAsync(stream, kinds, limit.Token);
        if (!offered.Contains((byte)1))
        {
            throw new InvalidOperationException("the VNC server asks for a password");
        }

        await stream.WriteAsync((byte[])[1], limit.Token);
        await ReadAsync(stream, 4, limit.Token);
        await stream.WriteAsync((byte[])[1], limit.Token);
        byte[] init = await ReadAsync(stream, 24, limit.Token);
        int width = BinaryPrimitives.ReadUInt16BigEndian(init);
        int height = BinaryPrimitives.ReadUInt16BigEndian(init.AsSpan(2));
        await ReadAsync(stream, BinaryPrimitives.ReadInt32BigEndian(init.AsSpan(20)), limit.Token);

        // Raw encoding, 32 bits a pixel, then one request for everything.
        await stream.WriteAsync((byte[])[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0], limit.Token);
        await stream.WriteAsync((byte[])[2, 0, 0, 1, 0, 0, 0, 0], limit.Token);
        byte[] request = new byte[10];
        request[0] = 3;
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(6), (ushort)width);
        BinaryPrimitives.WriteUInt16BigEndian(request.AsSpan(8), (ushort)height);
        await stream.WriteAsync(request, limit.Token);

        uint[] pixels = new uint[width * height];
        int seen = 0;
        while (seen < pixels.Length)
        {
            byte[] head = await ReadAsync(stream, 4, limit.Token);
            if (head[0] != 0)
            {
                throw new InvalidOperationException($"the VNC server sent message {head[0]}");
            }

            for (int n = BinaryPrimitives.ReadUInt16BigEndian(head.AsSpan(2)); n > 0; n--)
            {
                byte[] rect = await ReadAsync(stream, 12, limit.Token);
                int x = BinaryPrimitives.ReadUInt16BigEndian(rect);
                int y = BinaryPrimitives.ReadUInt16BigEndian(rect.AsSpan(2));
                int w = BinaryPrimitives.ReadUInt16BigEndian(rect.AsSpan(4));
                int h = BinaryPrimitives.ReadUInt16BigEndian(rect.AsSpan(6));
                byte[] raw = await ReadAsync(stream, w * h * 4, limit.Token);
                for (int i = 0; i < w * h; i++)
                {
                    pixels[((y + (i / w)) * width) + x + (i % w)] = BinaryPrimitives.ReadUInt32LittleEndian(raw.AsSpan(i * 4));
                }

                seen += w * h;
            }
        }

        return new VncPicture(width, height, pixels);
    }

    private static async Task<byte[]> ReadAsync(NetworkStream stream, int count, CancellationToken cancellation)
    {
        byte[] bytes = new byte[count];
        await stream.ReadExactlyAsync(bytes, cancellation);
        return bytes;
    }
}
