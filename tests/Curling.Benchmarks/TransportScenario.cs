using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Transport;
using Curling.Protocol;

namespace Curling.Benchmarks;

/// <summary>How well a rate is held, and what frames cost beside a plain copy over loopback, in one run.</summary>
internal static class TransportScenario
{
    private const long Asked = 50L << 20;

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        double held = await FramesAsync(Asked, TimeSpan.FromSeconds(5));
        report("bandwidth.held_over_asked", held / Asked, "0.95 to 1.05");
        TimeSpan each = TimeSpan.FromSeconds(quick ? 2 : 5);
        double plain = await PlainAsync(each);
        double max = await FramesAsync(0, each);
        report("transport.plain_mib_per_second", plain / (1 << 20), "");
        report("transport.max_over_loopback", max / plain, ">= 0.5");
    }

    private static async Task<double> FramesAsync(long rate, TimeSpan time)
    {
        (Socket near, Socket far) = await PairAsync();
        await using FrameConnection a = new(near, rate, TimeProvider.System);
        await using FrameConnection b = new(far, 0, TimeProvider.System);
        Task reading = Task.Run(async () =>
        {
            byte[] buffer = new byte[ProtocolLimits.MaxDataPayload];
            while (await b.ReceiveHeaderAsync(CancellationToken.None) is { } header)
            {
                await b.ReceivePayloadAsync(header, buffer, CancellationToken.None);
            }
        });
        byte[] frame = new byte[FrameHeader.Bytes + DataPrefix.Bytes + ProtocolLimits.MaxContentBytes];
        new Random(1).NextBytes(frame);
        long start = Stopwatch.GetTimestamp();
        while (Stopwatch.GetElapsedTime(start) < time)
        {
            await a.SendInPlaceAsync(FrameType.RoundData, frame, FrameHeader.HashOf(frame.AsSpan(FrameHeader.Bytes)), CancellationToken.None);
        }

        double perSecond = a.BytesSent / Stopwatch.GetElapsedTime(start).TotalSeconds;
        await a.DisposeAsync();
        await reading;
        return perSecond;
    }

    public static async Task<double> PlainAsync(TimeSpan time)
    {
        (Socket near, Socket far) = await PairAsync();
        using (near)
        using (far)
        {
            Task reading = Task.Run(async () =>
            {
                byte[] buffer = new byte[ProtocolLimits.MaxContentBytes];
                while (await far.ReceiveAsync(buffer) > 0)
                {
                }
            });
            byte[] bytes = new byte[ProtocolLimits.MaxContentBytes];
            new Random(1).NextBytes(bytes);
            long sent = 0;
            long start = Stopwatch.GetTimestamp();
            while (Stopwatch.GetElapsedTime(start) < time)
            {
                sent += await near.SendAsync(bytes);
            }

            double perSecond = sent / Stopwatch.GetElapsedTime(start).TotalSeconds;
            near.Shutdown(SocketShutdown.Send);
            await reading;
            return perSecond;
        }
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
