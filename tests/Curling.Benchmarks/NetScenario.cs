using Curling.Linux.Processes;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;

namespace Curling.Benchmarks;

/// <summary>
/// What a client of a guest sees: a Linux guest on TCG with a virtio card, once on a plain tap device with nothing of Curling, once
/// protected; hosts and client in network namespaces of one machine.
/// </summary>
internal static class NetScenario
{
    private const string Guest = "10.77.0.10";
    // What QEMU's stream, which the daemons stand behind, cannot carry.
    private const string NoOffloads = ",csum=off,gso=off,guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,host_tso4=off"
        + ",host_tso6=off,host_ecn=off,host_ufo=off";

    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    public static async Task RunAsync(bool quick, Action<string, double, string> report)
    {
        string qemu = TestGuests.Qemu("7.2");
        int trips = quick ? 300 : 3000;
        TimeSpan bulk = TimeSpan.FromSeconds(quick ? 1 : 5);
        Seen plain = await PlainAsync(qemu, trips, bulk);
        report("net.rtt.plain_us", plain.TripP50, "");
        report("net.bulk.out.plain_mib", plain.Out / (1 << 20), "");
        report("net.bulk.in.plain_mib", plain.In / (1 << 20), "");
        Seen bare = await PlainAsync(qemu, trips, bulk, NoOffloads);
        report("net.bulk.out.plain_without_offloads_mib", bare.Out / (1 << 20), "");
        report("net.bulk.in.plain_without_offloads_mib", bare.In / (1 << 20), "");
        (Seen seen, double held, double pause, double ack) = await ProtectedAsync(qemu, trips, bulk);
        report("net.rtt.protected_us", seen.TripP50, "");
        report("net.rtt.protected_p99_us", seen.TripP99, "");
        report("net.rtt.protected_over_plain", seen.TripP50 / plain.TripP50, "");
        report("net.held.p50_ms", held / 1000, "");
        report("net.pause.p50_ms", pause / 1000, "");
        report("net.ack.p50_ms", ack / 1000, "");
        report("net.held.p50_over_pause_plus_ack", held / (pause + ack), "<= 2");
        report("net.bulk.out.protected_mib", seen.Out / (1 << 20), "");
        report("net.bulk.in.protected_mib", seen.In / (1 << 20), "");
        report("net.bulk.protected_over_plain", (seen.Out + seen.In) / (plain.Out + plain.In), "");
        report("net.bulk.protected_over_plain_without_offloads", (seen.Out + seen.In) / (bare.Out + bare.In), "");
        int errors = 0;
        (string Name, string[] Options)[] kinds = [("", []), ("no_replay.", ["--no-replay-inbound"])];
        foreach ((string name, string[] options) in kinds)
        {
            List<double> waits = [];
            for (int i = 0; i < (quick ? 2 : 20); i++)
            {
                try
                {
                    waits.Add(await FailoverAsync(qemu, options, delay: 37 * i % 200));
                }
                catch (Exception e) when (e is InvalidDataException or TimeoutException or System.Net.Sockets.SocketException)
                {
                    errors++;
                    await Console.Error.WriteLineAsync($"bench: failover {i}: {e.Message}");
                }
            }

            waits.Sort();
            if (waits.Count > 0)
            {
                report($"net.failover.{name}longest_wait_ms.p50", waits[waits.Count / 2], name.Length == 0 ? "< 100" : "");
                report($"net.failover.{name}longest_wait_ms.max", waits[^1], "");
            }
        }

        report("net.failover.errors", errors, "0");
    }

    /// <summary>A guest without Curling. QEMU's plain tap device sometimes stands still under load here: then once more, and it is told.</summary>
    private static async Task<Seen> PlainAsync(string qemu, int trips, TimeSpan bulk, string device = "")
    {
        for (int attempt = 1; ; attempt++)
        {
            try
            {
                return await PlainOnceAsync(qemu, trips, bulk, device);
            }
            catch (OperationCanceledException) when (attempt < 4)
            {
                await Console.Error.WriteLineAsync("bench: the guest without Curling does not answer any more; once more");
            }
        }
    }

    private static async Task<Seen> PlainOnceAsync(string qemu, int trips, TimeSpan bulk, string device)
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(new PairRun.Silence(), qemu);
        TestGuests.WriteNetworked(lab.Directory, "plain", Guest);
        NetworkLab.Ip("-n", hosts.Primary, "tuntap", "add", "tap0", "mode", "tap");
        NetworkLab.Ip("-n", hosts.Primary, "link", "set", "tap0", "master", "br0", "up");
        await using ChildProcess process = ChildProcess.Start(new ChildProcessOptions("ip",
        [
            "netns", "exec", hosts.Primary, qemu, "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "192M",
            "-kernel", Environment.GetEnvironmentVariable("CURLING_LINUX_KERNEL")!,
            "-initrd", Environment.GetEnvironmentVariable("CURLING_LINUX_INITRD")!,
            "-append", $"console=ttyS0 quiet counter.ws=1 counter.rate=1 curling.ip={Guest}/24", "-serial", "null",
            "-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0,romfile=" + device,
        ]));
        return await LookAsync(hosts, trips, bulk);
    }

    private static async Task<(Seen Seen, double Held, double Pause, double Ack)> ProtectedAsync(string qemu, int trips, TimeSpan bulk)
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(new PairRun.Silence(), qemu);
        (_, Sender sender) = await ProtectAsync(lab, hosts, []);
        using CancellationTokenSource limit = new(Limit);

        // The percentiles of status are those of the last frames: ask for them between the two kinds of load.
        double[] sorted = await Probes.RoundTripsAsync(await hosts.ConnectAsync(Guest, 7, limit.Token), Math.Max(trips, 1200));
        var status = await sender.StatusAsync();
        Seen seen = await LookAsync(hosts, trips, bulk) with { TripP50 = sorted[sorted.Length / 2], TripP99 = sorted[sorted.Length * 99 / 100] };
        return (seen, status.Output!.HeldMicrosecondsP50, status.PauseMicroseconds.P50, status.Output.AckMicrosecondsP50);
    }

    private static async Task<Seen> LookAsync(NetworkLab hosts, int trips, TimeSpan bulk)
    {
        using CancellationTokenSource limit = new(Limit);
        await Probes.RoundTripsAsync(await hosts.ConnectAsync(Guest, 7, limit.Token), 100);
        double[] sorted = await Probes.RoundTripsAsync(await hosts.ConnectAsync(Guest, 7, limit.Token), trips);
        double received = await Probes.ReceiveAsync(await hosts.ConnectAsync(Guest, 19, limit.Token), bulk);
        double sent = await Probes.SendAsync(await hosts.ConnectAsync(Guest, 9, limit.Token), bulk);
        return new Seen(sorted[sorted.Length / 2], sorted[sorted.Length * 99 / 100], received, sent);
    }

    private static async Task<double> FailoverAsync(string qemu, string[] options, int delay)
    {
        using NetworkLab hosts = new();
        await using Lab lab = new(new PairRun.Silence(), qemu);
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, hosts, options);
        using CancellationTokenSource limit = new(Limit);
        using RecordClient client = new(await hosts.ConnectAsync(Guest, 7, limit.Token), inFlight: 1);
        await client.UntilAnsweredAsync(200);
        await Task.Delay(delay);
        client.ForgetWaits();
        sender.Kill();
        await receiver.UntilPromotedAsync("web");
        await client.UntilAnsweredAsync(200);
        await client.StopAsync();
        await lab.ClearAwayAsync();
        return client.LongestWait.TotalMilliseconds;
    }

    private static async Task<(Receiver Receiver, Sender Sender)> ProtectAsync(Lab lab, NetworkLab hosts, string[] options)
    {
        lab.SenderNamespace = hosts.Primary;
        lab.ReceiverNamespace = hosts.Standby;
        Receiver receiver = await lab.StartReceiverAsync("--listen", $"tcp:{NetworkLab.StandbyAddress}:0");
        string guest = TestGuests.WriteNetworked(lab.Directory, "web", Guest);
        File.WriteAllText(guest, File.ReadAllText(guest).Replace("counter.ws=8 counter.rate=500", "counter.ws=1 counter.rate=1"));
        Sender sender = lab.StartSender(receiver.Endpoint, guest, options);
        await sender.UntilProtectedAsync();
        using CancellationTokenSource limit = new(Limit);
        using var first = await hosts.ConnectAsync(Guest, 7, limit.Token);
        return (receiver, sender);
    }

    private sealed record Seen(double TripP50, double TripP99, double Out, double In);
}
