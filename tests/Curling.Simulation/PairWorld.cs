using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Simulation;

/// <summary>
/// One history of a pair: a sender and a receiver, the network between them, incidents for a while, then peace, in which the
/// pair has to find back to protection or to a proper end.
/// </summary>
internal sealed class PairWorld
{
    private const int PeaceMilliseconds = 15_000;
    private const int StableMilliseconds = 120;
    private int _links;
    private long _committedAtPeace;

    public PairWorld(int seed, Defect defect, bool record)
    {
        Simulation = new History(seed, record);
        Options = PairOptions.From(Simulation);
        Defect = defect;
        Checker = new PairChecker(this);
        Receiver = new ReceiverHost(this);
        Sender = new SenderHost(this);
    }

    public History Simulation { get; }

    public PairOptions Options { get; }

    public Defect Defect { get; }

    public PairChecker Checker { get; }

    public SenderHost Sender { get; }

    public ReceiverHost Receiver { get; }

    /// <summary>Whether things go wrong; false once there is peace.</summary>
    public bool Faulty { get; private set; } = true;

    /// <summary>Something happened after which no copy of the guest needs to be left.</summary>
    public bool GuestMayEnd { get; set; }

    /// <summary>Only the primary was lost: a receiver that may promote and holds a whole round must run the guest.</summary>
    public bool PrimaryDied { get; private set; }

    /// <summary>Plays the history to its end.</summary>
    /// <exception cref="PairViolationException">Something happened that must never happen.</exception>
    public void Play()
    {
        Simulation.In(0, Sender.Start);
        for (int i = 0; i < Options.Incidents; i++)
        {
            Simulation.In(Simulation.Between(0, Options.FaultMilliseconds), Incident);
        }

        Simulation.In(Options.FaultMilliseconds, () =>
        {
            Simulation.Note("world", "PEACE: nothing goes wrong from here on");
            Faulty = false;
            Receiver.Restart();
            _committedAtPeace = Sender.Machine.CommittedRound;
        });

        long settledAt = -1;
        while (Simulation.Next())
        {
            if (Faulty || !Settled())
            {
                settledAt = -1;
            }
            else if (settledAt < 0)
            {
                settledAt = Simulation.Milliseconds;
            }
            else if (Simulation.Milliseconds - settledAt > StableMilliseconds)
            {
                break;
            }

            if (Simulation.Milliseconds > Options.FaultMilliseconds + PeaceMilliseconds)
            {
                throw new PairViolationException(
                    Rules.Progress,
                    $"{PeaceMilliseconds} ms after the last fault the sender is {Sender.Machine.State} ({Sender.Ended})"
                    + $" and the receiver {Receiver.Current?.Machine.State}");
            }
        }

        if (!Settled())
        {
            throw new PairViolationException(Rules.Progress, "nothing more is planned, and the pair has not settled");
        }

        Checker.Final();
    }

    public Link Connect()
    {
        Link link = new(Simulation, ++_links);
        Receiver.Accept(link);
        return link;
    }

    private bool Settled()
    {
        Session? session = Receiver.Current;
        if (!Sender.Alive || Sender.Ended is not null)
        {
            return session is null || session.Machine.IsHeld
                || session.Machine.State is ReceiverState.Promoted or ReceiverState.Ended or ReceiverState.Failed;
        }

        return Sender.Guest == GuestState.Running && Sender.Machine.State == SenderState.Protected && session?.Machine.State == ReceiverState.Protected
            && session.Link is not null && session.Link == Sender.Link && Sender.Machine.CommittedRound > _committedAtPeace;
    }

    private void Incident()
    {
        switch (Simulation.Between(0, 99))
        {
            case < 22:
                Sender.Newest?.Cut(Simulation.Chance(60), Simulation.Chance(60));
                break;
            case < 36:
                Sender.Newest?.Stall(Simulation.Between(0, 1), Simulation.Between(50, 700));
                break;
            case < 42:
                // Both sides of a process's end: its host may live and close its sockets, or not.
                PrimaryDied = true;
                Sender.Crash(silent: Simulation.Chance(50));
                break;
            case < 48:
                GuestMayEnd = true;
                Receiver.Crash(silent: Simulation.Chance(50));
                Simulation.In(Simulation.Between(0, 300), Receiver.Restart);
                break;
            case < 52:
                PrimaryDied = true;
                Operator("QEMU crashes");
                Sender.QemuEnds(new SenderInput.QemuCrashed("crashed"));
                break;
            case < 55:
                GuestMayEnd = true;
                Operator("the guest shuts down");
                Sender.QemuEnds(new SenderInput.GuestShutdown());
                break;
            case < 58:
                GuestMayEnd = true;
                Operator("the sender is stopped");
                Sender.Step(new SenderInput.Stop());
                break;
            case < 80:
                Operator("switchover");
                Sender.Step(new SenderInput.Switchover());
                break;
            case < 92:
                Operator("promote");
                if (Receiver.Current is { } promoted)
                {
                    Receiver.Step(promoted, new ReceiverInput.PromoteAsked());
                }

                break;
            case < 95:
                GuestMayEnd = true;
                Operator("discard");
                if (Receiver.Current is { } ended)
                {
                    Receiver.Step(ended, new ReceiverInput.EndAsked("discarded"));
                }

                break;
            default:
                GuestMayEnd = true;
                Operator("the standby's QEMU ends");
                if (Receiver.Current is { GuestRuns: false } standby)
                {
                    Receiver.Step(standby, new ReceiverInput.StandbyFailed("killed"));
                }

                break;
        }
    }

    private void Operator(string what) => Simulation.Note("incident", what);
}
