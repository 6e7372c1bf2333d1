using System.Buffers.Binary;
using System.Net.Sockets;
using Curling.Hosting.Network;
using Curling.Linux.Time;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Tests.Network;

/// <summary>The daemon's end of a card's cable, with a QEMU that this test plays: it connects, and writes what no QEMU would.</summary>
public sealed class NetworkPortTests : IDisposable, INetworkEvents
{
    private readonly string _directory = Directory.CreateTempSubdirectory("cnet").FullName;
    private readonly Lines _log = new();
    private readonly List<(long Round, int Length)> _heldFor = [];
    private int _waits;
    private int _fulls;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    void INetworkEvents.OutputWaits() => Interlocked.Increment(ref _waits);

    void INetworkEvents.OutputFull() => Interlocked.Increment(ref _fulls);

    void INetworkEvents.Held(int network, long round, ReadOnlySpan<byte> frame)
    {
        lock (_heldFor)
        {
            _heldFor.Add((round, frame.Length));
        }
    }

    void INetworkEvents.Passed(int network, ReadOnlySpan<byte> batch)
    {
    }

    [Fact]
    public async Task Frames_are_held_and_leave_when_their_round_is_complete()
    {
        using GuestNetwork network = Create();
        using Socket qemu = Connect();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        qemu.Send(Framed(60, 3));
        await UntilAsync(network, c => c.HeldFrames == 3);
        Assert.Equal(1, _waits);
        network.Gate.Cut(2);
        qemu.Send(Framed(60, 2));
        await UntilAsync(network, c => c.HeldFrames == 5);
        network.Gate.Complete(2);
        network.Wake();

        // There is no cable: what may leave is dropped there, and counted.
        PortCounters counters = await UntilAsync(network, c => c.HeldFrames == 2);
        Assert.Equal((3L, 0L), (counters.DroppedNoCable, counters.ReleasedFrames));
        Assert.Equal(2, _waits);
        Assert.Equal([(2, 60), (2, 60), (2, 60), (3, 60), (3, 60)], _heldFor);
    }

    [Fact]
    public async Task Nothing_leaves_after_the_deadline_whatever_the_gate_says()
    {
        using GuestNetwork network = Create();
        using Socket qemu = Connect();
        network.Deadline.Set(BootClock.Now - TimeSpan.FromMilliseconds(1));
        qemu.Send(Framed(60, 3));
        await UntilAsync(network, c => c.HeldFrames == 3);
        Assert.Equal(3, network.Gate.Releasable(0));
        for (int i = 0; i < 20; i++)
        {
            network.Wake();
            await Task.Delay(5);
            Assert.Equal((3L, 0L), (network.Counters[0].HeldFrames, network.Counters[0].DroppedNoCable));
        }

        network.Deadline.Set(BootClock.Now + TimeSpan.FromMinutes(1));
        network.Wake();
        await UntilAsync(network, c => c.DroppedNoCable == 3);
    }

    [Fact]
    public async Task Frame_longer_than_the_mtu_allows_is_dropped_and_the_next_is_taken()
    {
        using GuestNetwork network = Create();
        using Socket qemu = Connect();
        qemu.Send([.. Framed(1519, 1), .. Framed(5, 1), .. Framed(1518, 1)]);
        PortCounters counters = await UntilAsync(network, c => c.DroppedNoCable == 1);
        Assert.Equal(2, counters.DroppedMisfits);
    }

    [Fact]
    public async Task Length_that_cannot_be_is_told_and_a_new_connection_is_taken()
    {
        using GuestNetwork network = Create();
        using (Socket qemu = Connect())
        {
            qemu.Send([0x7F, 0xFF, 0xFF, 0xFF, 1, 2, 3]);
            Assert.Equal(0, await qemu.ReceiveAsync(new byte[1]).WaitAsync(TimeSpan.FromSeconds(30)));
        }

        await UntilAsync(network, _ => _log.All.Any(l => l.Contains("breaks its own rules") && l.Contains("2147483647 bytes")));
        using Socket next = Connect();
        next.Send(Framed(100, 1));
        await UntilAsync(network, c => c.DroppedNoCable == 1);
    }

    [Fact]
    public async Task Stream_that_ends_inside_a_frame_leaves_nothing_behind()
    {
        using GuestNetwork network = Create();
        using (Socket qemu = Connect())
        {
            qemu.Send(Framed(100, 1)[..50]);
        }

        using Socket next = Connect();
        next.Send(Framed(200, 1));
        await UntilAsync(network, c => c.DroppedNoCable == 1);
        Assert.Equal(0, network.Counters[0].DroppedMisfits);
    }

    [Fact]
    public async Task What_a_qemu_that_has_ended_sent_leaves_when_it_is_safe()
    {
        using GuestNetwork network = Create();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        using (Socket qemu = Connect())
        {
            qemu.Send(Framed(60, 3));
        }

        await UntilAsync(network, c => c.HeldFrames == 3);
        network.Gate.Cut(2);
        network.Gate.Complete(2);
        network.Wake();
        await UntilAsync(network, c => c.DroppedNoCable == 3);
    }

    [Fact]
    public async Task Last_words_of_a_guest_that_ended_leave()
    {
        using GuestNetwork network = Create();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        using (Socket qemu = Connect())
        {
            qemu.Send(Framed(60, 5));
        }

        await UntilAsync(network, c => c.HeldFrames == 5);
        await network.LeaveAsync(TimeSpan.FromSeconds(30));
        Assert.Equal(5, network.Counters[0].DroppedNoCable);
    }

    [Fact]
    public async Task Full_ring_slows_the_guest_and_loses_nothing()
    {
        using GuestNetwork network = Create();
        using Socket qemu = Connect();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        const int Frames = 4000;
        Task sending = Task.Run(() => SendAll(qemu, Framed(1500, Frames)));
        PortCounters counters = await UntilAsync(network, _ => Volatile.Read(ref _fulls) > 0);
        Assert.True(counters.HeldBytes <= 1 << 20, $"{counters.HeldBytes} bytes are held");
        Assert.False(sending.IsCompleted, "the guest was not slowed");
        for (long round = 2; !sending.IsCompleted || network.Gate.Held > 0; round++)
        {
            network.Gate.Cut(round);
            network.Gate.Complete(round);
            network.Wake();
            await Task.Delay(1);
        }

        await sending;
        counters = await UntilAsync(network, c => c.DroppedNoCable + c.HeldFrames == Frames);
        Assert.Equal(0, counters.DroppedMisfits);
    }

    [Fact]
    public async Task What_the_card_has_queued_is_taken_beyond_the_limit_before_a_stop()
    {
        using GuestNetwork network = Create();
        using Socket qemu = Connect();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        Task sending = Task.Run(() => SendAll(qemu, Framed(1500, 1000)));
        await UntilAsync(network, _ => Volatile.Read(ref _fulls) > 0);
        Assert.False(sending.IsCompleted, "the guest was not slowed");
        network.BeforeStop(TimeSpan.FromSeconds(30));
        await sending.WaitAsync(TimeSpan.FromSeconds(30));
        await UntilAsync(network, c => c.HeldFrames == 1000);
        network.AfterStop();
        Assert.Equal(0, network.Counters[0].Overruns);

        // The limit counts again, and nothing more is taken.
        SendAll(qemu, Framed(60, 1));
        await Task.Delay(50);
        Assert.Equal(1000, network.Counters[0].HeldFrames);
        network.Gate.Cut(2);
        network.Gate.Complete(2);
        network.Wake();
        await UntilAsync(network, c => c.DroppedNoCable == 1000 && c.HeldFrames == 1);
    }

    [Fact]
    public async Task Stop_with_no_room_in_the_reserve_is_counted_and_told()
    {
        using GuestNetwork network = Create();
        Socket qemu = Connect();
        network.Gate.Protect(1);
        network.Gate.Cut(1);
        Task sending = Task.Run(() => SendAll(qemu, Framed(1500, 8000)));
        await UntilAsync(network, _ => Volatile.Read(ref _fulls) > 0);
        network.BeforeStop(TimeSpan.FromSeconds(30));
        await UntilAsync(network, c => c.Overruns == 1 && Told() == 1);
        network.AfterStop();
        network.BeforeStop(TimeSpan.FromSeconds(30));
        await UntilAsync(network, c => c.Overruns == 2);
        network.AfterStop();
        qemu.Dispose();
        await sending.ContinueWith(_ => { }, TaskScheduler.Default).WaitAsync(TimeSpan.FromSeconds(30));
        int Told() => _log.All.Count(l => l.Contains("Raise --max-held-output"));
    }

    [Fact]
    public async Task Standby_passes_nothing_before_it_is_told()
    {
        using GuestNetwork network = Create(standby: true);
        using Socket qemu = Connect();
        qemu.Send(Framed(60, 1));
        await UntilAsync(network, c => c.HeldFrames == 1);
        network.Wake();
        Assert.Equal(1, network.Gate.Releasable(0));
        network.Open();
        await UntilAsync(network, c => c.DroppedNoCable == 1);
        byte[] frame = Framed(60, 1);
        network.Pass(new ReplayedFrames([(0, frame), (1, Framed(70, 1)), (0, frame)]));
        byte[] got = new byte[2 * frame.Length];
        for (int at = 0; at < got.Length;)
        {
            at += await qemu.ReceiveAsync(got.AsMemory(at)).AsTask().WaitAsync(TimeSpan.FromSeconds(30));
        }

        Assert.Equal([.. frame, .. frame], got);
    }

    private static void SendAll(Socket qemu, byte[] bytes)
    {
        for (int at = 0; at < bytes.Length;)
        {
            at += qemu.Send(bytes, at, Math.Min(15_040, bytes.Length - at), SocketFlags.None);
        }
    }

    private static byte[] Framed(int length, int count)
    {
        byte[] framed = new byte[(4 + length) * count];
        for (int i = 0; i < count; i++)
        {
            BinaryPrimitives.WriteUInt32BigEndian(framed.AsSpan(i * (4 + length)), (uint)length);
        }

        return framed;
    }

    private static async Task<PortCounters> UntilAsync(GuestNetwork network, Func<PortCounters, bool> holds)
    {
        for (int i = 0; i < 6000; i++)
        {
            PortCounters counters = network.Counters[0];
            if (holds(counters))
            {
                return counters;
            }

            await Task.Delay(5);
        }

        throw new TimeoutException($"this did not come about; the port is {network.Counters[0]}");
    }

    private GuestNetwork Create(bool standby = false) => GuestNetwork.Create(
        new GuestDefinition
        {
            Name = "g",
            MemoryBytes = 1 << 20,
            Networks = new NetworkList([new NetworkDefinition("52:54:00:00:00:01", "virtio-net-pci", "none", "none", 1500)]),
        },
        _directory, standby, 1 << 20, this, _log);

    private Socket Connect()
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(QemuCommandLine.NetworkSocket(_directory, 0)));
        return socket;
    }

    private sealed class Lines : ILogger
    {
        private readonly List<string> _lines = [];

        public IReadOnlyList<string> All
        {
            get
            {
                lock (_lines)
                {
                    return [.. _lines];
                }
            }
        }

        public IDisposable? BeginScope<TState>(TState state)
            where TState : notnull => null;

        public bool IsEnabled(LogLevel logLevel) => true;

        public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
        {
            lock (_lines)
            {
                _lines.Add(formatter(state, exception));
            }
        }
    }
}
