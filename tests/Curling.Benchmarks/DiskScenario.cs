using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using Curling.Linux.Processes;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;

namespace Curling.Benchmarks;

/// <summary>
/// What a guest's disk gives while it is protected, over what QEMU's own file driver gives on the same image in the same run: a Linux
/// guest on TCG with a virtio disk, asynchronous I/O past its page cache. The time is the host's; the guest's stands still when it does.
/// </summary>
internal static class DiskScenario
{
    private const string Guest = "10.77.0.10";
    private const long ImageBytes = 256L << 20;

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(120);

    // What is asked of the guest, and how many operations to begin with: 4 KiB at queue depth 16, and 1 MiB one after the other.
    private static readonly (string Name, string Order, long Bytes, int Operations, string Bar)[] Loads =
    [
        ("write.random4k", "write random 4 16", 4 << 10, 2000, ">= 0.5"),
        ("read.random4k", "read random 4 16", 4 << 10, 2000, ">= 0.5"),
        ("write.sequential1m", "write sequential 1024 1", 1 << 20, 64, ">= 0.7"),
        ("read.sequential1m", "read sequential 1024 1", 1 << 20, 64, ">= 0.7"),
    ];

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        string qemu = TestGuests.Qemu("7.2");
        TimeSpan window = TimeSpan.FromSeconds(quick ? 2 : 8);
        DirectoryInfo directory = Directory.CreateTempSubdirectory("cb");
        try
        {
            string image = Path.Combine(directory.FullName, "disk.img");
            Fill(image, quick ? ImageBytes / 4 : ImageBytes);

            // Before and after: what else this host does comes and goes.
            double[] before = await PlainAsync(qemu, image, window);
            double[] byOthers = await OverQemuNbdAsync(qemu, image, window);
            (double[] seen, double[] alone) = await ProtectedAsync(qemu, image, window);
            double[] after = await PlainAsync(qemu, image, window);
            for (int i = 0; i < Loads.Length; i++)
            {
                (string name, _, long bytes, _, string bar) = Loads[i];
                double plain = (before[i] + after[i]) / 2;
                string unit = bytes < 1 << 20 ? "iops" : "mib";
                report($"disk.{name}.plain_{unit}", plain, "");
                report($"disk.{name}.protected_{unit}", seen[i], "");
                report($"disk.{name}.protected_over_plain", seen[i] / plain, bar);
                report($"disk.{name}.unprotected_over_plain", alone[i] / plain, "");
                report($"disk.{name}.qemu_nbd_over_plain", byOthers[i] / plain, "");
            }
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    /// <summary>No holes: reading one costs less than reading what is there.</summary>
    private static void Fill(string image, long length)
    {
        byte[] bytes = new byte[1 << 20];
        Random random = new(1);
        using FileStream stream = new(image, FileMode.CreateNew, FileAccess.Write);
        for (long at = 0; at < length; at += bytes.Length)
        {
            random.NextBytes(bytes);
            stream.Write(bytes);
        }
    }

    /// <summary>A guest without Curling.</summary>
    private static async Task<double[]> PlainAsync(string qemu, string image, TimeSpan window)
    {
        await using PlainGuest guest = PlainGuest.Start(qemu, image, "curling.disk=bench", DiskClient.BenchPort);
        await guest.UntilSaysAsync("disk-bench: ready");
        using Socket socket = await DiskClient.ConnectAsync(guest.Port);
        return await MeasureAsync(socket, window);
    }

    /// <summary>A guest without Curling whose disk is exported by qemu-nbd: what the way over a socket costs by itself.</summary>
    private static async Task<double[]> OverQemuNbdAsync(string qemu, string image, TimeSpan window)
    {
        string socket = image + ".nbd";
        await using ChildProcess export = ChildProcess.Start(new ChildProcessOptions(
            "qemu-nbd", ["--format=raw", "--discard=unmap", "--cache=writeback", "--persistent", "--shared=4", "--socket=" + socket, image]));
        for (long start = Stopwatch.GetTimestamp(); !File.Exists(socket); await Task.Delay(20))
        {
            if (export.HasExited || Stopwatch.GetElapsedTime(start) > Limit)
            {
                throw new InvalidOperationException($"qemu-nbd does not export {image}: {export.ErrorTail}");
            }
        }

        await using PlainGuest guest = PlainGuest.Start(qemu, image, "curling.disk=bench", DiskClient.BenchPort, socket);
        await guest.UntilSaysAsync("disk-bench: ready");
        using Socket client = await DiskClient.ConnectAsync(guest.Port);
        return await MeasureAsync(client, window);
    }

    /// <summary>A guest that is protected, and the same one when its receiver is gone: what remains then is the export.</summary>
    private static async Task<(double[] Protected, double[] Alone)> ProtectedAsync(string qemu, string image, TimeSpan window)
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(new PairRun.Silence(), qemu);
        lab.SenderNamespace = hosts.Primary;
        lab.ReceiverNamespace = hosts.Standby;
        Receiver receiver = await lab.StartReceiverAsync(
            "--listen", $"tcp:{NetworkLab.StandbyAddress}:0", "--replica-directory", Path.Combine(lab.Directory, "replicas"));
        Sender sender = lab.StartSender(
            receiver.Endpoint, TestGuests.WriteWithDisk(lab.Directory, "disk", image, "curling.disk=bench", Guest));
        await sender.UntilProtectedAsync();
        using CancellationTokenSource limit = new(Limit);
        using Socket socket = await hosts.ConnectAsync(Guest, DiskClient.BenchPort, limit.Token);
        double[] seen = await MeasureAsync(socket, window);
        receiver.Kill();
        await sender.UntilAsync(s => s.State != "protected", "the guest is not protected any more");
        double[] alone = await MeasureAsync(socket, window);
        await lab.ClearAwayAsync();
        return (seen, alone);
    }

    /// <summary>Operations a second, or MiB a second, of each load.</summary>
    private static async Task<double[]> MeasureAsync(Socket socket, TimeSpan window)
    {
        double[] rates = new double[Loads.Length];
        for (int i = 0; i < Loads.Length; i++)
        {
            (_, string order, long bytes, int operations, _) = Loads[i];

            // A short one warms up and says how many fill the window. What is asked is answered after a round: that is part of no operation,
            // and little of a window.
            double rate = await OnceAsync(socket, order, operations);
            rate = await OnceAsync(socket, order, Math.Max(operations, (int)(rate * window.TotalSeconds)));
            rates[i] = bytes < 1 << 20 ? rate : rate * bytes / (1 << 20);
        }

        return rates;
    }

    private static async Task<double> OnceAsync(Socket socket, string order, int operations)
    {
        using CancellationTokenSource limit = new(Limit);
        long start = Stopwatch.GetTimestamp();
        long done = await DiskClient.AskAsync(socket, string.Create(CultureInfo.InvariantCulture, $"{order} {operations}"), limit.Token);
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return done == operations ? done / seconds : throw new InvalidDataException($"\"{order}\": {done} of {operations} operations were done");
    }
}
