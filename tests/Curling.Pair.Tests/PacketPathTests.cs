using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Network;
using Curling.Hosting.Transport;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Send.Network;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>What a frame costs in managed memory on its way: nothing. Alone in its process, for that counts everybody's.</summary>
[Collection(nameof(PacketPathTests))]
[CollectionDefinition(nameof(PacketPathTests), DisableParallelization = true)]
public sealed class PacketPathTests(ITestOutputHelper output) : IDisposable
{
    private const int PerBatch = 10;
    private const int Batches = 10_000;
    private readonly string _directory = Directory.CreateTempSubdirectory("cpath").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [Fact]
    public async Task Frame_allocates_nothing_on_its_way()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(1);
        Socket client = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        client.Connect(listener.LocalEndPoint!);
        using Socket receiver = listener.Accept();
        await using FrameConnection connection = new(client, 0, TimeProvider.System);
        await using InboundCopy copy = new();
        copy.Attach(connection);
        Thread drain = new(() => Drain(receiver)) { IsBackground = true };
        drain.Start();

        int asked = 0;
        using GuestNetwork network = GuestNetwork.Create(
            new GuestDefinition
            {
                Name = "g",
                MemoryBytes = 1 << 20,
                Networks = new NetworkList([new NetworkDefinition("52:54:00:00:00:01", "virtio-net-pci", "none", "none", 1500)]),
            },
            _directory, standby: false, 1 << 20, new SenderNetwork(_ => asked++, copy), NullLogger.Instance);
        using Socket qemu = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        qemu.Connect(new UnixDomainSocketEndPoint(QemuCommandLine.NetworkSocket(_directory, 0)));
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        byte[] batch = Batch();
        Run(1, 500);
        long before = GC.GetTotalAllocatedBytes(precise: true);
        (long copied, long sent) = (copy.Frames, copy.Bytes);
        Run(501, Batches);
        double perFrame = (double)(GC.GetTotalAllocatedBytes(precise: true) - before) / (2 * PerBatch * Batches);
        output.WriteLine($"{perFrame:F3} bytes a frame, {copy.Frames - copied} frames copied, {copy.Bytes - sent} bytes sent, {asked} rounds asked for");
        Assert.True(copy.Frames - copied > 100, $"only {copy.Frames - copied} frames were copied");

        // The smallest object takes 24 bytes. What the runtime itself allocates meanwhile counts here too.
        Assert.True(perFrame < 4, $"{perFrame:F1} bytes are allocated for each frame");

        void Run(long firstRound, int count)
        {
            for (int i = 0; i < count; i++)
            {
                // Out: held, made safe by a round of its own, and gone. In: given to the guest, and copied.
                for (int at = 0; at < batch.Length;)
                {
                    at += qemu.Send(batch, at, batch.Length - at, SocketFlags.None);
                }

                copy.Take(0, batch);
                SpinWait.SpinUntil(() => network.Gate.Held == PerBatch, TimeSpan.FromSeconds(30));
                network.Gate.Cut(firstRound + i + 1);
                copy.Cut(firstRound + i + 1);
                network.Gate.Complete(firstRound + i + 1);
                network.Wake();
                SpinWait.SpinUntil(() => network.Gate.Held == 0, TimeSpan.FromSeconds(30));
            }
        }
    }

    private static void Drain(Socket socket)
    {
        byte[] bytes = new byte[1 << 20];
        try
        {
            while (socket.Receive(bytes) > 0)
            {
            }
        }
        catch (SocketException)
        {
            // The connection is gone.
        }
    }

    private static byte[] Batch()
    {
        byte[] batch = new byte[PerBatch * 104];
        for (int i = 0; i < PerBatch; i++)
        {
            BinaryPrimitives.WriteInt32BigEndian(batch.AsSpan(i * 104), 100);
        }

        return batch;
    }
}
