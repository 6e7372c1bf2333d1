using System.Text.Json;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Pages;
using Curling.Protocol;
using Curling.Replication.Sender;
using Curling.Replication.Tests;
using Curling.Simulation.Arbiter;
using Curling.Simulation.Checks;
using Curling.Simulation.Guest;
using Curling.Simulation.Network;

namespace Curling.Simulation.Sender;

/// <summary>Where a guest stands.</summary>
internal enum GuestState
{
    Running = 1,
    Stopped = 2,
    Dead = 3,
}

/// <summary>
/// One run of the sender's daemon and its guest: carries out what the machine says, with the delays and races of the real one. A sender
/// that is started again is another run, with another guest.
/// </summary>
internal sealed partial class SenderHost : IRightEvents
{
    private const int HandshakeMilliseconds = 1_000;
    private static readonly JsonElement Definition = JsonDocument.Parse("""{"name":"guest"}""").RootElement;
    private readonly PairWorld _world;
    private readonly History _history;
    private readonly SimulatedProcess _process;
    private readonly SimulatedGuest _guest;
    private readonly GuestOutput _output;
    private readonly string _name;
    private SenderConnection? _handshake;
    private PageEncoder? _encoder;
    private TimeSpan _heard;
    private TimeSpan _lastTick;
    private TimeSpan _graceUntil;
    private long _qemuStalledUntil;
    private long _tickPlanned = long.MaxValue;

    public SenderHost(PairWorld world, int number)
    {
        _world = world;
        _history = world.History;
        _process = new SimulatedProcess(_history);
        _name = number == 1 ? "sender" : $"sender {number}";
        Number = number;
        Checker = new SenderChecker(world, this);
        _guest = new SimulatedGuest(_history, number);
        _output = new GuestOutput(world, _guest, Checker, () => Keeper?.IsValid != false);
        if (world.Options.Arbiter)
        {
            Guest = GuestState.Stopped;
            Keeper = new SimulatedKeeper(world, _process, SimulatedEtcd.Primary, Id, this);
        }

        SenderSettings settings = new(
            world.Options.Incremental, world.Options.MaxRoundsInFlight, TimeSpan.FromMilliseconds(40), TimeSpan.FromMilliseconds(250))
        {
            OutputAsksForRounds = world.Options.OutputAsksForRounds,
            Arbitrated = world.Options.Arbiter,
        };
        Machine = new SenderMachine(world.Defect.Settings(settings)) { Interval = TimeSpan.FromMilliseconds(world.Options.IntervalMilliseconds) };
        _process.Every(PairOptions.TickMilliseconds, () => IsUp && CheckSilence());
        _process.Every(PairOptions.HeartbeatMilliseconds, () => IsUp && Beat());
    }

    /// <summary>Counts the runs.</summary>
    public int Number { get; }

    /// <summary>What it calls itself in its greeting.</summary>
    public string Id => $"s{Number}";

    public SenderMachine Machine { get; }

    public SenderChecker Checker { get; }

    public SenderConnection? Connection { get; private set; }

    /// <summary>The newest connection, established or not.</summary>
    public Link? Newest { get; private set; }

    /// <summary>The daemon runs; a crash of its host ends it without a word.</summary>
    public bool Alive => !_process.IsGone;

    public SenderEnd? Ended { get; private set; }

    public GuestState Guest { get; private set; } = GuestState.Running;

    private bool IsUp => Alive && Ended is null;

    public void Start()
    {
        if (Keeper is { } keeper)
        {
            _world.Run(StartAsync(keeper));
        }
        else
        {
            Tell(new SenderInput.GuestStarted());
        }
    }

    /// <summary>Something happens beside the connections: the daemon hears of it when it has time.</summary>
    public void Tell(SenderInput input) => _process.In(0, () => Step(input));

    public void Stall(int milliseconds)
    {
        _history.Note(_name, $"the process is stalled for {milliseconds} ms; its guest runs on");
        _process.Stall(milliseconds);
    }

    public void StallQemu(int milliseconds)
    {
        _history.Note(_name, $"QEMU is stalled for {milliseconds} ms");
        _qemuStalledUntil = _history.Milliseconds + milliseconds;
    }

    public void Crash(bool silent)
    {
        if (Alive)
        {
            _history.Note(_name, silent ? "HOST DIES" : "PROCESS DIES");
            _process.End();
            Guest = GuestState.Dead;
            Keeper?.End();
            Leave(silent, torn: true);
        }
    }

    public void QemuEnds(SenderInput how)
    {
        if (IsUp && _isStarted && Guest == GuestState.Running)
        {
            Guest = GuestState.Dead;
            Tell(how);
        }
    }

    /// <summary>Gives back what is not memory.</summary>
    public void Dispose() => _encoder?.Dispose();

    private void Step(SenderInput input)
    {
        if (!IsUp)
        {
            return;
        }

        _output.Pass(GuestRuns);
        IReadOnlyList<SenderOutput> outputs =
            _world.Defect.Out(input, Machine.Step(_world.Defect.In(input), _history.Now));
        if (_history.Records && (outputs.Count > 0 || input is not SenderInput.Tick))
        {
            _history.Note(_name, $"{Words.Of(input),-22} -> {string.Join(", ", outputs.Select(Words.Of))}");
        }

        Checker.Step(input, outputs);
        foreach (SenderOutput output in outputs)
        {
            _output.Carry(output);
            Carry(output);
        }

        SenderChecker.After(input, Guest);
        if (input is SenderInput.Captured && _output.WantsRound)
        {
            Tell(SenderInput.OutputWaits.Instance);
        }

        PlanTick();
    }

    private void Carry(SenderOutput output)
    {
        switch (output)
        {
            case SenderOutput.Connect:
                Connect();
                break;
            case SenderOutput.CloseLink:
                // A sender that lives and only wants another connection must not look like one that died.
                Connection?.Writer.Send(FrameType.Refusal, (ushort)RefusalCode.Protocol, "given up");
                Connection?.Close();
                Connection = null;
                break;
            case SenderOutput.CaptureRound capture:
                Capture(capture.Begin, capture.Final, Connection);
                break;
            case SenderOutput.ResumeGuest when Guest == GuestState.Stopped:
                Guest = GuestState.Running;
                break;
            case SenderOutput.RunGuest:
                Allow();
                break;
            case SenderOutput.ReleaseRight:
                _releasing = _world.Watched(ReleaseRightAsync(_releasing));
                break;
            case SenderOutput.WantRight:
                _releasing = _world.Watched(WantRightAsync(_releasing));
                break;
            case SenderOutput.SayGoodbye goodbye:
                (Connection ?? _handshake)?.Writer.Send(FrameType.Goodbye, (ushort)goodbye.Reason, "bye");
                break;
            case SenderOutput.End end:
                Ended = end.How;
                Guest = GuestState.Dead;
                Leave(silent: false, torn: false);
                EndRight();
                break;
        }
    }

    private void Leave(bool silent, bool torn)
    {
        foreach (SenderConnection? connection in (SenderConnection?[])[Connection, _handshake])
        {
            if (silent)
            {
                connection?.Link.Cut(tellSender: false, tellReceiver: false);
            }
            else
            {
                connection?.Close(torn);
            }
        }

        Connection = null;
        _handshake = null;
    }

    private void Connect()
    {
        Link link = _world.Connect();
        Newest = link;
        SenderConnection connection = new(this, link);
        _handshake = connection;
        link.ToSender.Readable = () => _process.In(0, connection.Read);
        connection.Writer.Send(FrameType.Hello, Handshake.Write(new Hello(
            Id, Keeper?.Generation ?? 1, Definition, "pc-q35-7.2", "tcg", "7.2.22", [Handshake.Full, Handshake.Incremental], [],
            _world.Options.Incremental ? [new HelloBlock("pc.ram", SimulatedGuest.MemoryBytes)] : [])));
        _process.In(HandshakeMilliseconds, () =>
        {
            if (_handshake == connection)
            {
                GiveUp(connection);
            }
        });
    }

    /// <summary>A frame came in.</summary>
    public void Hear(SenderConnection connection, FrameHeader header, ReadOnlySpan<byte> payload)
    {
        bool greets = connection == _handshake;
        if (!greets && connection != Connection)
        {
            return;
        }

        _heard = _history.Now;
        switch (header.Type)
        {
            case FrameType.Heartbeat:
                Heartbeat.Read(payload);
                break;
            case FrameType.Refusal:
                _handshake = greets ? null : _handshake;
                RefusalCode code = (RefusalCode)CodedText.Read(header.Type, payload).Code;
                Step(new SenderInput.Refused(code, "refused"));
                if (greets)
                {
                    connection.Close();
                }

                break;
            case FrameType.Welcome when greets:
                Handshake.ReadWelcome(payload, 0);
                break;
            case FrameType.Ready when greets:
                _handshake = null;
                Connection = connection;
                _encoder?.Dispose();
                _encoder = new PageEncoder(SimulatedGuest.MemoryBytes);
                Step(new SenderInput.Ready());
                break;
            case FrameType.Vouch when !greets:
                VouchMessage vouch = VouchMessage.Read(header.Type, payload);
                Keeper?.Vouched(vouch.Sequence, TimeSpan.FromMilliseconds(vouch.Milliseconds));
                break;
            case FrameType.Complete when !greets:
                Step(new SenderInput.Completed(RoundNumber.Read(header.Type, payload)));
                break;
            case FrameType.Committed when !greets:
                Step(new SenderInput.Committed(RoundNumber.Read(header.Type, payload)));
                break;
            case FrameType.Promoted when !greets:
                Step(new SenderInput.Promoted(RoundNumber.Read(header.Type, payload)));
                break;
            case FrameType.Goodbye when !greets:
                Step(new SenderInput.ReceiverLeft(CodedText.Read(header.Type, payload).Text));
                break;
            default:
                throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame has no place here");
        }
    }

    /// <summary>A connection has ended, or its bytes make no sense.</summary>
    public void Lose(SenderConnection connection, string reason)
    {
        if (connection == _handshake)
        {
            GiveUp(connection);
        }
        else if (connection == Connection)
        {
            Step(new SenderInput.LinkLost(reason));
        }
    }

    private void GiveUp(SenderConnection connection)
    {
        _handshake = null;
        connection.Close();
        Step(new SenderInput.LinkLost("no connection"));
    }

    private bool CheckSilence()
    {
        // Our own lateness is not the peer's silence.
        bool heldUp = (_history.Now - _lastTick).TotalMilliseconds > PairOptions.LatenessMilliseconds;
        if (heldUp)
        {
            _graceUntil = _history.Now + TimeSpan.FromMilliseconds(PairOptions.FailureTimeoutMilliseconds / 2.0);
        }

        _lastTick = _history.Now;
        if (Connection is { } connection && (_history.Now > _graceUntil || _world.Defect.HasNoGrace)
            && (_history.Now - _heard).TotalMilliseconds > PairOptions.FailureTimeoutMilliseconds)
        {
            bool cameInTime = connection.Link.ToSender.HasUnreadFromBefore(
                _heard.TotalMilliseconds + PairOptions.FailureTimeoutMilliseconds);
            Rules.Check(!(heldUp && cameInTime), Rules.Lateness, "the sender calls its receiver silent, and has not read what came from it");
            Step(new SenderInput.LinkLost("silence"));
        }

        return true;
    }

    private bool Beat()
    {
        Connection?.Writer.Send(FrameType.Heartbeat, new byte[Heartbeat.Bytes]);
        if (_output.WantsRound)
        {
            Step(_history.Chance(20) ? SenderInput.OutputFull.Instance : SenderInput.OutputWaits.Instance);
        }

        return true;
    }

    private void PlanTick()
    {
        if (Machine.NextTick is not { } at || (long)at.TotalMilliseconds == _tickPlanned)
        {
            return;
        }

        long planned = (long)at.TotalMilliseconds;
        _tickPlanned = planned;
        _process.In(planned - _history.Milliseconds, () =>
        {
            if (_tickPlanned == planned)
            {
                _tickPlanned = long.MaxValue;
                Step(SenderInput.Tick.Instance);
            }
        });
    }
}
