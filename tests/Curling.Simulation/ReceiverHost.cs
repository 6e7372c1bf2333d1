using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Replication.Tests;

namespace Curling.Simulation;

/// <summary>A guest's session on the receiver in the model.</summary>
internal sealed class Session(ReceiverMachine machine, int number)
{
    public ReceiverMachine Machine { get; } = machine;

    public string Name { get; } = number == 1 ? "receiver" : $"recv. {number}";

    public Link? Link { get; set; }

    public TimeSpan Heard { get; set; }

    /// <summary>Its process is gone: what was planned for it does not happen.</summary>
    public bool Gone { get; set; }

    public bool GuestRuns { get; set; }

    // What the checker knows of it.
    public List<RoundEnd> Whole { get; } = [];

    public int Commits { get; set; }

    public bool Committing { get; set; }

    public RoundBegin? Open { get; set; }

    public bool NormalGoodbye { get; set; }

    public bool PromotionAsked { get; set; }

    public bool FenceFailed { get; set; }

    /// <summary>The round that it was started at, left by a process before it; 0 for none.</summary>
    public long RestoredRound { get; init; }

    /// <summary>It runs from a round of an earlier process, because the operator said so.</summary>
    public bool OperatorsRisk { get; set; }

    public long PromotedFrom { get; set; }
}

/// <summary>The receiver's daemon in the model: admits senders and carries out what the machine says.</summary>
internal sealed class ReceiverHost(PairWorld world)
{
    private readonly History _simulation = world.Simulation;
    private int _sessions;

    // What the files of a dead process say: the round that stands, one that is being committed included.
    private long _left;

    public bool Alive { get; private set; } = true;

    public Session? Current { get; private set; }

    public void Crash(bool silent)
    {
        _simulation.Note("receiver", silent ? "HOST DIES" : "PROCESS DIES");
        Alive = false;
        _left = 0;
        if (Current is { } session)
        {
            if (!silent && session.Machine.State == ReceiverState.Protected)
            {
                bool decided = session.Committing && _simulation.Chance(50);
                _left = decided ? session.Whole[session.Commits].Round : session.Machine.CommittedRound;
            }

            session.Gone = true;
            session.GuestRuns = false;
            if (silent)
            {
                session.Link?.Cut(tellSender: false, tellReceiver: false);
            }
            else
            {
                session.Link?.ToSender(Message.Closed.Instance);
            }
        }

        Current = null;
    }

    public void Restart()
    {
        if (!Alive)
        {
            _simulation.Note("receiver", "starts again");
            Alive = true;
            if (_left > 0)
            {
                _simulation.Note("receiver", $"finds round {_left}");
                Make(_left);
                _left = 0;
            }
        }
    }

    public void Accept(Link link)
    {
        Session? attached = null;
        List<Message> early = [];
        link.Receiver = message =>
        {
            if (attached is { } session)
            {
                Hear(session, link, message);
            }
            else if (message is Message.Hello)
            {
                Admit(link, s =>
                {
                    attached = s;
                    early.ForEach(m => Hear(s, link, m));
                });
            }
            else
            {
                early.Add(message);
            }
        };
    }

    public void Step(Session session, ReceiverInput input)
    {
        if (session.Gone || !Alive)
        {
            return;
        }

        IReadOnlyList<ReceiverOutput> outputs = world.Defect.Out(
            session.Machine, input, session.Machine.Step(world.Defect.In(input), _simulation.Now));
        if (_simulation.Records && (outputs.Count > 0 || input is not ReceiverInput.Tick))
        {
            _simulation.Note(session.Name, $"{Words.Of(input),-22} -> {string.Join(", ", outputs.Select(Words.Of))}");
        }

        world.Checker.Receiver(session, input, outputs);
        foreach (ReceiverOutput output in outputs)
        {
            Carry(session, output);
        }
    }

    private void Admit(Link link, Action<Session> attach)
    {
        if (!Alive)
        {
            link.ToSender(Message.Closed.Instance);
            return;
        }

        if (world.Faulty && _simulation.Chance(world.Options.RefusedHellos))
        {
            world.GuestMayEnd = true;
            Refuse(link, _simulation.Pick(RefusalCode.Definition, RefusalCode.Limit, RefusalCode.Taken, RefusalCode.Host, RefusalCode.Protocol));
            return;
        }

        if (Current is { Machine: { State: ReceiverState.Promoting or ReceiverState.Promoted, IsFencing: false } })
        {
            Refuse(link, RefusalCode.Superseded);
            return;
        }

        if (Current is null || Current.Machine.IsOver)
        {
            Make();
        }

        // Between the admission and the machine's turn things may happen.
        Session session = Current!;
        _simulation.In(_simulation.Between(0, 8), () =>
        {
            if (session.Gone || !Alive || session.Machine.IsOver)
            {
                link.ToSender(Message.Closed.Instance);
                return;
            }

            session.Link?.ToSender(Message.Closed.Instance);
            session.Link = link;
            session.Heard = _simulation.Now;
            Step(session, new ReceiverInput.LinkUp());
            attach(session);
        });
    }

    private void Refuse(Link link, RefusalCode code)
    {
        _simulation.Note("receiver", $"refuses a greeting: {code}");
        link.ToSender(new Message.Refusal(code));
        link.ToSender(Message.Closed.Instance);
    }

    private void Make(long restoredRound = 0)
    {
        ReceiverSettings settings = new(
            world.Options.OnFailure, TimeSpan.FromMilliseconds(PairOptions.FailureTimeoutMilliseconds))
        {
            Fences = world.Options.Fences,
        };
        Session session = new(
            restoredRound > 0 ? new ReceiverMachine(settings, restoredRound) : new ReceiverMachine(settings), ++_sessions)
        {
            RestoredRound = restoredRound,
        };
        Current = session;
        Every(session, PairOptions.TickMilliseconds, () => Step(
            session, new ReceiverInput.Tick(session.Link is null ? _simulation.Now : session.Heard)));
        Every(session, PairOptions.HeartbeatMilliseconds, () => session.Link?.ToSender(Message.Heartbeat.Instance));
        bool fails = StandbyFails();
        _simulation.In(_simulation.Between(0, 50), () => Step(
            session, fails ? new ReceiverInput.StandbyFailed("failed") : new ReceiverInput.StandbyReady()));
    }

    private void Hear(Session session, Link link, Message message)
    {
        if (session.Link != link || session.Gone)
        {
            return;
        }

        session.Heard = _simulation.Now;
        switch (message)
        {
            case Message.Begin begin:
                Step(session, new ReceiverInput.RoundBegan(begin.Round));
                break;
            case Message.End when world.Faulty && _simulation.Chance(world.Options.DamagedRounds):
                Step(session, new ReceiverInput.Damaged(RefusalCode.Round, "the digest does not match"));
                break;
            case Message.End end:
                Step(session, new ReceiverInput.RoundWhole(end.Round));
                break;
            case Message.Goodbye goodbye:
                Step(session, new ReceiverInput.PeerGoodbye(goodbye.Reason, "bye"));
                break;
            case Message.Closed:
                Step(session, new ReceiverInput.LinkLost("closed"));
                break;
        }
    }

    private void Carry(Session session, ReceiverOutput output)
    {
        switch (output)
        {
            case ReceiverOutput.SendReady:
                session.Link?.ToSender(new Message.Ready());
                break;
            case ReceiverOutput.SendComplete complete:
                session.Link?.ToSender(new Message.Complete(complete.Round));
                break;
            case ReceiverOutput.SendCommitted committed:
                session.Link?.ToSender(new Message.Committed(committed.Round));
                break;
            case ReceiverOutput.SendPromoted promoted:
                session.Link?.ToSender(new Message.Promoted(promoted.Round));
                break;
            case ReceiverOutput.Refuse refuse:
                session.Link?.ToSender(new Message.Refusal(refuse.Code));
                CloseLink(session);
                break;
            case ReceiverOutput.CloseLink:
                CloseLink(session);
                break;
            case ReceiverOutput.Commit commit:
                bool commitFails = StandbyFails();
                _simulation.In(_simulation.Chance(10) ? _simulation.Between(30, 250) : _simulation.Between(0, 12), () => Step(
                    session, commitFails ? new ReceiverInput.CommitFailed(commit.Round, "failed") : new ReceiverInput.CommitDone(commit.Round)));
                break;
            case ReceiverOutput.Promote promote:
                bool promotionFails = StandbyFails();
                if (promote.Fence)
                {
                    bool fenceFails = _simulation.Chance(30);
                    _simulation.In(_simulation.Between(0, 400), () => Fenced(session, fenceFails, promotionFails));
                }
                else
                {
                    _simulation.In(_simulation.Between(0, 30), () => Promoted(session, promotionFails));
                }

                break;
            case ReceiverOutput.Release:
                session.GuestRuns = false;
                break;
        }
    }

    private void Fenced(Session session, bool fails, bool promotionFails)
    {
        if (session.Gone || session.Machine.State != ReceiverState.Promoting)
        {
            return;
        }

        if (fails)
        {
            session.PromotedFrom = 0;
            session.FenceFailed = true;
            Step(session, new ReceiverInput.FenceFailed("failed"));
            return;
        }

        Step(session, new ReceiverInput.Fenced());
        _simulation.In(_simulation.Between(0, 30), () => Promoted(session, promotionFails));
    }

    private void Promoted(Session session, bool fails)
    {
        if (!session.Gone && session.Machine.State == ReceiverState.Promoting)
        {
            session.GuestRuns = !fails;
            Step(session, fails ? new ReceiverInput.PromotionFailed("failed") : new ReceiverInput.PromotionDone());
        }
    }

    private bool StandbyFails()
    {
        bool fails = world.Faulty && _simulation.Chance(world.Options.FailingStandby);
        world.GuestMayEnd |= fails;
        return fails;
    }

    private void CloseLink(Session session)
    {
        session.Link?.ToSender(Message.Closed.Instance);
        session.Link = null;
    }

    private void Every(Session session, int milliseconds, Action action) => _simulation.In(milliseconds, () =>
    {
        if (!session.Gone && !session.Machine.IsOver)
        {
            action();
            Every(session, milliseconds, action);
        }
    });
}
