using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Control;
using Curling.Hosting.Instances;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Processes;
using Curling.Recv.Rounds;
using Curling.Recv.Sessions;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Curling.Recv;

/// <summary>
/// The receiver: listens for senders, keeps one session for each guest, and answers on the control socket.
/// </summary>
/// <remarks>Thread-safe. It runs until it is stopped; its guests, also promoted ones, end with it.</remarks>
internal sealed partial class ReceiverDaemon : BackgroundService
{
    private readonly ReceiverOptions _options;
    private readonly TimeProvider _time;
    private readonly ILogger<ReceiverDaemon> _log;
    private readonly IHostApplicationLifetime? _lifetime;
    private static readonly TimeSpan TellTooManyAgain = TimeSpan.FromSeconds(10);
    private readonly ConcurrentDictionary<string, GuestSession> _sessions = new();
    private readonly Generations _generations;
    private readonly SemaphoreSlim _admission = new(1, 1);
    private readonly TaskCompletionSource<Endpoint> _listening = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Dictionary<string, long> _lastTold = [];
    private readonly List<FrameConnection> _silent = [];
    private readonly HashSet<FrameConnection> _greeted = [];
    private long _toldTooMany = long.MinValue / 2;

    /// <summary>Creates the daemon; it starts with the host.</summary>
    public ReceiverDaemon(ReceiverOptions options, TimeProvider time, ILogger<ReceiverDaemon> log, IHostApplicationLifetime? lifetime = null)
    {
        _options = options;
        _generations = new Generations(options.Listen);
        _time = time;
        _log = log;
        _lifetime = lifetime;
    }

    /// <summary>Completes with the address listened on.</summary>
    public Task<Endpoint> Listening => _listening.Task;

    /// <summary>Starts standbys; tests put a faster one in its place.</summary>
    internal StandbyStarter StartStandby { get; init; } = StandbyGuest.StartAsync;

    /// <summary>What ended the daemon, where it was not asked to.</summary>
    public OperatorException? Failure { get; private set; }

    /// <summary>The sessions, for tests.</summary>
    internal IReadOnlyCollection<GuestSession> Sessions => [.. _sessions.Values];

    /// <summary>What status shows.</summary>
    public ReceiverStatus Status() => new(
        _listening.Task.IsCompletedSuccessfully ? _listening.Task.Result.ToString() : _options.Listen.ToString(),
        [.. _sessions.Values.OrderBy(s => s.Guest.Name, StringComparer.Ordinal).Select(s => s.Status())])
    {
        Process = ProcessStatus.Current(),
    };

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            await RunAsync(stoppingToken);
        }
        catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
        {
            // Asked to stop.
        }
        catch (Exception e) when (e is OperatorException or QemuException)
        {
            Failure = e as OperatorException ?? new OperatorException(e.Message);
            _listening.TrySetException(Failure);
            _lifetime?.StopApplication();
        }
    }

    private async Task RunAsync(CancellationToken cancellation)
    {
        int removed = InstanceDirectory.RemoveAbandoned();
        if (removed > 0)
        {
            Log.RemovedAbandoned(_log, removed);
        }

        using EtcdArbiter? arbiter = _options.Arbiter is { } decides ? new EtcdArbiter(decides) : null;
        string binary = QemuBinary.Find(_options.Qemu);
        using InstanceDirectory directory = InstanceDirectory.Create("recv");
        MemoryPlace.Report(_log);
        QemuFacts facts = await QemuBinary.ProbeAsync(binary, directory.RuntimePath, cancellation);
        using Socket listener = await ListenAsync(cancellation);
        Endpoint listening = _options.Listen with { Port = ((IPEndPoint)listener.LocalEndPoint!).Port };
        await using ControlServer control = ControlServer.Start(
            _options.Control ?? ControlPaths.For("recv", $"{listening.Host}-{listening.Port}"), AnswerAsync);
        Admission admission = new(
            _options, binary, facts, new BootFileStore(directory.MemoryPath, ProtocolLimits.MaxBootFileBytes), _sessions, StartStandby, _generations,
            arbiter, _time, _log);
        await admission.RestoreSessionsAsync();
        Log.Listening(_log, listening.ToString(), facts.Version, QemuBinary.KvmUsable() ? "kvm" : "tcg", control.SocketPath);
        _listening.TrySetResult(listening);
        Task telling = TellAsync(cancellation);
        List<Task> handshakes = [];
        try
        {
            while (true)
            {
                Socket socket = await listener.AcceptAsync(cancellation);
                handshakes.RemoveAll(t => t.IsCompleted);
                handshakes.Add(WelcomeAsync(socket, admission, cancellation));
            }
        }
        finally
        {
            listener.Close();
            await Task.WhenAll(handshakes).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await telling.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await StopSessionsAsync();
        }
    }

    private async Task<Socket> ListenAsync(CancellationToken cancellation)
    {
        Endpoint endpoint = _options.Listen;
        try
        {
            IPAddress address = (await Dns.GetHostAddressesAsync(endpoint.Host, cancellation)).First();
            Socket socket = new(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            socket.Bind(new IPEndPoint(address, endpoint.Port));
            socket.Listen(64);
            return socket;
        }
        catch (SocketException e)
        {
            string advice = e.SocketErrorCode switch
            {
                SocketError.AddressAlreadyInUse => "the port is in use; stop what uses it or give another with --listen",
                SocketError.AddressNotAvailable => "this host does not have that address; give one of its own with --listen",
                SocketError.AccessDenied => "this user may not listen on that port; give one above 1023 with --listen",
                _ => $"{e.Message}; give another address with --listen",
            };
            throw new OperatorException($"cannot listen on {endpoint}: {advice}");
        }
    }

    private async Task WelcomeAsync(Socket socket, Admission admission, CancellationToken cancellation)
    {
        string peer = socket.RemoteEndPoint is IPEndPoint remote ? new Endpoint(remote.Address.ToString(), remote.Port).ToString() : "?";
        FrameConnection connection = new(socket, 0, _time);
        if (MakeRoom(connection) is { } silent)
        {
            await silent.DisposeAsync();
        }

        try
        {
            await admission.AdmitAsync(connection, peer, _admission, () => Greeted(connection), cancellation);
        }
        catch (OperationCanceledException)
        {
            await connection.DisposeAsync();
        }
        catch (Exception e)
        {
            // Nobody else looks at what became of a greeting.
            Log.HandshakeFailed(_log, peer, e);
            await connection.DisposeAsync();
        }
        finally
        {
            lock (_silent)
            {
                _silent.Remove(connection);
                _greeted.Remove(connection);
            }
        }
    }

    /// <summary>Whoever connects and says nothing must not keep a sender out: the one that has been silent longest goes.</summary>
    private FrameConnection? MakeRoom(FrameConnection connection)
    {
        lock (_silent)
        {
            _silent.Add(connection);
            if (_silent.Count <= Admission.MaxHandshakes)
            {
                return null;
            }

            if (_time.GetElapsedTime(_toldTooMany) > TellTooManyAgain)
            {
                _toldTooMany = _time.GetTimestamp();
                Log.TooMany(_log, Admission.MaxHandshakes);
            }

            FrameConnection oldest = _silent[0];
            _silent.RemoveAt(0);
            return oldest;
        }
    }

    private bool Greeted(FrameConnection connection)
    {
        lock (_silent)
        {
            _silent.Remove(connection);
            return _greeted.Count < Admission.MaxHandshakes && _greeted.Add(connection);
        }
    }

    private async Task StopSessionsAsync()
    {
        foreach (GuestSession session in _sessions.Values)
        {
            if (session.State == ReceiverState.Promoted)
            {
                Log.PromotedEnds(_log, session.Guest.Name);
            }
            else if (session is { State: ReceiverState.Protected, IsHeld: false })
            {
                Log.ProtectionEnds(_log, session.Guest.Name);
            }

            session.SayGoodbye();
            bool keep = session.IsWorthKeeping;
            if (keep)
            {
                Log.Kept(_log, session.Guest.Name, session.CommittedRound, _options.Listen.ToString());
            }

            await session.EndAsync(keep);
        }

        _sessions.Clear();
        Log.Stopped(_log);
    }

    private async Task<ControlReply> AnswerAsync(ControlRequest request, CancellationToken cancellation)
    {
        switch (request.Command)
        {
            case "status":
                return new ControlReply(true) { Receiver = Status() };
            case "promote" or "promote-unfenced" or "promote-unarbitrated" or "promote-unchecked" or "discard" or "protect" or "protect-replacing" or "switchover":
                if (request.Guest is null || !_sessions.TryGetValue(request.Guest, out GuestSession? session))
                {
                    if (request is { Command: "discard", Guest: { } forgotten } && _generations.Forget(forgotten))
                    {
                        return ControlReply.Success($"that {forgotten} ever ran is forgotten");
                    }

                    string known = string.Join(", ", _sessions.Keys.Order());
                    return ControlReply.Failed(
                        $"there is no guest {request.Guest} here; known: {(known.Length > 0 ? known : "none")}");
                }

                return await AnswerAsync(request, session, cancellation);
            default:
                return ControlReply.Failed($"a receiver does not know the command {request.Command}");
        }
    }

    private async Task<ControlReply> AnswerAsync(ControlRequest request, GuestSession session, CancellationToken cancellation)
    {
        switch (request.Command)
        {
            case "discard":
                session.Discard("discarded by the operator");
                _generations.Forget(session.Guest.Name);
                return ControlReply.Success($"{session.Guest.Name} is discarded");
            case "protect" or "protect-replacing":
                ByteRate bandwidth = ByteRate.Max;
                if (!Endpoint.TryParse(request.Target ?? "", allowPortZero: false, out Endpoint target, out string error)
                    || (request.Bandwidth is { } rate && !ByteRate.TryParse(rate, out bandwidth, out error)))
                {
                    return ControlReply.Failed(error);
                }

                return ControlReply.Success(await session.ProtectAsync(
                    target, bandwidth, replace: request.Command == "protect-replacing", cancellation));
            case "switchover":
                return await session.SwitchoverAsync(cancellation);
            default:
                return ControlReply.Success(await session.PromoteAsync(
                    fence: request.Command is "promote" or "promote-unarbitrated",
                    arbiter: request.Command is "promote" or "promote-unfenced",
                    cancellation));
        }
    }

    /// <summary>One line per second and guest while rounds run.</summary>
    private async Task TellAsync(CancellationToken cancellation)
    {
        using PeriodicTimer timer = new(TimeSpan.FromSeconds(1), _time);
        while (await timer.WaitForNextTickAsync(cancellation))
        {
            foreach (GuestSession session in _sessions.Values)
            {
                SessionStatus status = session.Status();
                long last = _lastTold.GetValueOrDefault(status.Guest);
                _lastTold[status.Guest] = status.CommittedRound;
                if (status.Base is { } progress)
                {
                    Log.Progress(
                        _log, status.Guest, progress.Percent, Linux.Memory.ByteSize.Format(progress.BytesPerSecond), progress.SecondsLeft ?? 0);
                }
                else if (status.State == "protected" && status.LastRound is { } round && status.CommittedRound != last)
                {
                    Log.Rounds(
                        _log, status.Guest, status.CommittedRound, Math.Max(0, status.CommittedRound - last), round.Kind,
                        Linux.Memory.ByteSize.Format(round.Bytes), StatusText.Micros(round.PauseMicroseconds));
                }
            }
        }
    }

    internal static partial class Log
    {
        [LoggerMessage(EventName = "Listening", Level = LogLevel.Information,
            Message = "Listening on {Endpoint} (QEMU {Version}, {Accelerator}); status: curling-recv status --control {Control}")]
        public static partial void Listening(ILogger log, string endpoint, Version version, string accelerator, string control);

        [LoggerMessage(EventName = "RoundsCommitted", Level = LogLevel.Information,
            Message = "{Guest}: protected at round {Round}, {Rounds} rounds/s; last {Kind} {Bytes}, guest paused {Pause}")]
        public static partial void Rounds(ILogger log, string guest, long round, long rounds, string kind, string bytes, string pause);

        [LoggerMessage(EventName = "BaseProgress", Level = LogLevel.Information,
            Message = "{Guest}: first round {Percent:0} % here, {Rate}/s, {SecondsLeft:0} s left")]
        public static partial void Progress(ILogger log, string guest, double percent, string rate, double secondsLeft);

        [LoggerMessage(EventName = "RemovedAbandoned", Level = LogLevel.Information,
            Message = "Removed {Count} directories and sockets that dead daemons left behind")]
        public static partial void RemovedAbandoned(ILogger log, int count);

        [LoggerMessage(EventName = "TooManyHandshakes", Level = LogLevel.Warning,
            Message = "More than {Count} connections are open and say nothing; the oldest are closed. If they are not senders, close this port to them")]
        public static partial void TooMany(ILogger log, int count);

        [LoggerMessage(EventName = "HandshakeFailed", Level = LogLevel.Error,
            Message = "{Peer} could not be let in, for a reason that was not foreseen; it will try again. Please report it")]
        public static partial void HandshakeFailed(ILogger log, string peer, Exception exception);

        [LoggerMessage(EventName = "HandshakeRefused", Level = LogLevel.Warning,
            Message = "{Peer} is refused: {Reason}")]
        public static partial void HandshakeRefused(ILogger log, string peer, string reason);

        [LoggerMessage(EventName = "PromotedGuestEnds", Level = LogLevel.Warning,
            Message = "{Guest}: the receiver stops, and the guest that was promoted here ends with it")]
        public static partial void PromotedEnds(ILogger log, string guest);

        [LoggerMessage(EventName = "ProtectionEnds", Level = LogLevel.Warning,
            Message = "{Guest}: the receiver stops; the guest runs on at its sender, unprotected until a receiver is back")]
        public static partial void ProtectionEnds(ILogger log, string guest);

        [LoggerMessage(EventName = "SessionKept", Level = LogLevel.Information,
            Message = "{Guest}: round {Round} is kept; a receiver started with --listen {Listen} takes it up")]
        public static partial void Kept(ILogger log, string guest, long round, string listen);

        [LoggerMessage(EventName = "Stopped", Level = LogLevel.Information, Message = "Stopped")]
        public static partial void Stopped(ILogger log);
    }
}
