using System.Runtime.ExceptionServices;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;
using Curling.Simulation.Arbiter;
using Curling.Simulation.Checks;
using Curling.Simulation.Defects;
using Curling.Simulation.Network;
using Curling.Simulation.Receiver;
using Curling.Simulation.Sender;

namespace Curling.Simulation;

/// <summary>
/// One history of a pair: a sender and a receiver, the network between them, incidents for a while, then peace, in which the
/// pair has to find back to protection or to a proper end.
/// </summary>
internal sealed partial class PairWorld : IDisposable
{
    private const int PeaceMilliseconds = 15_000;
    private const int StableMilliseconds = 120;
    private readonly List<SenderHost> _senders = [];
    private int _links;
    private long _committedAtPeace;
    private int _comingBack;

    public PairWorld(int seed, Defect defect, bool record)
    {
        History = new History(seed, record);
        Options = PairOptions.From(History);
        Defect = defect;
        Etcd = new SimulatedEtcd(History, PairOptions.TtlMilliseconds / 6);
        Receiver = new ReceiverHost(this);
        _senders.Add(new SenderHost(this, 1));
    }

    public History History { get; }

    public PairOptions Options { get; }

    public Defect Defect { get; }

    /// <summary>The newest run of the sender.</summary>
    public SenderHost Sender => _senders[^1];

    /// <summary>All runs of the sender.</summary>
    public IReadOnlyList<SenderHost> Senders => _senders;

    public ReceiverHost Receiver { get; }

    /// <summary>The arbiter's store.</summary>
    public SimulatedEtcd Etcd { get; }

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
        Sender.Start();
        for (int i = 0; i < Options.Incidents; i++)
        {
            History.In(History.Between(0, Options.FaultMilliseconds), Incident);
        }

        History.In(Options.FaultMilliseconds, () =>
        {
            History.Note("world", "PEACE: nothing goes wrong from here on");
            Faulty = false;
            Etcd.Heal();
            Receiver.Restart();
            _committedAtPeace = Sender.Machine.CommittedRound;
        });

        long settledAt = -1;
        while (History.Next())
        {
            _failure?.Throw();
            CheckRunning();
            if (Faulty || !Settled())
            {
                settledAt = -1;
            }
            else if (settledAt < 0)
            {
                settledAt = History.Milliseconds;
            }
            else if (History.Milliseconds - settledAt > (MayStillBePromoted ? 4 * PairOptions.TtlMilliseconds : StableMilliseconds))
            {
                break;
            }

            if (History.Milliseconds > Options.FaultMilliseconds + PeaceMilliseconds)
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

        PairChecker.Final(this);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (SenderHost sender in _senders)
        {
            sender.Dispose();
        }
    }

    public Link Connect()
    {
        Link link = new(History, ++_links, Options, () => Faulty);
        Receiver.Accept(link);
        if (Faulty && History.Milliseconds < _cutOffUntil)
        {
            link.Cut(tellSender: History.Chance(50), tellReceiver: false);
        }

        return link;
    }

    /// <summary>The run of the sender that calls itself so.</summary>
    public SenderHost SenderOf(string id) => _senders.First(s => s.Id == id);

    /// <summary>The primary's host is taken off the power, or whatever a fence does.</summary>
    public void FencePrimary()
    {
        PrimaryDied = true;
        Sender.Crash(silent: true);
    }

    private bool Settled()
    {
        Session? session = Receiver.Current;
        if (_comingBack > 0 || session is { HasGuest: true, Keeper: not null, Machine.HasRight: false })
        {
            return false;
        }

        if (!Sender.Alive || Sender.Ended is not null)
        {
            return session is null || session is { GuestRuns: true } || session.Machine.IsHeld
                || session.Machine.IsOver;
        }

        return Sender.GuestRuns && Sender.Machine.State == SenderState.Protected && session?.Machine.State == ReceiverState.Protected
            && session.Connection is not null && session.Connection.Link == Sender.Connection?.Link && Sender.Machine.CommittedRound > _committedAtPeace;
    }

    private void Incident()
    {
        if (Options.Arbiter && History.Chance(45))
        {
            ArbiterIncident();
            return;
        }

        switch (History.Between(0, 99))
        {
            case < 14:
                Sender.Newest?.Cut(History.Chance(60), History.Chance(60));
                break;
            case < 18:
                Sender.Newest?.HalfOpen(History.Between(0, 1));
                break;
            case < 28:
                Sender.Newest?.Stall(History.Between(0, 1), History.Between(50, 700));
                break;
            case < 40:
                StallSomething();
                break;
            case < 46:
                SenderDies();
                break;
            case < 56:
                GuestMayEnd = true;
                if (History.Chance(15))
                {
                    Receiver.Stop();
                }
                else
                {
                    Receiver.Crash(silent: History.Chance(30));
                }

                History.In(History.Between(0, 300), Receiver.Restart);
                break;
            case < 59:
                PrimaryDied = true;
                Note("QEMU crashes");
                Sender.QemuEnds(new SenderInput.QemuCrashed("crashed"));
                break;
            case < 61:
                GuestMayEnd = true;
                Note("the guest shuts down");
                Sender.QemuEnds(new SenderInput.GuestShutdown());
                break;
            case < 63:
                GuestMayEnd = true;
                Note("the sender is stopped");
                Sender.Tell(new SenderInput.Stop());
                break;
            case < 81:
                Note("switchover");
                Sender.Tell(new SenderInput.Switchover());
                break;
            case < 92:
                if (Options.Arbiter && History.Chance(35))
                {
                    PromoteWithout();
                }
                else if (History.Chance(15))
                {
                    Note("the operator turns the primary off, and promotes without a fence");
                    FencePrimary();
                    Receiver.Current?.Post(null, new ReceiverInput.PromoteAsked(Fence: false));
                }
                else
                {
                    Note("promote");
                    Receiver.Current?.Post(null, new ReceiverInput.PromoteAsked());
                }

                break;
            case < 95:
                GuestMayEnd = true;
                Note("discard");
                if (Receiver.Current is { } discarded)
                {
                    discarded.IsDiscarded = true;
                }

                Receiver.Current?.Post(null, new ReceiverInput.EndAsked("discarded"));
                break;
            default:
                GuestMayEnd = true;
                Note("the standby's QEMU ends");
                if (Receiver.Current is { HasGuest: false } standby)
                {
                    standby.Post(null, new ReceiverInput.StandbyFailed("killed"));
                }

                break;
        }
    }

    private void StallSomething()
    {
        int milliseconds = History.Between(20, 900);
        switch (History.Between(0, 3))
        {
            case 0:
                Sender.Stall(milliseconds);
                break;
            case 1:
                Receiver.Stall(milliseconds);
                break;
            case 2:
                Sender.StallQemu(milliseconds);
                break;
            default:
                Receiver.Current?.StallStandby(milliseconds);
                break;
        }
    }

    private void SenderDies()
    {
        // Both sides of a process's end: its host may live and close its sockets, or not.
        PrimaryDied = true;
        Sender.Crash(silent: History.Chance(50));
        if (!Sender.Alive && _comingBack == 0 && History.Chance(50))
        {
            _comingBack++;
            History.In(History.Between(10, 900), () =>
            {
                _comingBack--;
                if (_promotedWithoutArbiter)
                {
                    return;
                }

                SenderHost again = new(this, _senders.Count + 1);
                Note($"the sender starts again, as {again.Id}, with a guest of its own");
                _senders.Add(again);
                again.Start();
            });
        }
    }

    private void Note(string what) => History.Note("incident", what);
}
