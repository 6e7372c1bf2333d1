using System.Diagnostics;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Control;
using Curling.Qemu.BuiltinGuest;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.Benchmarks;

/// <summary>What one run of a pair showed. Times in microseconds unless named, throughput in pages a second.</summary>
internal sealed record PairFigures
{
    /// <summary>Median and 99th percentile of the guest's pause, QEMU's own stamps.</summary>
    public required double PauseP50 { get; init; }

    /// <inheritdoc cref="PauseP50"/>
    public required double PauseP99 { get; init; }

    /// <summary>Rounds committed a second.</summary>
    public required double RoundsPerSecond { get; init; }

    /// <summary>Pages the guest dirtied a second while it was protected.</summary>
    public required double PagesPerSecond { get; init; }

    /// <summary>The same before and after, in the same process, with no receiver there; 0 when not asked for.</summary>
    public double PagesPerSecondAlone { get; init; }

    /// <summary>Bytes of memory frames per byte that the guest says it dirtied.</summary>
    public required double MemoryBytesOverDirty { get; init; }

    /// <summary>Bytes of memory frames as they travelled per byte as they were captured.</summary>
    public required double EncodedOverCaptured { get; init; }

    /// <summary>Bytes of memory and of all else in a round.</summary>
    public required double MemoryBytesPerRound { get; init; }

    /// <inheritdoc cref="MemoryBytesPerRound"/>
    public required double StateBytesPerRound { get; init; }

    /// <summary>What the daemons allocate on their managed heaps, per round.</summary>
    public required double SenderAllocatedPerRound { get; init; }

    /// <inheritdoc cref="SenderAllocatedPerRound"/>
    public required double ReceiverAllocatedPerRound { get; init; }

    /// <summary>Resident memory of the daemons' own, and what the receiver's files take, in bytes.</summary>
    public required double SenderOwnBytes { get; init; }

    /// <inheritdoc cref="SenderOwnBytes"/>
    public required double ReceiverOwnBytes { get; init; }

    /// <inheritdoc cref="SenderOwnBytes"/>
    public required double ReceiverFileBytes { get; init; }

    /// <summary>From SIGKILL of the sender and its guest until the receiver says that the guest runs.</summary>
    public double FailoverMilliseconds { get; init; }
}

/// <summary>Runs a pair of daemons with a built-in guest on real QEMU, and measures it from outside on the host's clock.</summary>
internal sealed class PairRun(string qemu, TimeSpan window)
{
    private const int StopSignal = 19;
    private const int ContinueSignal = 18;
    private const int HeldMebibytes = 1024;

    // Behind what the guest uses of itself: to it, memory like any other.
    private const long FilledFrom = 64L << 20;
    private const long BaseBytes = 416L << 20;
    private static readonly TimeSpan Settle = TimeSpan.FromSeconds(1.5);

    /// <summary>Protects a guest, measures it, kills the primary.</summary>
    /// <param name="append">The guest's load.</param>
    /// <param name="alone">Whether to measure the guest's throughput without a receiver too; then nothing is killed.</param>
    /// <param name="memory">The guest's memory.</param>
    /// <param name="fill">Whether the guest has something in all of its memory; else it has used its working set and little more.</param>
    /// <param name="options">Options of the sender.</param>
    public async Task<PairFigures> RunAsync(
        string append, bool alone = false, string memory = "512MiB", bool fill = false, params string[] options)
    {
        await using Lab lab = new(new Silence(), qemu);
        string endpoint = $"tcp:127.0.0.1:{FreePort()}";
        Sender sender = lab.StartSender(
            endpoint, TestGuests.WriteBuiltin(lab.Directory, "guest", memory: memory, append: append), options);
        await sender.UntilLogAsync("started,");
        if (fill)
        {
            Fill(lab, FilledFrom, long.MaxValue);
        }

        double before = 0;
        if (alone)
        {
            await Task.Delay(Settle);
            before = await PagesPerSecondAsync(lab);
        }

        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        await sender.UntilProtectedAsync();
        await Task.Delay(Settle);
        PairFigures figures = await MeasureAsync(lab, sender, receiver);
        if (!alone)
        {
            figures = figures with { FailoverMilliseconds = await KillAsync(receiver, sender) };
            await lab.ClearAwayAsync();
            return figures;
        }

        await receiver.StopAsync();
        await sender.UntilAsync(s => s.State == "unprotected", "the guest runs alone again");
        await Task.Delay(Settle);
        return figures with { PagesPerSecondAlone = (before + await PagesPerSecondAsync(lab)) / 2 };
    }

    /// <summary>The median of three failovers.</summary>
    public async Task<double> FailoverAsync(string append, string memory)
    {
        List<double> times = [];
        for (int i = 0; i < 3; i++)
        {
            await using Lab lab = new(new Silence(), qemu);
            Receiver receiver = await lab.StartReceiverAsync();
            Sender sender = lab.StartSender(
                receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "guest", memory: memory, append: append), "--rounds", "incremental");
            await sender.UntilProtectedAsync();
            await Task.Delay(2000);
            times.Add(await KillAsync(receiver, sender));
            await lab.ClearAwayAsync();
        }

        times.Sort();
        return times[1];
    }

    /// <summary>Bytes a second of a base round of random content, from the connection until it is committed.</summary>
    /// <param name="large">
    /// Whether memory is kept in large pages, and the kernel has free ones at hand: a virtual machine may give free memory back to its own
    /// host, and then waits for every page of it. Where daemons choose small pages for that reason, this shows what they do elsewhere.
    /// </param>
    public async Task<double> BaseAsync(bool large)
    {
        using LargePages? pages = large ? LargePages.TryMount() : null;
        await using Lab lab = new(new Silence(), qemu, pages?.Path);
        string endpoint = $"tcp:127.0.0.1:{FreePort()}";
        Sender sender = lab.StartSender(
            endpoint, TestGuests.WriteBuiltin(lab.Directory, "guest", memory: "512MiB", append: "ws=8M rate=500"), "--rounds", "incremental");
        await sender.UntilLogAsync("started,");
        Fill(lab, FilledFrom, FilledFrom + BaseBytes);

        // The sender is held until the receiver listens: memory that is given back to the kernel stays at hand for about two seconds.
        sender.Signal(StopSignal);
        string held = Path.Combine(lab.Memory, "held");
        if (large)
        {
            MakeMemory(held);
        }

        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        File.Delete(held);
        sender.Signal(ContinueSignal);
        long start = await UntilLineAsync(sender, "connected to ");
        long end = await UntilLineAsync(sender, "PROTECTED:");
        long bytes = BaseBytes + (8 << 20);
        _ = receiver;
        return bytes / Stopwatch.GetElapsedTime(start, end).TotalSeconds;
    }

    private async Task<PairFigures> MeasureAsync(Lab lab, Sender sender, Receiver receiver)
    {
        SenderStatus first = await sender.StatusAsync();
        long receiverAllocated = (await receiver.StatusAsync()).Process!.ManagedAllocatedBytes;
        ulong pages = ReadPages(RamFile(lab));
        long start = Stopwatch.GetTimestamp();
        await Task.Delay(window);
        SenderStatus last = await sender.StatusAsync();
        double dirtied = ReadPages(RamFile(lab)) - pages;
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        ReceiverStatus received = await receiver.StatusAsync();
        double rounds = Math.Max(1, last.CommittedRound - first.CommittedRound);
        return new PairFigures
        {
            PauseP50 = last.PauseMicroseconds.P50,
            PauseP99 = last.PauseMicroseconds.P99,
            RoundsPerSecond = rounds / seconds,
            PagesPerSecond = dirtied / seconds,
            MemoryBytesOverDirty = (last.Sent!.MemoryBytes - first.Sent!.MemoryBytes) / (dirtied * 4096),
            EncodedOverCaptured = (double)(last.Sent.EncodedMemoryBytes - first.Sent.EncodedMemoryBytes)
                / Math.Max(1, last.Sent.MemoryBytes - first.Sent.MemoryBytes),
            MemoryBytesPerRound = (last.Sent.MemoryBytes - first.Sent.MemoryBytes) / rounds,
            StateBytesPerRound = (last.Sent.DeviceStateBytes - first.Sent.DeviceStateBytes) / rounds,
            SenderAllocatedPerRound = (last.Process!.ManagedAllocatedBytes - first.Process!.ManagedAllocatedBytes) / rounds,
            ReceiverAllocatedPerRound = (received.Process!.ManagedAllocatedBytes - receiverAllocated) / rounds,
            SenderOwnBytes = last.Process.AnonymousBytes,
            ReceiverOwnBytes = received.Process.AnonymousBytes,
            ReceiverFileBytes = AllocatedBytes(lab, "curling-recv"),
        };
    }

    /// <summary>Milliseconds from SIGKILL until the receiver says that the guest runs.</summary>
    private static async Task<double> KillAsync(Receiver receiver, Sender sender)
    {
        long start = Stopwatch.GetTimestamp();
        sender.Kill();
        return Stopwatch.GetElapsedTime(start, await UntilLineAsync(receiver, "PROMOTED:")).TotalMilliseconds;
    }

    private static async Task<long> UntilLineAsync(Daemon daemon, string text)
    {
        long start = Stopwatch.GetTimestamp();
        while (!daemon.Log.Any(l => l.Contains(text)))
        {
            await Task.Delay(1);
            if (Stopwatch.GetElapsedTime(start) > Daemon.Limit)
            {
                throw new TimeoutException($"{daemon.Title} did not say \"{text}\": {string.Join('\n', daemon.Log)}");
            }
        }

        return Stopwatch.GetTimestamp();
    }

    /// <summary>The guest's own count of pages, read out of its memory from outside, over the host's clock.</summary>
    private async Task<double> PagesPerSecondAsync(Lab lab)
    {
        string ram = RamFile(lab);
        long start = Stopwatch.GetTimestamp();
        ulong before = ReadPages(ram);
        await Task.Delay(window);
        return (ReadPages(ram) - before) / Stopwatch.GetElapsedTime(start).TotalSeconds;
    }

    /// <summary>Random content in the guest's memory, from one offset to another or to its end.</summary>
    private static void Fill(Lab lab, long from, long to)
    {
        using FileStream ram = new(RamFile(lab), FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
        byte[] random = new byte[1 << 20];
        Random source = new(1);
        ram.Seek(from, SeekOrigin.Begin);
        for (long at = from; at < Math.Min(to, ram.Length); at += random.Length)
        {
            source.NextBytes(random);
            ram.Write(random);
        }
    }

    private static void MakeMemory(string path)
    {
        using FileStream file = new(path, FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 0);
        byte[] bytes = new byte[1 << 20];
        for (int i = 0; i < HeldMebibytes; i++)
        {
            file.Write(bytes);
        }
    }

    private static string RamFile(Lab lab) =>
        Directory.GetFiles(lab.Memory, "ram", SearchOption.AllDirectories).Single(p => p.Contains("curling-send"));

    private static ulong ReadPages(string ram)
    {
        using FileStream stream = File.OpenRead(ram);
        stream.Seek(BuiltinGuestImage.HeaderAddress + BuiltinGuestImage.HeaderPagesOffset, SeekOrigin.Begin);
        byte[] count = new byte[8];
        stream.ReadExactly(count);
        return BitConverter.ToUInt64(count);
    }

    /// <summary>What the files of a daemon take of the memory filesystem; holes take nothing.</summary>
    private static long AllocatedBytes(Lab lab, string daemon)
    {
        using Process du = Process.Start(new ProcessStartInfo("du", ["-s", "-B1", .. Directory.GetDirectories(lab.Memory, daemon + "*")])
        {
            RedirectStandardOutput = true,
        })!;
        long bytes = 0;
        while (du.StandardOutput.ReadLine() is { } line)
        {
            bytes += long.Parse(line.Split('\t')[0], System.Globalization.CultureInfo.InvariantCulture);
        }

        du.WaitForExit();
        return bytes;
    }

    private static int FreePort()
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.LocalEndPoint!).Port;
    }

    internal sealed class Silence : ITestOutputHelper
    {
        public void WriteLine(string message)
        {
        }

        public void WriteLine(string format, params object[] args)
        {
        }
    }
}
