using System.Collections.Concurrent;
using System.Diagnostics;
using System.Threading.Channels;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Control;
using Curling.Hosting.Instances;
using Curling.Hosting.Network;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>One guest on this receiver: its links, rounds, standby, and the machine that decides.</summary>
/// <remarks>
/// One loop steps the machine and carries out what it says; links, commits and promotions run beside it and report by
/// posting inputs. Disposing ends everything and deletes its files.
/// </remarks>
internal sealed partial class GuestSession : IRoundSink, IAsyncDisposable
{
    private static readonly TimeSpan TickEvery = TimeSpan.FromMilliseconds(20);
    private readonly ReceiverOptions _options;
    private readonly ReceiverMachine _machine;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly InstanceDirectory _directory;
    private readonly Channel<(Link? Link, ReceiverInput Input)> _inputs = Channel.CreateUnbounded<(Link?, ReceiverInput)>(
        new UnboundedChannelOptions { SingleReader = true });

    private readonly WholeRounds<RoundContent> _whole = new(content => content.Dispose());
    private readonly ConcurrentBag<List<Chunk>> _chunkLists = [];
    private readonly ChunkPool _pool;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly CommittedState _committed;
    private readonly RoundJournal _journal;
    private readonly List<SharedMapping> _shadows = [];
    private readonly bool _isRestored;
    private readonly SharedMapping _memory;
    private readonly QemuLaunch _launch;
    private readonly StandbyStarter _startStandby;
    private readonly StandbyDisks _disks;
    private readonly Generations _generations;
    private readonly List<Task> _work = [];
    private readonly Task _loop;
    private readonly long _start;
    private readonly Lock _straight = new();
    private readonly NetworkEventsSwitch _networkEvents = new();
    private readonly GuestNetwork _network;
    private readonly Hello _hello;
    private readonly InboundBuffer _inbound;
    private int _networkDisposed;
    private RoundContent? _goingIn;
    private bool _anyWhole;
    private RoundContent? _unfinished;
    private IStandby? _standby;
    private IReadOnlyList<IStandbyBlock> _blocks = [];
    private Link? _link;
    private string? _reason;
    private volatile string? _promotionProblem;
    private volatile string? _lastPeer;
    private int _failedPromotions;
    private bool _keep;
    private Task _commit = Task.CompletedTask;
    private volatile bool _mayHaveRun;
    private volatile bool _failedUnspoilt;
    private long _arrived;
    private long _arriving;
    private long _expected;
    private long _arrivingSince;
    private TimeSpan _graceUntil;

    /// <summary>Creates the session of an accepted guest and starts its standby.</summary>
    public GuestSession(
        ReceiverOptions options, GuestDefinition guest, Hello hello, QemuLaunch launch, InstanceDirectory directory,
        SharedMapping memory, StandbyDisks disks, StandbyStarter startStandby, Generations generations, IArbiter? arbiter, TimeProvider time, ILogger log,
        RestoredSession? restored = null)
    {
        _generations = generations;
        _options = options;
        _time = time;
        _log = log;
        _launch = launch;
        _startStandby = startStandby;
        _directory = directory;
        _memory = memory;
        _start = time.GetTimestamp();
        _network = GuestNetwork.Create(guest, launch.Directory, standby: true, options.MaxHeldBytes, _networkEvents, log);
        _inbound = new InboundBuffer(guest.Networks.Count);
        _disks = disks;
        _hello = hello;
        _right = arbiter is null ? null : new RightKeeper(arbiter, guest.Name, "receiver", this, log);
        Guest = guest;
        Sender = hello.Sender;
        Generation = hello.Generation;
        Blocks = hello.Blocks;
        MaxRoundBytes = restored?.File.MaxRoundBytes ?? options.MaxRoundBytes;
        ReceiverSettings settings = new(options.OnFailure, options.FailureTimeout)
        {
            OnSilence = options.OnSilence,
            Fences = options.FenceCommand is not null,
            RightTtl = arbiter?.Ttl,
            SenderTtl = TimeSpan.FromMilliseconds(hello.RightMilliseconds),
        };
        try
        {
            if (restored is null)
            {
                _machine = new ReceiverMachine(settings);
                _committed = new CommittedState(directory.MemoryPath);
                _journal = RoundJournal.Create(directory.MemoryPath, Chunks(MaxRoundBytes));
            }
            else
            {
                _isRestored = true;
                _machine = new ReceiverMachine(settings, restored.Last.Round, !restored.Last.IsIncomplete);
                _committed = restored.Committed;
                _journal = restored.Journal;
                _reason = $"the receiver was started anew; round {restored.Last.Round} is from {restored.Last.At:u}"
                    + (restored.DisksDiffer is { } differ ? $"; the guest cannot be started from it: {differ}" : "");
            }

            _pool = new ChunkPool(DataFrame.ChunkBytes, MaxRoundBytes, Path.Combine(directory.MemoryPath, PrefetchFile));
            if (options.Listen.Port != 0)
            {
                // A port that the system chooses is another one the next time: nobody would find the session again.
                new SessionFile(options.Listen.ToString(), MaxRoundBytes, hello).Write(directory.MemoryPath);
            }
        }
        catch
        {
            _network.Dispose();
            throw;
        }

        _loop = Task.Run(RunAsync);
        Watch(StartStandbyAsync());
    }

    /// <summary>The name of the file that rounds are buffered in.</summary>
    internal const string PrefetchFile = "prefetch";

    /// <summary>Bytes of one round, and of all rounds that are buffered.</summary>
    public long MaxRoundBytes { get; }

    /// <summary>Whether a later receiver should find this session when this one stops: its sender is not there to begin anew.</summary>
    public bool IsWorthKeeping => _machine.CommittedRound > 0 && _link is null && !_mayHaveRun
        && (_machine.IsHeld || _machine.IsPromotionPending || _machine.State == ReceiverState.Promoting || HasFailedUnspoilt)
        && File.Exists(Path.Combine(_directory.MemoryPath, InstanceDirectory.KeepFile));

    /// <summary>
    /// Whether the round stands as it was committed although the session has failed: a standby that could not be started, here and now, is
    /// no reason to throw it away.
    /// </summary>
    private bool HasFailedUnspoilt => _machine.State == ReceiverState.Failed && (_isRestored || _failedUnspoilt) && !_mayHaveRun;

    /// <summary>The guest.</summary>
    public GuestDefinition Guest { get; }

    /// <summary>The run of the sender that this session belongs to.</summary>
    public string Sender { get; }

    /// <summary>The guest's generation; a promotion raises it.</summary>
    public long Generation { get; private set; }

    /// <summary>The memory blocks that were named in the handshake.</summary>
    public IReadOnlyList<HelloBlock> Blocks { get; }

    /// <summary>The state a person sees.</summary>
    public ReceiverState State => _machine.State;

    /// <summary>Whether the primary is lost and the operator has to decide.</summary>
    public bool IsHeld => _machine.IsHeld;

    /// <summary>Whether a promotion waits until the primary is fenced.</summary>
    public bool IsFencing => _machine.IsFencing;

    /// <summary>Whether the sender has handed the guest over, standing still, and it does not run here yet.</summary>
    public bool IsHandedOver => _machine.IsHandedOver;

    /// <summary>The last committed round.</summary>
    public long CommittedRound => _machine.CommittedRound;

    /// <summary>Whether its sender is connected.</summary>
    public bool IsConnected => _link is not null;

    /// <summary>The standby, for tests that compare its memory.</summary>
    internal IStandby? Standby => _standby;

    /// <summary>Chunks that are out, for tests that look for leaks.</summary>
    internal int RentedChunks => _pool.RentedChunks;

    private TimeSpan Now => _time.GetElapsedTime(_start);

    /// <summary>Takes a connection of this session's sender over; an older one is closed.</summary>
    public void Attach(Link link)
    {
        _lastPeer = link.Peer;
        _inputs.Writer.TryWrite((link, new ReceiverInput.LinkUp()));
        RoundReader reader = new(
            link, this, _pool, MaxRoundBytes, [.. Blocks.Select(b => b.Bytes / ProtocolLimits.PageBytes)], _disks.Blocks);
        Watch(reader.RunAsync(_cancellation.Token));
    }

    /// <summary>The operator promotes the standby.</summary>
    /// <param name="fence">Whether the fence command, if there is one, is run before.</param>
    /// <param name="arbiter">Whether the arbiter, if there is one, is asked before.</param>
    /// <param name="cancellation">Ends the waiting, not the promotion.</param>
    /// <exception cref="Curling.Hosting.Options.OperatorException">
    /// There is nothing to promote, the arbiter did not give the guest to this host, or the primary could not be fenced.
    /// </exception>
    public async Task<string> PromoteAsync(bool fence, bool arbiter, CancellationToken cancellation)
    {
        if (_machine.State is ReceiverState.Promoted or ReceiverState.Promoting)
        {
            return $"{Guest.Name} is {Name(_machine.State)} already";
        }

        if (!_machine.HoldsRound || _machine.IsOver)
        {
            throw new Hosting.Options.OperatorException(
                $"{Guest.Name} has no committed round{(_machine.CommittedRound > 0 ? " with all of its disks" : "")}: there is nothing to promote");
        }

        int fences = Volatile.Read(ref _failedPromotions);
        Post(null, new ReceiverInput.PromoteAsked(fence, arbiter));
        while (_machine.State != ReceiverState.Promoted)
        {
            if (Volatile.Read(ref _failedPromotions) != fences)
            {
                throw new Hosting.Options.OperatorException($"{Guest.Name} was not promoted: {_promotionProblem}");
            }

            if (_machine.IsOver)
            {
                throw new Hosting.Options.OperatorException($"{Guest.Name} could not be promoted: {_reason}");
            }

            await Task.Delay(5, cancellation);
        }

        return $"{Guest.Name} runs here from round {_machine.CommittedRound}";
    }

    /// <summary>The operator gives the session up.</summary>
    public void Discard(string reason)
    {
        IsDiscarded = true;
        Post(null, new ReceiverInput.EndAsked(reason));
    }

    /// <summary>Whether the operator gave it up: its guest may begin anew.</summary>
    public bool IsDiscarded { get; private set; }

    /// <summary>Tells the sender that the receiver stops.</summary>
    public void SayGoodbye() =>
        _link?.Writer.Post(FrameType.Goodbye, (ushort)GoodbyeReason.ReceiverStop, "the receiver was stopped by its operator");

    /// <summary>The session as status shows it.</summary>
    public SessionStatus Status()
    {
        LastRoundStatus? last = _committed.Last is { } l ? l : null;
        BaseProgress? progress = null;
        long expected = Volatile.Read(ref _expected);
        if (_machine.State == ReceiverState.Prefetching && expected > 0)
        {
            double seconds = Math.Max(0.001, Stopwatch.GetElapsedTime(Volatile.Read(ref _arrivingSince)).TotalSeconds);
            long arrived = Volatile.Read(ref _arrived);
            double rate = arrived / seconds;
            progress = new BaseProgress(
                Math.Min(100, 100.0 * arrived / expected), (long)rate, rate > 0 ? Math.Max(0, expected - arrived) / rate : null);
        }

        IStandby? standby = _standby;
        return new SessionStatus(
            Guest.Name,
            Name(_machine.State),
            _machine.CommittedRound,
            _committed.At,
            Generation,
            standby?.Pid,
            last,
            _link?.Peer,
            _machine.IsHeld,
            Guest.Serial && standby is not null ? _directory.Socket("serial") : null,
            standby?.Display,
            progress,
            _reason)
        {
            Network = _network.IsEmpty ? null : NetworkStatus(),
            Replicas = _disks.Status,
            Next = Volatile.Read(ref _protection) is { } protection ? protection.Status() with { Process = null } : null,
            Right = _right?.Status(),
        };
    }

    private StandbyNetworkStatus NetworkStatus()
    {
        (long frames, long bytes, long dropped) = _inbound.Counters;
        return new StandbyNetworkStatus(frames, bytes, dropped, _network.Counters);
    }

    /// <inheritdoc/>
    public void Post(Link? link, ReceiverInput input) => _inputs.Writer.TryWrite((link, input));

    /// <summary>A state's stable name.</summary>
    internal static string Name(ReceiverState state) => state.ToString().ToLowerInvariant();

    private void Watch(Task task)
    {
        lock (_work)
        {
            _work.RemoveAll(t => t.IsCompleted);
            _work.Add(task);
        }
    }

    private async Task RunAsync()
    {
        using PeriodicTimer timer = new(TickEvery, _time);
        Task<bool> tick = timer.WaitForNextTickAsync(_cancellation.Token).AsTask();
        Task<bool> input = _inputs.Reader.WaitToReadAsync(_cancellation.Token).AsTask();
        TimeSpan lastTick = Now;
        try
        {
            while (true)
            {
                await Task.WhenAny(tick, input);
                if (input.IsCompleted)
                {
                    if (!await input)
                    {
                        return;
                    }

                    while (_inputs.Reader.TryRead(out (Link? Link, ReceiverInput Input) next))
                    {
                        Take(next.Link, next.Input);
                    }

                    input = _inputs.Reader.WaitToReadAsync(_cancellation.Token).AsTask();
                }

                if (tick.IsCompleted)
                {
                    await tick;
                    TimeSpan now = Now;

                    // Our own lateness is not the peer's silence: what it sent meanwhile has to be read first.
                    if (now - lastTick > _options.FailureTimeout / 4)
                    {
                        _graceUntil = now + (_options.FailureTimeout / 2);
                    }

                    lastTick = now;
                    Take(null, new ReceiverInput.Tick(LastHeard(now)));
                    tick = timer.WaitForNextTickAsync(_cancellation.Token).AsTask();
                }
            }
        }
        catch (OperationCanceledException)
        {
            // Disposed.
        }
    }

    private TimeSpan LastHeard(TimeSpan now) => _link is not { } link || link.WaitsForRoom || now < _graceUntil
        ? now
        : _time.GetElapsedTime(_start, link.Connection.LastHeard);

    private void Take(Link? link, ReceiverInput input)
    {
        if (input is ReceiverInput.LinkUp)
        {
            CloseLink();
            _link = link;
            Log.Connected(_log, Guest.Name, link!.Peer);
        }
        else if (link is not null && link != _link)
        {
            // Of a connection that was given up: what it still brings counts for nothing.
            if (input is ReceiverInput.RoundWhole stale)
            {
                _whole.Drop(stale.End.Round);
            }

            return;
        }

        bool held = input is ReceiverInput.RoundWhole;
        foreach (ReceiverOutput output in _machine.Step(input, Now))
        {
            held &= output is not ReceiverOutput.Refuse;
            Carry(output);
        }

        // The session ended while the sender was being let in: it shall come back to a new one.
        if (input is ReceiverInput.LinkUp && _machine.IsOver)
        {
            CloseLink();
        }

        if (input is ReceiverInput.RoundWhole refused && (!held || _machine.IsOver))
        {
            _whole.Drop(refused.End.Round);
        }
    }
}
