using Curling.Protocol;
using Curling.Replication.Sender;
using Curling.Replication.Tests;

namespace Curling.Simulation;

/// <summary>Where a guest stands.</summary>
internal enum GuestState
{
    Running = 1,
    Stopped = 2,
    Dead = 3,
}

/// <summary>The sender's daemon in the model: carries out what the machine says, with the delays and races of the real one.</summary>
internal sealed class SenderHost
{
    private readonly PairWorld _world;
    private readonly History _simulation;
    private readonly GuestOutput _output;
    private Link? _handshake;
    private TimeSpan _heard;
    private long _tickPlanned = long.MaxValue;

    public SenderHost(PairWorld world)
    {
        _world = world;
        _simulation = world.Simulation;
        _output = new GuestOutput(world);
        SenderSettings settings = new(
            world.Options.Incremental, world.Options.MaxRoundsInFlight, TimeSpan.FromMilliseconds(40), TimeSpan.FromMilliseconds(250));
        Machine = new SenderMachine(world.Defect.Settings(settings));
        Every(PairOptions.TickMilliseconds, CheckSilence);
        Every(PairOptions.HeartbeatMilliseconds, () => Link?.ToReceiver(Message.Heartbeat.Instance));
    }

    public SenderMachine Machine { get; }

    public Link? Link { get; private set; }

    /// <summary>The newest connection, established or not.</summary>
    public Link? Newest { get; private set; }

    /// <summary>The daemon runs; a crash of its host ends it without a word.</summary>
    public bool Alive { get; private set; } = true;

    public SenderEnd? Ended { get; private set; }

    public GuestState Guest { get; private set; } = GuestState.Running;

    /// <summary>Frames of the guest that left.</summary>
    public long FramesLeft => _output.Left;

    public void Start() => Step(new SenderInput.GuestStarted());

    public void Crash(bool silent)
    {
        _simulation.Note("sender", silent ? "HOST DIES" : "PROCESS DIES");
        Alive = false;
        Guest = GuestState.Dead;
        Leave(silent);
    }

    public void QemuEnds(SenderInput how)
    {
        if (Alive && Guest == GuestState.Running)
        {
            Guest = GuestState.Dead;
            Step(how);
        }
    }

    public void Step(SenderInput input)
    {
        if (!Alive || Ended is not null)
        {
            return;
        }

        _output.Pass(Guest == GuestState.Running);
        IReadOnlyList<SenderOutput> outputs =
            _world.Defect.Out(input, Machine.Step(_world.Defect.In(input), _simulation.Now));
        if (_simulation.Records && (outputs.Count > 0 || input is not SenderInput.Tick))
        {
            _simulation.Note("sender", $"{Words.Of(input),-22} -> {string.Join(", ", outputs.Select(Words.Of))}");
        }

        _world.Checker.Sender(input, outputs);
        foreach (SenderOutput output in outputs)
        {
            _output.Carry(output);
            Carry(output);
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
                Link?.ToReceiver(Message.Closed.Instance);
                Link = null;
                break;
            case SenderOutput.CaptureRound capture:
                Capture(capture.Begin, capture.Final, Link);
                break;
            case SenderOutput.ResumeGuest when Guest == GuestState.Stopped:
                Guest = GuestState.Running;
                break;
            case SenderOutput.SayGoodbye goodbye:
                (Link ?? _handshake)?.ToReceiver(new Message.Goodbye(goodbye.Reason));
                break;
            case SenderOutput.End end:
                Ended = end.How;
                Guest = GuestState.Dead;
                Leave(silent: false);
                break;
        }
    }

    private void Leave(bool silent)
    {
        foreach (Link? link in (Link?[])[Link, _handshake])
        {
            if (silent)
            {
                link?.Cut(tellSender: false, tellReceiver: false);
            }
            else
            {
                link?.ToReceiver(Message.Closed.Instance);
            }
        }

        Link = null;
        _handshake = null;
    }

    private void Connect()
    {
        Link link = _world.Connect();
        Newest = link;
        _handshake = link;
        link.Sender = message => Hear(link, message);
        link.ToReceiver(new Message.Hello());
        _simulation.In(1_000, () =>
        {
            if (_handshake == link)
            {
                Hear(link, Message.Closed.Instance);
            }
        });
    }

    private void Hear(Link link, Message message)
    {
        if (link == _handshake)
        {
            HearHandshake(link, message);
        }
        else if (link == Link)
        {
            _heard = _simulation.Now;
            switch (message)
            {
                case Message.Complete complete:
                    Step(new SenderInput.Completed(complete.Round));
                    break;
                case Message.Committed committed:
                    Step(new SenderInput.Committed(committed.Round));
                    break;
                case Message.Promoted promoted:
                    Step(new SenderInput.Promoted(promoted.Round));
                    break;
                case Message.Refusal refusal:
                    Step(new SenderInput.Refused(refusal.Code, "refused"));
                    break;
                case Message.Closed:
                    Step(new SenderInput.LinkLost("closed"));
                    break;
            }
        }
    }

    private void HearHandshake(Link link, Message message)
    {
        switch (message)
        {
            case Message.Ready:
                _handshake = null;
                Link = link;
                _heard = _simulation.Now;
                Step(new SenderInput.Ready());
                break;
            case Message.Refusal refusal:
                _handshake = null;
                Step(new SenderInput.Refused(refusal.Code, "refused"));
                break;
            case Message.Heartbeat:
                break;
            default:
                // Nobody there, closed, or a frame that has no place in a handshake.
                _handshake = null;
                link.ToReceiver(Message.Closed.Instance);
                Step(new SenderInput.LinkLost("closed"));
                break;
        }
    }

    private void Capture(RoundBegin begin, bool final, Link? link)
    {
        link?.ToReceiver(new Message.Begin(begin));
        _simulation.In(_simulation.Between(1, begin.Kind == RoundKind.Incremental ? 12 : 40), () => Cut(begin, final, link));
    }

    private void Cut(RoundBegin begin, bool final, Link? link)
    {
        if (!Alive || Ended is not null || Guest == GuestState.Dead)
        {
            return;
        }

        bool fails = _simulation.Chance(_world.Options.FailingCaptures) && _world.Faulty;
        if (fails || link is null || (link != Link && _simulation.Chance(60)))
        {
            // A last round that fails may leave the guest stopped: the machine has to say that it goes on.
            Guest = final ? GuestState.Stopped : Guest;
            _simulation.In(_simulation.Between(0, 3), () => Step(new SenderInput.CaptureFailed(begin.Round, "failed")));
            return;
        }

        Guest = final ? GuestState.Stopped : Guest;
        _output.Cut(begin.Round, link == Link);
        link.ToReceiver(new Message.End(new RoundEnd(begin.Round, final, 0, default, default)));

        // The end of the round is on the wire; the report of the capture may be late.
        _simulation.In(_simulation.Chance(8) ? _simulation.Between(20, 120) : _simulation.Between(0, 3),
            () => Step(new SenderInput.Captured(begin.Round)));
    }

    private void CheckSilence()
    {
        if (Link is not null && (_simulation.Now - _heard).TotalMilliseconds > PairOptions.FailureTimeoutMilliseconds)
        {
            Step(new SenderInput.LinkLost("silence"));
        }
    }

    private void PlanTick()
    {
        if (Machine.NextTick is not { } at || (long)at.TotalMilliseconds == _tickPlanned)
        {
            return;
        }

        long planned = (long)at.TotalMilliseconds;
        _tickPlanned = planned;
        _simulation.In(planned - _simulation.Milliseconds, () =>
        {
            if (_tickPlanned == planned)
            {
                _tickPlanned = long.MaxValue;
                Step(SenderInput.Tick.Instance);
            }
        });
    }

    private void Every(int milliseconds, Action action) => _simulation.In(milliseconds, () =>
    {
        if (Alive && Ended is null)
        {
            action();
            Every(milliseconds, action);
        }
    });
}
