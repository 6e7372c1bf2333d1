using Curling.Hosting.Arbiter;
using Curling.Protocol;
using Curling.Recv.Sessions;
using Curling.Replication.Receiver;
using Curling.Replication.Tests;
using Curling.Simulation.Arbiter;
using Curling.Simulation.Checks;

namespace Curling.Simulation.Receiver;

/// <summary>
/// A guest's session on the receiver: its machine, the loop that steps it, the rounds that are whole, the commit under way and the standby.
/// Connections post to it and hand rounds over while the loop is elsewhere, as the real session's do.
/// </summary>
internal sealed partial class Session : IRightEvents
{
    private readonly PairWorld _world;
    private readonly History _history;
    private readonly SimulatedProcess _process;
    private readonly Queue<(ReceiverConnection? Connection, ReceiverInput Input)> _inputs = new();
    private readonly WholeRounds<RoundBuffer> _whole = new(r => r.Dispose());
    private readonly bool _isRestored;
    private ReceiverConnection? _lastConnection;
    private RoundBuffer? _goingIn;
    private bool _anyWhole;
    private bool _turnPlanned;
    private bool _mayHaveRun;
    private bool _hasFailedUnspoilt;
    private long _standbyStalledUntil;
    private TimeSpan _lastTick;
    private TimeSpan _graceUntil;

    /// <param name="world">Where it is.</param>
    /// <param name="process">The receiver's process.</param>
    /// <param name="disk">What it has in the memory filesystem.</param>
    /// <param name="number">Counts the sessions.</param>
    /// <param name="restoredRound">The round that a process before this one left; 0 for none.</param>
    /// <param name="generation">The guest's generation.</param>
    public Session(PairWorld world, SimulatedProcess process, ReceiverDisk disk, int number, long restoredRound, long generation)
    {
        Generation = generation;
        _world = world;
        _history = world.History;
        _process = process;
        _isRestored = restoredRound > 0;
        Disk = disk;
        Name = number == 1 ? "receiver" : $"recv. {number}";
        ReceiverSettings settings = new(world.Options.OnFailure, TimeSpan.FromMilliseconds(PairOptions.FailureTimeoutMilliseconds))
        {
            OnSilence = world.Options.OnSilence,
            Fences = world.Options.Fences,
            RightTtl = world.Options.Arbiter ? TimeSpan.FromMilliseconds(PairOptions.TtlMilliseconds) : null,
        };
        settings = world.Defect.Settings(settings);
        Keeper = world.Options.Arbiter ? new SimulatedKeeper(world, process, SimulatedEtcd.Standby, $"r{number}", this) : null;
        Machine = restoredRound > 0 ? new ReceiverMachine(settings, restoredRound) : new ReceiverMachine(settings);
        Checker = new SessionChecker(world, this, restoredRound);
        _lastTick = _history.Now;
        process.Every(PairOptions.TickMilliseconds, Tick);
        process.Every(PairOptions.HeartbeatMilliseconds, Beat);
        bool fails = StandbyFails();
        process.In(_history.Between(0, 50), () => Post(
            null, fails ? new ReceiverInput.StandbyFailed("failed") : new ReceiverInput.StandbyReady()));
    }

    public ReceiverMachine Machine { get; }

    public string Name { get; }

    public ReceiverDisk Disk { get; }

    public SessionChecker Checker { get; }

    public ReceiverConnection? Connection { get; private set; }

    /// <summary>The last commit that began, done or not.</summary>
    public RoundCommit? Commit { get; private set; }

    /// <summary>It was removed, or its process is gone: what was planned for it does not happen.</summary>
    public bool Gone { get; set; }

    /// <summary>The operator gave it up: its guest may begin anew.</summary>
    public bool IsDiscarded { get; set; }

    /// <summary>The guest was started here, and has not ended.</summary>
    public bool HasGuest { get; set; }

    /// <summary>Something happened; the loop looks at it when it comes to it.</summary>
    public void Post(ReceiverConnection? connection, ReceiverInput input)
    {
        _inputs.Enqueue((connection, input));
        if (!_turnPlanned)
        {
            _turnPlanned = true;
            _process.In(_history.Between(0, 1), Turn);
        }
    }

    /// <summary>Takes a connection of this session's sender over.</summary>
    public void Attach(ReceiverConnection connection)
    {
        Post(connection, new ReceiverInput.LinkUp());
        connection.Attach(this);
    }

    /// <summary>A round begins: room for its content.</summary>
    public RoundBuffer Open(RoundBegin begin)
    {
        bool straightIn = begin.Kind == RoundKind.Base && Machine.CommittedRound == 0 && !_anyWhole;
        RoundBuffer content = new(Disk, begin, straightIn);
        _goingIn = straightIn ? content : null;
        return content;
    }

    /// <summary>Puts a frame of a round that goes straight in where it belongs.</summary>
    /// <exception cref="IOException">Another round has begun since.</exception>
    public void ApplyNow(RoundBuffer content, ReadOnlySpan<byte> payload)
    {
        if (_goingIn != content)
        {
            throw new IOException("a newer connection has begun this round anew");
        }

        Disk.Apply(payload);
    }

    /// <summary>A round is whole.</summary>
    public void Whole(ReceiverConnection connection, RoundBuffer content, RoundEnd end)
    {
        if (content.GoesStraightIn && _goingIn != content)
        {
            content.Dispose();
            return;
        }

        _goingIn = null;
        _anyWhole = true;
        _whole.Add(content, end);
        Post(connection, new ReceiverInput.RoundWhole(end));
    }

    public void StallStandby(int milliseconds)
    {
        _history.Note(Name, $"the standby's QEMU is stalled for {milliseconds} ms");
        _standbyStalledUntil = _history.Milliseconds + milliseconds;
    }

    private void Turn()
    {
        _turnPlanned = false;
        while (!Gone && _inputs.TryDequeue(out (ReceiverConnection? Connection, ReceiverInput Input) next))
        {
            Take(next.Connection, next.Input);
        }
    }

    private void Take(ReceiverConnection? connection, ReceiverInput input)
    {
        if (input is ReceiverInput.LinkUp)
        {
            CloseLink();
            Connection = connection;
            _lastConnection = connection;
        }
        else if (connection is not null && connection != Connection)
        {
            // Of a connection that was given up: what it still brings counts for nothing.
            if (input is ReceiverInput.RoundWhole stale)
            {
                _whole.Drop(stale.End.Round);
            }

            return;
        }

        bool held = true;
        IReadOnlyList<ReceiverOutput> outputs = _world.Defect.Out(Machine, input, Machine.Step(_world.Defect.In(input), _history.Now));
        if (_history.Records && (outputs.Count > 0 || input is not ReceiverInput.Tick))
        {
            _history.Note(Name, $"{Words.Of(input),-22} -> {string.Join(", ", outputs.Select(Words.Of))}");
        }

        Checker.Step(input, outputs);
        foreach (ReceiverOutput output in outputs)
        {
            held &= output is not ReceiverOutput.Refuse;
            Carry(output);
        }

        if (input is ReceiverInput.LinkUp && Machine.IsOver)
        {
            CloseLink();
        }

        if (input is ReceiverInput.RoundWhole refused && (!held || Machine.IsOver))
        {
            _whole.Drop(refused.End.Round);
        }
    }

    private void Carry(ReceiverOutput output)
    {
        switch (output)
        {
            case ReceiverOutput.SendReady:
                Connection?.Writer.Send(FrameType.Ready, []);
                break;
            case ReceiverOutput.SendComplete complete:
                Connection?.Writer.Send(FrameType.Complete, complete.Round);
                break;
            case ReceiverOutput.SendCommitted committed:
                Connection?.Writer.Send(FrameType.Committed, committed.Round);
                break;
            case ReceiverOutput.SendPromoted promoted:
                Connection?.Writer.Send(FrameType.Promoted, promoted.Round);
                break;
            case ReceiverOutput.Refuse refuse:
                Connection?.Writer.Send(FrameType.Refusal, (ushort)refuse.Code, "refused");
                CloseLink();
                break;
            case ReceiverOutput.CloseLink:
                CloseLink();
                break;
            case ReceiverOutput.SendVouch vouch:
                Span<byte> payload = stackalloc byte[VouchMessage.Bytes];
                new VouchMessage(vouch.Sequence, (long)vouch.Time.TotalMilliseconds).Write(payload);
                Connection?.Writer.Send(FrameType.Vouch, payload);
                break;
            case ReceiverOutput.TakeRight:
                _world.Run(TakeRightAsync());
                break;
            case ReceiverOutput.Commit commit:
                StartCommit(commit.Round);
                break;
            case ReceiverOutput.Promote promote:
                Promote(promote);
                break;
            case ReceiverOutput.Release:
                HasGuest = false;
                GiveRightBack();
                if (!((_isRestored || _hasFailedUnspoilt) && Machine.State == ReceiverState.Failed))
                {
                    Disk.IsRecorded = false;
                }

                break;
        }
    }

    private void StartCommit(long round)
    {
        (RoundBuffer content, RoundEnd end) = _whole.Take(round);
        RoundCommit commit = new(Disk, content, end, _world.Defect.SkipsTheFirstRecord);
        Commit = commit;
        bool slow = _history.Chance(20);
        int failsAt = StandbyFails() ? _history.Between(1, commit.Steps) : 0;
        Continue();

        void Continue() => _process.In(slow ? _history.Between(0, 60) : _history.Between(0, 100) / 80, () =>
        {
            if (Gone)
            {
                return;
            }

            if (failsAt > 0 && commit.Steps == failsAt)
            {
                commit.Finish();
                Post(null, new ReceiverInput.CommitFailed(round, "failed"));
                return;
            }

            commit.Next();
            if (!commit.IsDone)
            {
                Continue();
                return;
            }

            commit.Finish();
            Checker.State(round, Disk.State(), "committed");
            Post(null, new ReceiverInput.CommitDone(round));
        });
    }

    private void Promote(ReceiverOutput.Promote promote)
    {
        if (_world.Defect.PromotesPartialRounds && _lastConnection?.Open is { } partial)
        {
            foreach ((int index, int _) in partial.Places)
            {
                Disk.Apply(Disk.Kept(index));
            }
        }

        bool fails = StandbyFails();
        if (!promote.Fence)
        {
            Start(promote.Round, fails);
            return;
        }

        bool fenceFails = _history.Chance(30);
        _process.In(_history.Between(0, 400), () =>
        {
            if (Gone || Machine.State != ReceiverState.Promoting)
            {
                return;
            }

            if (fenceFails)
            {
                Post(null, new ReceiverInput.FenceFailed("failed"));
                return;
            }

            _world.FencePrimary();
            Post(null, new ReceiverInput.Fenced());
            Start(promote.Round, fails);
        });
    }

    private void Start(long round, bool fails)
    {
        _process.In(Math.Max(0, _standbyStalledUntil - _history.Milliseconds) + _history.Between(0, 30), () =>
        {
            if (Gone || Machine.State != ReceiverState.Promoting)
            {
                return;
            }

            if (fails)
            {
                _hasFailedUnspoilt = true;
                GiveRightBack();
                Post(null, new ReceiverInput.PromotionFailed("failed"));
                return;
            }

            // From here on no later receiver may find the round: the guest may have gone on from it.
            _mayHaveRun = true;
            Disk.IsRecorded = false;
            Generation += Keeper is { Generation: > 0 } ? 0 : 1;
            _world.Receiver.NoteGeneration(Generation);
            HasGuest = true;
            GuardGuest();
            Checker.Promoted(round, Disk.State());
            Post(null, new ReceiverInput.PromotionDone());
        });
    }

    private bool Tick()
    {
        if (Gone || Machine.IsOver)
        {
            return false;
        }

        // Our own lateness is not the peer's silence: what it sent meanwhile has to be read first.
        TimeSpan now = _history.Now;
        bool heldUp = (now - _lastTick).TotalMilliseconds > PairOptions.LatenessMilliseconds;
        if (heldUp)
        {
            _graceUntil = now + TimeSpan.FromMilliseconds(PairOptions.FailureTimeoutMilliseconds / 2.0);
        }

        _lastTick = now;
        SendOutput();
        ReceiverConnection? connection = Connection;
        bool grace = now < _graceUntil && !_world.Defect.HasNoGrace;
        bool cameInTime = connection?.Link.ToReceiver.HasUnreadFromBefore(
            connection.Heard.TotalMilliseconds + PairOptions.FailureTimeoutMilliseconds) == true;
        Take(null, new ReceiverInput.Tick(connection is null || grace ? now : connection.Heard));
        Rules.Check(
            !(heldUp && cameInTime) || Connection == connection, Rules.Lateness, "the receiver calls its sender silent, and has not read what came from it");
        return true;
    }

    private bool Beat()
    {
        if (Gone || Machine.IsOver)
        {
            return false;
        }

        Connection?.Writer.Send(FrameType.Heartbeat, new byte[Heartbeat.Bytes]);
        return true;
    }

    private bool StandbyFails()
    {
        bool fails = _world.Faulty && _history.Chance(_world.Options.FailingStandby);
        _world.GuestMayEnd |= fails;
        return fails;
    }

    private void CloseLink()
    {
        Connection?.Close();
        Connection = null;
    }
}
