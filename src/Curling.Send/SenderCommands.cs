using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Control;
using Curling.Hosting.Faults;
using Curling.Hosting.Options;
using Curling.Linux.Memory;
using Curling.Replication.Sender;
using Curling.Send.Links;

namespace Curling.Send;

/// <summary>The command line of <c>curling-send</c>.</summary>
internal static class SenderCommands
{
    private const string Description =
        """
        Runs a guest and keeps a standby of it on another host, in endless rounds.

        The guest's memory and devices travel to curling-recv again and again while it runs; when this host or this program
        dies, the standby goes on from the last round that arrived whole. The guest needs nothing installed and notices nothing.

        With no --guest, a small built-in guest is protected: it counts on its serial port and checks its own memory.
          curling-send --target tcp:192.0.2.7:7711 --bandwidth max
          curling-send --target tcp:192.0.2.7:7711 --guest web.json

        Ctrl-C and SIGTERM stop the guest and end the protection; to move the guest instead, use: curling-send switchover
        """;

    /// <summary>How control sockets of this program are named.</summary>
    private const string Kind = "send";

    /// <summary>Builds the commands.</summary>
    public static RootCommand Build()
    {
        Option<Endpoint> target = CommonOptions.Endpoint("--target", "Where curling-recv listens", allowPortZero: false);
        target.Required = true;
        Option<ByteRate> bandwidth = CommonOptions.Rate(
            "--bandwidth", "The most that is sent per second: max, or a rate such as 500MiB/s or 10Gbit/s", ByteRate.Max);
        Option<string?> guest = CommonOptions.Path("--guest", "The guest to run, a JSON definition (docs/guest-definition.md)");
        Option<string> rounds = CommonOptions.Word(
            "--rounds",
            "full: QEMU's own migration each time; incremental: only what changed; auto: incremental where this host allows it",
            "auto",
            "auto", "full", "incremental");
        Option<string> compress = CommonOptions.Word(
            "--compress",
            "How memory is made smaller: none; lz4 or zstd: what changed in a page that was sent before, and the rest compressed;"
                + " auto: whichever of them brings it over soonest, by the link's speed",
            "auto",
            "auto", "none", "lz4", "zstd");
        Option<string> interval = new("--interval")
        {
            Description = "The rest between two rounds: a time such as 50ms, or auto: as short as --max-overhead allows",
            HelpName = "TIME|auto",
            DefaultValueFactory = _ => "auto",
        };
        interval.Validators.Add(result => Check(result, "--interval", t => t == "auto" || (Durations.TryParse(t, out TimeSpan d) && d <= TimeSpan.FromHours(1)),
            "is neither a time such as 50ms nor auto"));
        Option<string> overhead = new("--max-overhead")
        {
            Description = "With --interval auto: the share of its time that the guest may lose to pauses",
            HelpName = "PERCENT",
            DefaultValueFactory = _ => "5%",
        };
        overhead.Validators.Add(result => Check(result, "--max-overhead", t => TryReadShare(t, out _), "is not a share from 0.1% to 90%"));
        Option<string> sync = CommonOptions.Word(
            "--sync",
            "output: a packet that waits for a round asks for one at once; periodic: rounds happen by --interval; auto: output where the guest"
                + " has a network and no --interval is given",
            "auto",
            "auto", "periodic", "output");
        Option<string> minInterval = new("--min-interval")
        {
            Description = "With --sync output: the least rest between two rounds: a time such as 5ms, or auto: as long as the guest stood still",
            HelpName = "TIME|auto",
            DefaultValueFactory = _ => "auto",
        };
        minInterval.Validators.Add(result => Check(
            result, "--min-interval", t => t == "auto" || (Durations.TryParse(t, out TimeSpan d) && d <= TimeSpan.FromSeconds(10)),
            "is neither a time such as 5ms nor auto"));
        Option<Duration> maxInterval = CommonOptions.Duration(
            "--max-interval", "With --sync output: the longest rest between two rounds, also when nothing waits", TimeSpan.FromMilliseconds(100),
            TimeSpan.FromMilliseconds(1), TimeSpan.FromHours(1));
        Option<string> maxHeld = new("--max-held-output")
        {
            Description = "Output that may wait for its round, per network; the guest is slowed when there is more",
            HelpName = "SIZE",
            DefaultValueFactory = _ => "16MiB",
        };
        maxHeld.Validators.Add(result => Check(
            result, "--max-held-output", t => ByteSize.TryParse(t, out long b) && b is >= 1 << 20 and <= 1 << 30, "is not a size from 1MiB to 1GiB"));
        Option<bool> noReplay = new("--no-replay-inbound")
        {
            Description = "Do not send what the guest receives to the receiver as well: clients may wait for a retransmission after a failover",
        };
        Option<bool> releaseEarly = new("--test-release-output-early")
        {
            Description = "For tests: let output leave before it is safe",
            Hidden = true,
        };
        Option<int> inFlight = new("--max-rounds-in-flight")
        {
            Description = "Rounds that may be captured and not yet committed by the receiver",
            HelpName = "N",
            DefaultValueFactory = _ => 4,
        };
        inFlight.Validators.Add(result => Check(
            result, "--max-rounds-in-flight", t => int.TryParse(t, CultureInfo.InvariantCulture, out int n) && n is >= 1 and <= 64,
            "is not a number from 1 to 64"));
        Option<Duration> failureTimeout = CommonOptions.Duration(
            "--failure-timeout",
            "A receiver that is silent for longer is lost; use the same as there",
            TimeSpan.FromSeconds(2),
            TimeSpan.FromMilliseconds(100),
            TimeSpan.FromMinutes(10));
        Option<string?> qemu = CommonOptions.Path("--qemu", "The QEMU to use; otherwise CURLING_QEMU, otherwise qemu-system-x86_64 on PATH");
        Option<string?> control = CommonOptions.Path("--control", "The control socket; otherwise one named after the guest, under /run/curling");
        Option<string?> digests = CommonOptions.DiskDigests();
        Option<string?> logFile = CommonOptions.LogFile();
        Option<string> logLevel = CommonOptions.LogLevelOption();
        RootCommand root = new(Description)
        {
            target, bandwidth, guest, rounds, compress, sync, interval, minInterval, maxInterval, overhead, inFlight, maxHeld, noReplay,
            releaseEarly, digests, failureTimeout, qemu, control, logFile, logLevel,
        };
        ArbiterCommandLine arbiter = new();
        arbiter.AddTo(root);
        FaultCommandLine faults = new();
        faults.AddTo(root);
        root.SetAction((parsed, cancellation) => RunAsync(
            faults.Read(parsed),
            new SenderOptions(
                parsed.GetValue(target),
                parsed.GetValue(bandwidth),
                parsed.GetValue(guest),
                parsed.GetValue(rounds) switch
                {
                    "full" => RoundChoice.Full,
                    "incremental" => RoundChoice.Incremental,
                    _ => RoundChoice.Auto,
                },
                Durations.TryParse(parsed.GetValue(interval)!, out TimeSpan rest) ? rest : null,
                TryReadShare(parsed.GetValue(overhead)!, out double share) ? share : 0.05,
                parsed.GetValue(inFlight),
                parsed.GetValue(failureTimeout).Time,
                parsed.GetValue(qemu),
                parsed.GetValue(control))
            {
                Sync = parsed.GetValue(sync) switch
                {
                    "periodic" => SyncChoice.Periodic,
                    "output" => SyncChoice.Output,
                    _ => null,
                },
                MinInterval = Durations.TryParse(parsed.GetValue(minInterval)!, out TimeSpan least) ? least : null,
                MaxInterval = parsed.GetValue(maxInterval).Time,
                MaxHeldBytes = ByteSize.TryParse(parsed.GetValue(maxHeld)!, out long held) ? held : 16L << 20,
                ReplayInbound = !parsed.GetValue(noReplay),
                Arbiter = arbiter.Read(parsed),
                ReleaseEarly = parsed.GetValue(releaseEarly),
                DiskDigests = parsed.GetValue(digests),
                Compress = parsed.GetValue(compress) switch
                {
                    "none" => CompressChoice.None,
                    "lz4" => CompressChoice.Lz4,
                    "zstd" => CompressChoice.Zstd,
                    _ => CompressChoice.Auto,
                },
            },
            parsed.GetValue(logFile),
            parsed.GetValue(logLevel)!,
            cancellation));
        root.Subcommands.Add(ControlCommands.Status(
            Kind, "Show the guest and how it is protected", reply => reply.Sender,
            status => JsonSerializer.Serialize(status, ControlJson.Default.SenderStatus), StatusText.Format));
        root.Subcommands.Add(SwitchoverCommand());
        return root;
    }

    private static void Check(System.CommandLine.Parsing.OptionResult result, string name, Func<string, bool> good, string problem)
    {
        if (result.Tokens.Count > 0 && !good(result.Tokens[0].Value))
        {
            result.AddError($"{name}: \"{result.Tokens[0].Value}\" {problem}");
        }
    }

    private static bool TryReadShare(string text, out double share)
    {
        share = 0;
        if (!text.EndsWith('%')
            || !double.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double percent)
            || percent is < 0.1 or > 90)
        {
            return false;
        }

        share = percent / 100;
        return true;
    }

    private static async Task<int> RunAsync(
        IReadOnlyList<Fault> faults, SenderOptions options, string? logFile, string logLevel, CancellationToken cancellation)
    {
        SenderDaemon daemon = await DaemonHost.RunAsync<SenderOptions, SenderDaemon>(faults, options, logFile, logLevel, cancellation);
        if (daemon.Failure is { } failure)
        {
            throw failure;
        }

        return daemon.Ended switch
        {
            SenderEnd.QemuCrashed => 3,
            SenderEnd.Superseded => 4,
            SenderEnd.Refused => 1,
            _ => 0,
        };
    }

    private static Command SwitchoverCommand()
    {
        Option<string?> control = ControlCommands.ControlOption();
        Command command = new("switchover", "Move the guest to the receiver on purpose: stop it, send a last round, let the standby go on")
        {
            control,
        };
        command.SetAction((parsed, cancellation) => ControlCommands.CallAsync(
            Kind, parsed.GetValue(control), new ControlRequest("switchover"), ControlCommands.MoveLimit, cancellation));
        return command;
    }
}
