using System.Globalization;
using System.Runtime.ExceptionServices;
using Curling.Replication.Receiver;
using Curling.Simulation.Arbiter;
using Curling.Simulation.Checks;
using Curling.Simulation.Receiver;
using Curling.Simulation.Sender;

namespace Curling.Simulation;

/// <summary>What goes wrong with the arbiter, and what must hold where there is one.</summary>
internal sealed partial class PairWorld
{
    private ExceptionDispatchInfo? _failure;
    private long _newestRunning;
    private long _cutOffUntil;
    private bool _promotedWithoutArbiter;

    /// <summary>The receiver is held, and asks the arbiter again and again.</summary>
    private bool MayStillBePromoted => Options.Arbiter && Receiver.Current is { Machine.IsHeld: true };

    /// <summary>The guest's generation as the arbiter knows it.</summary>
    public long GenerationOfArbiter => Etcd.Look("generation") is { } key ? long.Parse(key.Value, CultureInfo.InvariantCulture) : 0;

    /// <summary>It was a sender that started a guest anew who raised it last.</summary>
    public bool RaisedByASender => Etcd.Look(SimulatedArbiter.RaisedKey) is { } key && _senders.Any(s => s.Id == key.Value);

    /// <summary>Something that has more than one step, one of which may fail.</summary>
    public void Run(Task task) => _ = WatchAsync(task);

    /// <summary>The same, for something that one other thing waits for.</summary>
    /// <returns>What ends with it, and does not fail.</returns>
    public Task Watched(Task task) => WatchAsync(task);

    public void Note(string who, string what) => History.Note(who, what);

    /// <summary>Output of a copy of the guest is seen by the world.</summary>
    public void OutputLeaves(string who, long generation)
    {
        if (Options.Arbiter)
        {
            Rules.Check(
                generation >= _newestRunning, Rules.OneActive,
                $"output leaves from {who}, generation {generation}, and generation {_newestRunning} runs, or ran");
        }
    }

    private async Task WatchAsync(Task task)
    {
        try
        {
            await task;
        }
#pragma warning disable CA1031 // It is thrown where the history is played.
        catch (Exception e)
#pragma warning restore CA1031
        {
            _failure ??= ExceptionDispatchInfo.Capture(e);
        }
    }

    /// <summary>
    /// At no instant do two copies run. A daemon that is stopped cannot stop its guest, so one whose daemon is held up is only held to let
    /// nothing out.
    /// </summary>
    private void CheckRunning()
    {
        if (!Options.Arbiter)
        {
            return;
        }

        int running = 0;
        long newest = _newestRunning;
        foreach (SenderHost sender in _senders)
        {
            if (sender.GuestRuns)
            {
                Count(sender.Keeper!.Generation, sender.IsHeldUp, sender.Id);
            }
        }

        if (Receiver.Current is { GuestRuns: true } session)
        {
            Count(session.Generation, session.IsHeldUp, session.Name);
        }

        Rules.Check(running <= 1, Rules.OneActive, "two copies of the guest run, and each could be stopped");
        _newestRunning = newest;

        void Count(long generation, bool isHeldUp, string who)
        {
            running += isHeldUp ? 0 : 1;
            newest = Math.Max(newest, generation);
            Rules.Check(
                isHeldUp || generation >= _newestRunning, Rules.OneActive,
                $"generation {generation} of the guest runs at {who}, and generation {_newestRunning} runs, or ran, elsewhere");
        }
    }

    private void ArbiterIncident()
    {
        string host = History.Pick(SimulatedEtcd.Primary, SimulatedEtcd.Primary, SimulatedEtcd.Standby);
        switch (History.Between(0, 99))
        {
            case < 30:
                bool there = History.Chance(70);
                Etcd.Partition(host, there, !there || History.Chance(50));
                History.In(History.Between(100, 3_000), () => Etcd.Partition(host, there: false, back: false));
                break;
            case < 42:
                Etcd.Down(true);
                History.In(History.Between(100, 3_000), () => Etcd.Down(false));
                break;
            case < 52:
                Etcd.Slow(History.Between(100, 2_000));
                break;
            case < 62:
                int leaderless = History.Between(100, 3_000);
                Etcd.Depose(host, deposed: true);
                History.In(leaderless, () => Etcd.Depose(host, deposed: false));
                if (History.Chance(70))
                {
                    CutOff(leaderless);
                }

                break;
            case < 76:
                StallLong(History.Chance(50) ? History.Between(600, 1_000) : History.Between(300, 2_500));
                break;
            case < 83:
                if (History.Chance(40))
                {
                    Etcd.LoseAnswers(History.Between(500, 3 * PairOptions.TtlMilliseconds));
                }

                SenderDies();
                break;
            default:
                // The host is cut off from everything: nobody can tell it from a dead one.
                int alone = History.Between(100, 3_000);
                Etcd.Partition(host, there: true, back: true);
                CutOff(alone);
                History.In(alone, () => Etcd.Partition(host, there: false, back: false));
                break;
        }
    }

    /// <summary>The operator does without the fence, for the arbiter decides, or without the arbiter, for the primary is off or the fence makes sure of it.</summary>
    private void PromoteWithout()
    {
        bool arbiter = History.Chance(30);
        bool fence = !arbiter && Options.Fences && History.Chance(70);
        Note("incident", $"promote without {(arbiter ? "a fence" : fence ? "the arbiter" : "either, with the primary off")}");
        if (!arbiter && !fence)
        {
            FencePrimary();
        }

        // The operator who does without the arbiter sees to it that no other copy is started.
        _promotedWithoutArbiter |= !arbiter;

        Receiver.Current?.Post(null, new ReceiverInput.PromoteAsked(fence, arbiter));
    }

    /// <summary>For a while nothing comes over from one to the other.</summary>
    private void CutOff(int milliseconds)
    {
        History.Note("incident", $"the two hosts are cut off from each other for {milliseconds} ms");
        _cutOffUntil = History.Milliseconds + milliseconds;
        Sender.Newest?.Cut(tellSender: History.Chance(30), tellReceiver: History.Chance(30));
    }

    /// <summary>A daemon is held up for longer than a lease lives, at the worst moment: while an answer of the arbiter is on its way.</summary>
    private void StallLong(int milliseconds)
    {
        bool primary = History.Chance(70);
        int tries = 0;
        Try();

        void Try()
        {
            SimulatedKeeper? keeper = primary ? Sender.Keeper : Receiver.Current?.Keeper;
            if (keeper?.IsTalking == false && tries++ < 400)
            {
                History.In(1, Try);
            }
            else if (primary)
            {
                Sender.Stall(milliseconds);
                if (History.Chance(40))
                {
                    // Nobody tells it when it wakes up what has become of its lease.
                    History.In(20, () => Etcd.Partition(SimulatedEtcd.Primary, there: true, back: true));
                    History.In(milliseconds + History.Between(0, 1_500), () => Etcd.Partition(SimulatedEtcd.Primary, there: false, back: false));
                }
            }
            else
            {
                Receiver.Stall(milliseconds);
            }
        }
    }
}
