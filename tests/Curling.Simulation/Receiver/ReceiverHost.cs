using Curling.Protocol;
using Curling.Recv.Rounds;
using Curling.Replication.Receiver;
using Curling.Simulation.Network;

namespace Curling.Simulation.Receiver;

/// <summary>
/// The receiver's daemon: admits senders, and dies and starts again on the same host. A process that starts finds what the one before it
/// left in the memory filesystem.
/// </summary>
internal sealed class ReceiverHost(PairWorld world)
{
    private readonly History _history = world.History;
    private int _sessions;
    private ReceiverDisk? _left;
    private long _highestGeneration;
    private Session? _leftSession;

    public PairWorld World => world;

    /// <summary>The daemon's process; a new one after each death.</summary>
    public SimulatedProcess Process { get; private set; } = new(world.History);

    public bool Alive => !Process.IsGone;

    public Session? Current { get; private set; }

    public void Stall(int milliseconds)
    {
        _history.Note("receiver", $"the process is stalled for {milliseconds} ms");
        Process.Stall(milliseconds);
    }

    public void Crash(bool silent)
    {
        if (!Alive)
        {
            return;
        }

        _history.Note("receiver", silent ? "HOST DIES" : "PROCESS DIES");
        Process.End();
        _left = null;
        _leftSession = null;
        if (Current is { } session)
        {
            if (!silent && session.Disk.IsRecorded)
            {
                if (session.Commit is { IsDone: false, IsGivenUp: false } commit && _history.Chance(60))
                {
                    _history.Note("receiver", $"dies at \"{commit.Tear(_history.Between(0, 99))}\" of the commit of round {commit.Round}");
                }

                _left = session.Disk;
                _leftSession = session;
            }

            session.Gone = true;
            session.HasGuest = false;
            session.Keeper?.End();
            if (silent)
            {
                session.Connection?.Link.Cut(tellSender: false, tellReceiver: false);
            }
            else
            {
                session.Connection?.Link.ToSender.Tear();
            }
        }

        Current = null;
    }

    /// <summary>The operator stops the daemon: the sender is told, and what a sender will not begin anew is left for a later receiver.</summary>
    public void Stop()
    {
        if (!Alive)
        {
            return;
        }

        _history.Note("receiver", "is stopped by its operator");
        Process.End();
        _left = null;
        if (Current is { } session)
        {
            session.Gone = true;
            session.HasGuest = false;
            session.Keeper?.End();
            while (session.Commit is { IsDone: false, IsGivenUp: false } commit)
            {
                commit.Next();
            }

            bool keep = session.Machine is { CommittedRound: > 0, IsHeld: true } && session.Connection is null && session.Disk.IsRecorded;
            _left = keep ? session.Disk : null;
            _leftSession = session;
            session.Connection?.Writer.Send(FrameType.Goodbye, (ushort)GoodbyeReason.ReceiverStop, "stopped");
            session.Connection?.Writer.Close();
        }

        Current = null;
    }

    public void Restart()
    {
        if (Alive)
        {
            return;
        }

        _history.Note("receiver", "starts again");
        Process = new SimulatedProcess(_history);
        if (_left is not { } disk || _leftSession is not { } before)
        {
            return;
        }

        _left = null;
        JournalRecord? found;
        try
        {
            if (_history.Chance(20))
            {
                _history.Note("receiver", "dies while it takes the round up, and starts again");
                disk.Replay(diesAfter: _history.Between(0, 3));
            }

            found = disk.Replay(diesAfter: int.MaxValue);
        }
        catch (Exception e) when (e is IOException or ProtocolException)
        {
            before.Checker.NotFound(e.Message);
            return;
        }

        if (found is null)
        {
            before.Checker.NotFound("no round was committed");
            return;
        }

        _history.Note("receiver", $"finds round {found.Round}");
        before.Checker.Found(found.Round, disk.State());
        Make(disk, found.Round, before.Generation);
    }

    /// <summary>A connection was made; what comes on it is read by whichever process lives then.</summary>
    public void Accept(Link link)
    {
        SimulatedProcess process = Process;
        ReceiverConnection connection = new(this, link);
        link.ToReceiver.Readable = () => process.In(0, connection.Read);
        if (process.IsGone)
        {
            link.ToSender.Close();
        }
    }

    /// <summary>A sender greets.</summary>
    public void Admit(ReceiverConnection connection, Hello hello)
    {
        if (world.Faulty && _history.Chance(world.Options.RefusedHellos))
        {
            world.GuestMayEnd = true;
            Refuse(connection, _history.Pick(RefusalCode.Definition, RefusalCode.Limit, RefusalCode.Taken, RefusalCode.Host, RefusalCode.Protocol));
            return;
        }

        connection.Writer.Send(FrameType.Welcome, Handshake.Write(new Welcome([], hello.Capabilities, 0)));

        // Between the greeting and the session's turn things may happen.
        Process.In(_history.Between(0, 4), () => FindOrMake(connection, hello));
    }

    public void Refuse(ReceiverConnection connection, RefusalCode code)
    {
        _history.Note("receiver", $"refuses a greeting: {code}");
        connection.Writer.Send(FrameType.Refusal, (ushort)code, "refused");
        connection.Close();
    }

    /// <summary>Remembers the highest generation that was seen; it outlives the host.</summary>
    public void NoteGeneration(long generation) => _highestGeneration = Math.Max(_highestGeneration, generation);

    private void FindOrMake(ReceiverConnection connection, Hello hello)
    {
        long newest = Math.Max(Current is { IsDiscarded: false } last ? last.Generation : 0, _highestGeneration);
        if (hello.Generation < newest && Current?.Machine is not { State: ReceiverState.Promoted or ReceiverState.Promoting } and not { IsHandedOver: true })
        {
            Refuse(connection, RefusalCode.Superseded);
            return;
        }

        if (Current is { } older && hello.Generation > older.Generation)
        {
            _history.Note("receiver", $"generation {hello.Generation} takes the place of {older.Generation}");
            older.Dispose();
            Current = null;
        }

        if (Current is { } known)
        {
            if (known.Machine is { State: ReceiverState.Promoting or ReceiverState.Promoted, IsFencing: false, IsHandedOver: false })
            {
                Refuse(connection, RefusalCode.Superseded);
                return;
            }

            if (!known.Machine.IsOver)
            {
                if (known.Disk.Sender == hello.Sender)
                {
                    known.Attach(connection);
                    return;
                }

                if (known.Machine.CommittedRound > 0 || known.Connection is not null)
                {
                    Refuse(connection, RefusalCode.Taken);
                    return;
                }
            }

            known.Dispose();
        }

        Make(new ReceiverDisk(hello.Sender), restoredRound: 0, hello.Generation).Attach(connection);
        if (hello.Generation > 1)
        {
            NoteGeneration(hello.Generation);
        }
    }

    private Session Make(ReceiverDisk disk, long restoredRound, long generation)
    {
        Session session = new(world, Process, disk, ++_sessions, restoredRound, generation);
        Current = session;
        return session;
    }
}
