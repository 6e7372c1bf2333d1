using System.Buffers;
using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Transport;
using Curling.Protocol;
using Curling.Recv.Sessions;
using Curling.Send.Network;

namespace Curling.Pair.Tests;

/// <summary>What the guest was given at the primary, and what a promoted guest gets of it.</summary>
public sealed class InboundTests
{
    [Fact]
    public void Frames_before_the_committed_cut_are_dropped_the_others_stay_in_order()
    {
        InboundBuffer buffer = new(2);
        Add(buffer, Frame(0, 0), Frame(1, 1), Cut(7, 1), Frame(2, 0));
        Add(buffer, Frame(3, 0), Cut(8, 3), Frame(4, 1));
        buffer.Committed(8);
        Assert.Equal([3, 4], Sequences(buffer));
        Assert.Equal(0, buffer.Counters.Frames);
    }

    [Fact]
    public void Cut_that_is_not_committed_drops_nothing()
    {
        InboundBuffer buffer = new(2);
        Add(buffer, Frame(0, 0), Frame(1, 1), Cut(7, 1), Frame(2, 0));
        Add(buffer, Frame(3, 0), Cut(8, 3), Frame(4, 1));
        buffer.Committed(7);
        Assert.Equal([1, 2, 3, 4], Sequences(buffer));
    }

    [Fact]
    public void Frames_that_the_guest_sent_before_the_committed_cut_leave_again_those_after_it_never()
    {
        InboundBuffer buffer = new(2);
        Add(buffer, Sent(6, 0), Sent(7, 1), Frame(0, 0), Sent(8, 0));
        Add(buffer, Sent(8, 1), Sent(9, 0));
        buffer.Committed(8);
        Assert.Equal([(1, 7L), (0, 8L), (1, 8L)], buffer.TakeSent().Frames.Select(f => (f.Network, BinaryPrimitives.ReadInt64LittleEndian(f.Framed.Span[4..]))));
        Assert.Single(buffer.Take().Frames);
        Assert.Empty(buffer.TakeSent().Frames);
    }

    [Fact]
    public void Frames_that_the_guest_sent_are_bounded_while_nothing_is_committed()
    {
        InboundBuffer buffer = new(1);
        for (int i = 0; i < 5000; i++)
        {
            Add(buffer, Sent(1, 0));
        }

        buffer.Committed(1);
        Assert.InRange(buffer.TakeSent().Frames.Count, 1, 1000);
    }

    [Fact]
    public void Cut_that_comes_after_its_commit_counts_too()
    {
        InboundBuffer buffer = new(1);
        Add(buffer, Frame(0, 0));
        buffer.Committed(3);
        Add(buffer, Cut(3, 1));
        Assert.Empty(buffer.Take().Frames);
    }

    [Fact]
    public void Oldest_are_dropped_and_counted_when_there_is_no_room()
    {
        InboundBuffer buffer = new(1);
        byte[] entry = Frame(0, 0, 60_000);
        for (int i = 0; i < 400; i++)
        {
            Add(buffer, entry);
        }

        Assert.True(buffer.Counters.Bytes <= InboundBuffer.MaxBytes);
        Assert.Equal(400, buffer.Counters.Frames + buffer.Counters.Dropped);
        Assert.True(buffer.Counters.Dropped > 0);
    }

    [Theory]
    [InlineData(15)]
    [InlineData(17)]
    [InlineData(-1)]
    public void Entry_that_cannot_be_is_refused(int length)
    {
        byte[] entry = Frame(1, 0);
        if (length < 0)
        {
            BinaryPrimitives.WriteInt32BigEndian(entry.AsSpan(12), int.MaxValue);
            length = entry.Length;
        }

        Assert.Throws<ProtocolException>(() => Add(new InboundBuffer(1), entry[..length]));
        Assert.Throws<ProtocolException>(() => Add(new InboundBuffer(1), Frame(1, 1)));
    }

    [Fact]
    public async Task Copies_travel_and_are_cut_where_the_guest_stood_still()
    {
        (FrameConnection there, FrameConnection here) = await ConnectAsync();
        await using FrameConnection one = there;
        await using FrameConnection two = here;
        await using InboundCopy copy = new();
        copy.Attach(there);
        copy.Take(0, Batch(3));

        // Longer ago than anything can lie unread in QEMU's socket.
        await Task.Delay(60);
        copy.Cut(5);
        copy.Take(0, Batch(2));
        InboundBuffer buffer = new(1);
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(30));
        for (int frames = 0; frames < 5;)
        {
            FrameHeader header = (await here.ReceiveHeaderAsync(limit.Token))!.Value;
            Assert.Equal(FrameType.Inbound, header.Type);
            byte[] payload = ArrayPool<byte>.Shared.Rent(header.PayloadLength);
            await here.ReceivePayloadAsync(header, payload, limit.Token);
            frames += Count(payload.AsSpan(0, header.PayloadLength));
            buffer.Add(payload, header.PayloadLength);
        }

        buffer.Committed(5);
        Assert.Equal(2, buffer.Take().Frames.Count);
        Assert.Equal((5L, 0L), (copy.Frames, copy.LeftOut));
    }

    [Fact]
    public async Task Copies_that_the_link_is_too_slow_for_are_left_out_and_nobody_waits()
    {
        (FrameConnection there, FrameConnection here) = await ConnectAsync();
        await using FrameConnection one = there;
        await using FrameConnection two = here;
        await using InboundCopy copy = new();
        copy.Attach(there);
        byte[] batch = Batch(64);
        for (int i = 0; i < 1000; i++)
        {
            copy.Take(0, batch);
        }

        Assert.True(copy.LeftOut > 0);
        Assert.Equal(64_000, copy.Frames + copy.LeftOut);
    }

    private static async Task<(FrameConnection There, FrameConnection Here)> ConnectAsync()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket client = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await client.ConnectAsync(listener.LocalEndPoint!);
        return (new FrameConnection(client, 0, TimeProvider.System), new FrameConnection(await listener.AcceptAsync(), 0, TimeProvider.System));
    }

    private static int Count(ReadOnlySpan<byte> payload)
    {
        int frames = 0;
        for (int at = 0; at < payload.Length;)
        {
            InboundEntry entry = InboundEntry.Read(payload[at..], 1);
            frames += entry.Kind == InboundKind.Frame ? 1 : 0;
            at += InboundEntry.Bytes + entry.Length;
        }

        return frames;
    }

    private static byte[] Batch(int frames)
    {
        byte[] batch = new byte[frames * 1004];
        for (int i = 0; i < frames; i++)
        {
            BinaryPrimitives.WriteInt32BigEndian(batch.AsSpan(i * 1004), 1000);
        }

        return batch;
    }

    private static byte[] Frame(long sequence, int network, int length = 60)
    {
        byte[] entry = new byte[InboundEntry.Bytes + length];
        new InboundEntry(sequence, network, InboundKind.Frame, length).Write(entry);
        BinaryPrimitives.WriteInt64LittleEndian(entry.AsSpan(InboundEntry.Bytes), sequence);
        return entry;
    }

    private static byte[] Sent(long round, int network)
    {
        byte[] entry = Frame(round, network);
        new InboundEntry(round, network, InboundKind.Sent, entry.Length - InboundEntry.Bytes).Write(entry);
        return entry;
    }

    private static byte[] Cut(long round, long sequence)
    {
        byte[] entry = new byte[InboundEntry.Bytes + InboundEntry.CutBytes];
        new InboundEntry(sequence, 0, InboundKind.Cut, InboundEntry.CutBytes).Write(entry);
        BinaryPrimitives.WriteInt64LittleEndian(entry.AsSpan(InboundEntry.Bytes), round);
        return entry;
    }

    private static void Add(InboundBuffer buffer, params byte[][] entries)
    {
        int length = entries.Sum(e => e.Length);
        byte[] rented = ArrayPool<byte>.Shared.Rent(length);
        int at = 0;
        foreach (byte[] entry in entries)
        {
            entry.CopyTo(rented, at);
            at += entry.Length;
        }

        buffer.Add(rented, length);
    }

    private static List<long> Sequences(InboundBuffer buffer) =>
        [.. buffer.Take().Frames.Select(f => BinaryPrimitives.ReadInt64LittleEndian(f.Framed.Span[4..]))];
}
