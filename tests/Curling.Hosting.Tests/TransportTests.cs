using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Transport;
using Curling.Protocol;

namespace Curling.Hosting.Tests;

/// <summary>Frames over a real socket: numbered, checked, never mixed.</summary>
public sealed class TransportTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    [Fact]
    public async Task Frames_arrive_in_order_and_whole()
    {
        (Socket near, Socket far) = await PairAsync();
        await using FrameConnection a = new(near, 0, TimeProvider.System);
        await using FrameConnection b = new(far, 0, TimeProvider.System);
        using CancellationTokenSource limit = new(Limit);
        Task sending = Task.WhenAll(Enumerable.Range(1, 4).Select(writer => Task.Run(async () =>
        {
            byte[] frame = new byte[FrameHeader.Bytes + (writer * 5000)];
            for (int i = 0; i < 200; i++)
            {
                frame.AsSpan(FrameHeader.Bytes).Fill((byte)writer);
                if (writer == 1)
                {
                    await a.SendAsync(FrameType.Hello, frame.AsMemory(FrameHeader.Bytes), limit.Token);
                }
                else
                {
                    await a.SendInPlaceAsync(FrameType.RoundData, frame, FrameHeader.HashOf(frame.AsSpan(FrameHeader.Bytes)), limit.Token);
                }
            }
        })));
        byte[] buffer = new byte[ProtocolLimits.MaxHandshakePayload];
        int[] seen = new int[5];
        for (int i = 0; i < 800; i++)
        {
            FrameHeader header = (await b.ReceiveHeaderAsync(limit.Token))!.Value;
            await b.ReceivePayloadAsync(header, buffer, limit.Token);
            byte writer = buffer[0];
            Assert.Equal(writer * 5000, header.PayloadLength);
            Assert.False(buffer.AsSpan(0, header.PayloadLength).ContainsAnyExcept(writer));
            seen[writer]++;
        }

        await sending;
        Assert.Equal([0, 200, 200, 200, 200], seen);
        Assert.Equal(a.BytesSent, b.BytesReceived);
        await a.DisposeAsync();
        Assert.Null(await b.ReceiveHeaderAsync(limit.Token));
    }

    [Theory]
    [InlineData("gap", ProtocolError.Order)]
    [InlineData("repeat", ProtocolError.Order)]
    [InlineData("header", ProtocolError.DamagedHeader)]
    [InlineData("payload", ProtocolError.DamagedPayload)]
    [InlineData("cut header", ProtocolError.Truncated)]
    [InlineData("cut payload", ProtocolError.Truncated)]
    [InlineData("http", ProtocolError.NotCurling)]
    public async Task Damage_is_named(string damage, ProtocolError expected)
    {
        (Socket near, Socket far) = await PairAsync();
        await using FrameConnection b = new(far, 0, TimeProvider.System);
        byte[] first = Frame(0);
        byte[] second = Frame(damage == "gap" ? 2u : damage == "repeat" ? 0u : 1u);
        second[damage == "header" ? 9 : second.Length - 1] ^= (byte)(damage is "header" or "payload" ? 1 : 0);
        byte[] all = damage switch
        {
            "cut header" => [.. first, .. second[..10]],
            "cut payload" => [.. first, .. second[..^1]],
            "http" => [.. first, .. "GET /"u8],
            _ => [.. first, .. second],
        };
        await near.SendAsync(all);
        near.Shutdown(SocketShutdown.Send);
        using CancellationTokenSource limit = new(Limit);
        byte[] buffer = new byte[100];
        ProtocolException e = await Assert.ThrowsAsync<ProtocolException>(async () =>
        {
            while (await b.ReceiveHeaderAsync(limit.Token) is { } header)
            {
                await b.ReceivePayloadAsync(header, buffer, limit.Token);
            }
        });
        Assert.Equal(expected, e.Error);
        near.Dispose();
    }

    [Fact]
    public async Task Connection_that_was_cut_in_a_frame_takes_no_more()
    {
        (Socket near, Socket far) = await PairAsync();
        await using FrameConnection a = new(near, 0, TimeProvider.System);
        using CancellationTokenSource cut = new();
        byte[] large = new byte[FrameHeader.Bytes + ProtocolLimits.MaxDataPayload];
        Task sending = Task.Run(async () =>
        {
            while (true)
            {
                await a.SendInPlaceAsync(FrameType.RoundData, large, 0, cut.Token);
            }
        });
        // Nobody reads at the other end: once nothing more goes out, a frame is under way.
        for (long sent = -1; sent != a.BytesSent || sent == 0;)
        {
            sent = a.BytesSent;
            await Task.Delay(300);
        }

        await cut.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => sending);
        await Assert.ThrowsAsync<IOException>(async () => await a.SendAsync(FrameType.Heartbeat, new byte[8], CancellationToken.None));
        far.Dispose();
    }

    [Fact]
    public async Task Heartbeats_flow_and_what_is_queued_is_written_before_the_end()
    {
        (Socket near, Socket far) = await PairAsync();
        await using FrameConnection a = new(near, 0, TimeProvider.System);
        await using FrameConnection b = new(far, 0, TimeProvider.System);
        await using LinkWriter writer = new(a, TimeSpan.FromMilliseconds(10), TimeProvider.System);
        using CancellationTokenSource limit = new(Limit);
        byte[] buffer = new byte[ProtocolLimits.MaxControlPayload];
        for (int beat = 1; beat <= 3; beat++)
        {
            FrameHeader header = (await b.ReceiveHeaderAsync(limit.Token))!.Value;
            await b.ReceivePayloadAsync(header, buffer, limit.Token);
            Assert.Equal(FrameType.Heartbeat, header.Type);
            Assert.Equal(beat, Heartbeat.Read(buffer.AsSpan(0, header.PayloadLength)));
        }

        for (long round = 1; round <= 50; round++)
        {
            Assert.True(writer.Post(FrameType.Complete, round));
        }

        writer.Post(FrameType.Goodbye, 2, "bye");
        await writer.CompleteAsync(Limit);
        await a.DisposeAsync();
        List<string> got = [];
        while (await b.ReceiveHeaderAsync(limit.Token) is { } header)
        {
            await b.ReceivePayloadAsync(header, buffer, limit.Token);
            if (header.Type != FrameType.Heartbeat)
            {
                got.Add(header.Type == FrameType.Complete
                    ? $"{RoundNumber.Read(header.Type, buffer.AsSpan(0, header.PayloadLength))}"
                    : CodedText.Read(header.Type, buffer.AsSpan(0, header.PayloadLength)).Text);
            }
        }

        Assert.Equal([.. Enumerable.Range(1, 50).Select(i => $"{i}"), "bye"], got);
        Assert.False(writer.Post(FrameType.Ready));
    }

    private static byte[] Frame(uint sequence)
    {
        byte[] frame = new byte[FrameHeader.Bytes + Heartbeat.Bytes];
        Heartbeat.Write(frame.AsSpan(FrameHeader.Bytes), 5);
        new FrameHeader(FrameType.Heartbeat, Heartbeat.Bytes, sequence, FrameHeader.HashOf(frame.AsSpan(FrameHeader.Bytes))).Write(frame);
        return frame;
    }

    private static async Task<(Socket Near, Socket Far)> PairAsync()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket near = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await near.ConnectAsync(listener.LocalEndPoint!);
        return (near, await listener.AcceptAsync());
    }
}
