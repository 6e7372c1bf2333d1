using System.CommandLine;
using System.Text.Json;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Control;
using Curling.Hosting.Faults;
using Curling.Hosting.Options;
using Curling.Qemu.Processes;
using Curling.Replication.Receiver;
using Curling.Storage.Replica;

namespace Curling.Recv;

/// <summary>The command line of <c>curling-recv</c>.</summary>
internal static class ReceiverCommands
{
    private const string Description =
        """
        Keeps standbys for guests that curling-send protects on other hosts.

        Every round of a guest is prefetched whole, verified, and only then committed: the standby always stands at exactly one
        instant of the guest. When the primary is lost, the standby takes over from the last committed round. The receiver
        needs no configuration: guests and their boot files come with the sender.

        Start it before or after the sender:
          curling-recv --listen tcp:0.0.0.0:7711

        Started again with the same --listen after it was killed, it finds the last committed round of each guest, tells about it and
        waits for the sender to come back, or for: curling-recv promote GUEST
        """;

    /// <summary>How control sockets of this program are named.</summary>
    private const string Kind = "recv";

    /// <summary>Builds the commands.</summary>
    public static RootCommand Build()
    {
        Option<Endpoint> listen = CommonOptions.Endpoint(
            "--listen", "Where to listen for senders; port 0 lets the system choose one", allowPortZero: true);
        listen.Required = true;
        Option<string> onFailure = CommonOptions.Word(
            "--on-failure",
            "When a primary is lost: promote its standby at once, or hold until curling-recv promote GUEST",
            "promote",
            "promote", "hold");
        Option<string> onSilence = CommonOptions.Word(
            "--on-silence",
            "The same when it is only silent, and may live behind a link that is gone (docs/failure-model.md); --on-failure hold goes first",
            "promote",
            "promote", "hold");
        Option<string?> fence = new("--fence-command")
        {
            Description = "A shell command that makes sure the primary does not run, such as switching its power off; a promotion happens only"
                + " when it succeeds. It finds CURLING_GUEST, CURLING_SENDER (its address), CURLING_ROUND and CURLING_REASON in its environment",
            HelpName = "COMMAND",
        };
        Option<Duration> fenceTimeout = CommonOptions.Duration(
            "--fence-timeout", "How long the fence command may take", TimeSpan.FromSeconds(30), TimeSpan.FromMilliseconds(100), TimeSpan.FromMinutes(10));
        Option<Duration> failureTimeout = CommonOptions.Duration(
            "--failure-timeout",
            "A sender that is silent for longer is lost (a closed connection is noticed at once)",
            TimeSpan.FromSeconds(2),
            TimeSpan.FromMilliseconds(100),
            TimeSpan.FromMinutes(10));
        Option<int> maxGuests = new("--max-guests")
        {
            Description = "Guests to keep standbys for at once",
            HelpName = "N",
            DefaultValueFactory = _ => 16,
        };
        maxGuests.Validators.Add(result =>
        {
            if (result.Errors.Any() || result.Tokens.Count == 0)
            {
                return;
            }

            if (!int.TryParse(result.Tokens[0].Value, out int n) || n is < 1 or > 1024)
            {
                result.AddError($"--max-guests: {result.Tokens[0].Value} is not a number from 1 to 1024");
            }
        });
        Option<Amount> maxMemory = CommonOptions.Size(
            "--max-guest-memory", "Memory that one guest may have", HostMemory.TotalBytes(), 1 << 20);
        Option<Amount> maxRound = CommonOptions.Size(
            "--max-round-bytes",
            "The prefetch buffer of a guest; a round larger than this is refused",
            HostMemory.TotalBytes(),
            16 << 20);
        Option<string?> replicas = CommonOptions.Path(
            "--replica-directory", "Where replicas of guests' disks are, as GUEST-diskN.img; otherwise replicas/ under CURLING_STATE or /var/lib/curling");
        Option<string> replicaSync = CommonOptions.Word(
            "--replica-sync",
            "commit: each round's disk content is on the device before it counts; none: when the system likes, and after a reboot of this host all of a disk is"
                + " copied again",
            "none",
            "none", "commit");
        Option<bool> replaceReplica = new("--replace-replica")
        {
            Description = "Overwrite what stands where a replica is to be, also when it is another guest's, of another history, or no replica at all",
        };
        Option<Endpoint?> thenTarget = ThenTarget("--then-target",
            "Where a guest that is promoted here is given its next standby, at once: another curling-recv; see also: curling-recv protect");
        Option<ByteRate> thenBandwidth = CommonOptions.Rate(
            "--then-bandwidth", "The most that is sent there per second: max, or a rate such as 500MiB/s or 10Gbit/s", ByteRate.Max);
        Option<string?> display = new("--display-listen")
        {
            Description = "Where displays of standbys and promoted guests listen; otherwise on loopback, at a free port",
            HelpName = "ADDRESS:PORT",
        };
        Option<string?> qemu = CommonOptions.Path("--qemu", "The QEMU to use; otherwise CURLING_QEMU, otherwise qemu-system-x86_64 on PATH");
        Option<string?> control = CommonOptions.Path("--control", "The control socket; otherwise one named after the address, under /run/curling");
        Option<string?> digests = CommonOptions.DiskDigests();
        Option<string?> logFile = CommonOptions.LogFile();
        Option<string> logLevel = CommonOptions.LogLevelOption();
        RootCommand root = new(Description)
        {
            listen, onFailure, onSilence, fence, fenceTimeout, failureTimeout, maxGuests, maxMemory, maxRound, replicas, replicaSync, replaceReplica, digests, thenTarget, thenBandwidth, display, qemu, control, logFile, logLevel,
        };
        ArbiterCommandLine arbiter = new();
        arbiter.AddTo(root);
        FaultCommandLine faults = new();
        faults.AddTo(root);
        root.SetAction((parsed, cancellation) => RunAsync(
            faults.Read(parsed),
            new ReceiverOptions(
                parsed.GetValue(listen),
                parsed.GetValue(onFailure) == "hold" ? FailureAction.Hold : FailureAction.Promote,
                parsed.GetValue(failureTimeout).Time,
                parsed.GetValue(maxGuests),
                parsed.GetValue(maxMemory).Bytes,
                parsed.GetValue(maxRound).Bytes,
                parsed.GetValue(qemu),
                parsed.GetValue(control),
                parsed.GetValue(display))
            {
                OnSilence = parsed.GetValue(onSilence) == "hold" ? FailureAction.Hold : FailureAction.Promote,
                Arbiter = arbiter.Read(parsed),
                FenceCommand = parsed.GetValue(fence),
                FenceTimeout = parsed.GetValue(fenceTimeout).Time,
                ReplicaDirectory = parsed.GetValue(replicas) is { } there ? Path.GetFullPath(there) : ReceiverOptions.DefaultReplicaDirectory(),
                ReplicaSync = parsed.GetValue(replicaSync) == "commit" ? ReplicaSync.Commit : ReplicaSync.None,
                ReplaceReplica = parsed.GetValue(replaceReplica),
                DiskDigests = parsed.GetValue(digests),
                ThenTarget = parsed.GetValue(thenTarget),
                ThenBandwidth = parsed.GetValue(thenBandwidth),
            },
            parsed.GetValue(logFile),
            parsed.GetValue(logLevel)!,
            cancellation));
        root.Subcommands.Add(ControlCommands.Status(
            Kind, "Show the guests and how they are protected", reply => reply.Receiver,
            status => JsonSerializer.Serialize(status, ControlJson.Default.ReceiverStatus), status => StatusText.Format(status, DateTimeOffset.UtcNow)));
        root.Subcommands.Add(PromoteCommand());
        root.Subcommands.Add(ProtectCommand());
        root.Subcommands.Add(GuestCommand(
            "switchover", "Move a guest that was promoted here to the standby that curling-recv protect gave it", ControlCommands.MoveLimit));
        root.Subcommands.Add(GuestCommand(
            "discard", "Give a guest's standby and its committed round up, or a promoted guest itself; it may begin anew then", ControlCommands.CallLimit));
        return root;
    }

    private static async Task<int> RunAsync(
        IReadOnlyList<Fault> faults, ReceiverOptions options, string? logFile, string logLevel, CancellationToken cancellation)
    {
        ReceiverDaemon daemon = await DaemonHost.RunAsync<ReceiverOptions, ReceiverDaemon>(faults, options, logFile, logLevel, cancellation);
        return daemon.Failure is { } failure ? throw failure : 0;
    }

    private static Command PromoteCommand()
    {
        Option<bool> unfenced = new("--without-fence")
        {
            Description = "Do not run the fence command: you have made sure yourself that the primary does not run",
        };
        Option<bool> unarbitrated = new("--without-arbiter")
        {
            Description = "Do not ask the arbiter: you have made sure yourself that the primary does not run",
        };
        Command command = GuestCommand(
            "promote", "Promote a guest's standby: it runs here from its last committed round", ControlCommands.MoveLimit,
            parsed => (parsed.GetValue(unfenced), parsed.GetValue(unarbitrated)) switch
            {
                (true, true) => "promote-unchecked",
                (true, false) => "promote-unfenced",
                (false, true) => "promote-unarbitrated",
                _ => "promote",
            });
        command.Options.Add(unfenced);
        command.Options.Add(unarbitrated);
        return command;
    }

    private static Option<Endpoint?> ThenTarget(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "tcp:HOST:PORT",
        CustomParser = result =>
        {
            if (!Endpoint.TryParse(result.Tokens.Count > 0 ? result.Tokens[^1].Value : "", allowPortZero: false, out Endpoint endpoint, out string error))
            {
                result.AddError($"{name}: {error}");
            }

            return endpoint;
        },
    };

    private static Command ProtectCommand()
    {
        Argument<string> guest = new("GUEST") { Description = "The guest's name" };
        Option<Endpoint> target = CommonOptions.Endpoint("--target", "Where the next standby's curling-recv listens", allowPortZero: false);
        target.Required = true;
        Option<ByteRate> bandwidth = CommonOptions.Rate(
            "--bandwidth", "The most that is sent per second: max, or a rate such as 500MiB/s or 10Gbit/s", ByteRate.Max);
        Option<bool> replace = new("--replace-standby")
        {
            Description = "Also when the standby that the guest has cannot be told: you have typed there: curling-recv discard GUEST",
        };
        Option<string?> control = ControlCommands.ControlOption();
        Command command = new("protect", "Give a guest that was promoted here a standby on another host, or another one; the guest runs on meanwhile")
        {
            guest, target, bandwidth, replace, control,
        };
        command.SetAction((parsed, cancellation) => ControlCommands.CallAsync(
            Kind, parsed.GetValue(control),
            new ControlRequest(parsed.GetValue(replace) ? "protect-replacing" : "protect", parsed.GetValue(guest), parsed.GetValue(target).ToString(), Exact(parsed.GetValue(bandwidth))),
            ControlCommands.CallLimit,
            cancellation));
        return command;
    }

    private static string Exact(ByteRate rate) =>
        rate.IsMax ? "max" : string.Create(System.Globalization.CultureInfo.InvariantCulture, $"{rate.BytesPerSecond}/s");

    private static Command GuestCommand(string name, string description, TimeSpan limit, Func<ParseResult, string>? request = null)
    {
        Argument<string> guest = new("GUEST") { Description = "The guest's name" };
        Option<string?> control = ControlCommands.ControlOption();
        Command command = new(name, description) { guest, control };
        command.SetAction((parsed, cancellation) => ControlCommands.CallAsync(
            Kind, parsed.GetValue(control), new ControlRequest(request?.Invoke(parsed) ?? name, parsed.GetValue(guest)), limit, cancellation));
        return command;
    }
}
