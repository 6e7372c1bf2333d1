using System.Buffers.Binary;
using Curling.Hosting.Network;

namespace Curling.Hosting.Tests.Network;

public class FrameRingTests
{
    [Fact]
    public void Frames_come_out_as_they_went_in_however_they_were_cut()
    {
        Random random = new(1);
        for (int run = 0; run < 30; run++)
        {
            FrameRing ring = new(300_000, 64, 2000);
            byte[] stream = Stream(random, 4000, out List<byte[]> frames);
            int next = 0;
            int at = 0;
            while (next < frames.Count)
            {
                Span<byte> room = ring.Room();
                int now = Math.Min(Math.Min(room.Length, stream.Length - at), random.Next(1, 100_000));
                stream.AsSpan(at, now).CopyTo(room);
                at += now;
                ring.Take(now, stamp: at);
                for (int leave = random.Next(0, 80); leave > 0 && ring.Count > 0; leave--)
                {
                    Assert.Equal(frames[next++], ring.First(out _).ToArray());
                    ring.RemoveFirst();
                }

                ring.Take(0, stamp: at);
            }

            Assert.Equal(0, ring.Count);
            Assert.Equal(0, ring.Bytes);
        }
    }

    [Fact]
    public void Full_ring_has_no_room_and_has_some_again()
    {
        FrameRing ring = new(300_000, 4, 2000);
        byte[] stream = Stream(new Random(2), 10, out List<byte[]> frames);
        stream.CopyTo(ring.Room());
        Assert.Equal(4, ring.Take(stream.Length, 0));
        Assert.True(ring.Room().IsEmpty);
        ring.RemoveFirst();
        ring.RemoveFirst();
        Assert.Equal(2, ring.Take(0, 0));
        Assert.Equal(frames[2], ring.First(out _).ToArray());
    }

    [Fact]
    public void Frame_longer_than_the_network_takes_is_dropped_and_counted()
    {
        FrameRing ring = new(300_000, 8, 1518);
        byte[] stream = [.. Framed(1518), .. Framed(1519), .. Framed(13), .. Framed(60)];
        stream.CopyTo(ring.Room());
        Assert.Equal(2, ring.Take(stream.Length, 0));
        Assert.Equal(2, ring.Misfits);
        Assert.Equal(1518, ring.First(out _).Length);
    }

    [Fact]
    public void Length_that_cannot_be_is_an_error()
    {
        FrameRing ring = new(300_000, 8, 1518);
        byte[] stream = Framed(FrameRing.MaxFrameBytes + 1)[..4];
        stream.CopyTo(ring.Room());
        Assert.Contains("69633", Assert.Throws<InvalidDataException>(() => ring.Take(4, 0)).Message);
    }

    private static byte[] Framed(int length)
    {
        byte[] framed = new byte[4 + length];
        BinaryPrimitives.WriteUInt32BigEndian(framed, (uint)length);
        return framed;
    }

    private static byte[] Stream(Random random, int count, out List<byte[]> frames)
    {
        frames = [];
        List<byte> stream = [];
        for (int i = 0; i < count; i++)
        {
            byte[] framed = Framed(random.Next(14, 2000));
            random.NextBytes(framed.AsSpan(4));
            frames.Add(framed[4..]);
            stream.AddRange(framed);
        }

        return [.. stream];
    }
}
