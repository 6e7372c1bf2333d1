using System.Diagnostics;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>Measures a guest's network as a client sees it, on the client's clock. Each takes its socket over.</summary>
public static class Probes
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    /// <summary>Asks an echo service again and again, each time after the answer.</summary>
    /// <returns>The round trips in microseconds, sorted.</returns>
    public static async Task<double[]> RoundTripsAsync(Socket socket, int count)
    {
        using Socket mine = socket;
        using CancellationTokenSource limit = new(Patience);
        byte[] bytes = new byte[64];
        double[] trips = new double[count];
        for (int i = 0; i < count; i++)
        {
            long start = Stopwatch.GetTimestamp();
            await mine.SendAsync(bytes, limit.Token);
            for (int at = 0; at < bytes.Length;)
            {
                int now = await mine.ReceiveAsync(bytes.AsMemory(at), limit.Token);
                at += now > 0 ? now : throw new InvalidDataException($"the connection ended at question {i}");
            }

            trips[i] = Stopwatch.GetElapsedTime(start).TotalMicroseconds;
        }

        Array.Sort(trips);
        return trips;
    }

    /// <summary>Takes what a source sends.</summary>
    /// <returns>Bytes a second.</returns>
    public static Task<double> ReceiveAsync(Socket socket, TimeSpan time) => BulkAsync(socket, time, (s, bytes, c) => s.ReceiveAsync(bytes, c));

    /// <summary>Sends to a sink as fast as it takes it.</summary>
    /// <returns>Bytes a second.</returns>
    public static Task<double> SendAsync(Socket socket, TimeSpan time) => BulkAsync(socket, time, (s, bytes, c) => s.SendAsync(bytes, c));

    private static async Task<double> BulkAsync(
        Socket socket, TimeSpan time, Func<Socket, Memory<byte>, CancellationToken, ValueTask<int>> move)
    {
        using Socket mine = socket;
        using CancellationTokenSource limit = new(time + TimeSpan.FromSeconds(15));
        byte[] bytes = new byte[256 * 1024];
        long moved = 0;

        // The first half second fills buffers.
        long start = Stopwatch.GetTimestamp();
        TimeSpan warm = TimeSpan.FromSeconds(0.5);
        long counted = 0;
        while (Stopwatch.GetElapsedTime(start) < time + warm)
        {
            int now = await move(mine, bytes, limit.Token);
            moved += now > 0 ? now : throw new InvalidDataException("the connection ended");
            if (Stopwatch.GetElapsedTime(start) < warm)
            {
                counted = moved;
            }
        }

        return (moved - counted) / time.TotalSeconds;
    }
}
