using System.Diagnostics;
using System.Threading.Channels;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Control;
using Curling.Hosting.Instances;
using Curling.Hosting.Network;
using Curling.Hosting.Options;
using Curling.Hosting.Time;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Guests;
using Curling.Replication.Sender;
using Curling.Send.Capture;
using Curling.Send.Guest;
using Curling.Send.Links;
using Curling.Send.Network;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Curling.Send;

/// <summary>Takes a running guest over for a sender.</summary>
/// <param name="network">Hears of the guest's network from now on.</param>
/// <param name="atCut">Called in every cut, see <see cref="PrimaryGuest.AtCut"/>.</param>
internal delegate PrimaryGuest AdoptGuest(INetworkEvents network, Action<GuestNetwork, long> atCut);

/// <summary>
/// The sender: starts the guest, keeps a link to the receiver, captures rounds as its machine says, and answers on the
/// control socket.
/// </summary>
/// <remarks>
/// It runs as <c>curling-send</c>, or inside <c>curling-recv</c> for a guest that was promoted there and is protected again. One loop steps the machine and carries out what it says; the link and the capture run beside it and report by posting
/// inputs. The guest's QEMU ends with it.
/// </remarks>
internal sealed partial class SenderDaemon : BackgroundService
{
    // What may be captured and not yet on the wire: enough to keep a fast link busy, little beside a guest's memory.
    private const long WindowBytes = 64L << 20;
    private static readonly TimeSpan TickEvery = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan TellAgain = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan LastWords = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(10);
    private volatile SenderOptions _options;
    private readonly TimeProvider _time;
    private readonly ILogger _log;
    private readonly IHostApplicationLifetime? _lifetime;
    private SenderMachine _machine;
    private readonly Channel<(ReceiverLink? Link, SenderInput Input)> _inputs =
        Channel.CreateUnbounded<(ReceiverLink?, SenderInput)>(new UnboundedChannelOptions { SingleReader = true });

    private readonly ChunkPool _pool = new(DataFrame.ChunkBytes, WindowBytes + (4L * DataFrame.ChunkBytes));
    private readonly CancellationTokenSource _work = new();
    private readonly Percentiles _pauses = new();
    private readonly Percentiles _acks = new();

    // When each round in flight was cut; more than may be in flight.
    private readonly long[] _cuts = new long[128];
    private readonly long _start;
    private readonly string _sender = Guid.NewGuid().ToString("N");
    private readonly TaskCompletionSource<PrimaryGuest> _started = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly InboundCopy? _copy;
    private EtcdArbiter? _arbiter;
    private PrimaryGuest? _guest;
    private IRoundCapture? _capture;
    private ReceiverLink? _link;
    private Task _capturing = Task.CompletedTask;
    private Task _connecting = Task.CompletedTask;
    private Task _closing = Task.CompletedTask;
    private SenderOutput.End? _end;
    private volatile SenderOutput.SayGoodbye? _lateGoodbye;
    private string? _reason;
    private long _captureStarted;
    private TimeSpan _graceUntil;
    private (TimeSpan At, string Reason)? _lastNotConnected;

    /// <summary>Creates the daemon; it starts with the host.</summary>
    public SenderDaemon(SenderOptions options, TimeProvider time, ILogger<SenderDaemon> log, IHostApplicationLifetime? lifetime = null)
        : this(options, time, (ILogger)log, lifetime)
    {
    }

    /// <summary>Creates a sender inside another daemon.</summary>
    internal SenderDaemon(SenderOptions options, TimeProvider time, ILogger log, IHostApplicationLifetime? lifetime = null)
    {
        _options = options;
        _time = time;
        _log = log;
        _lifetime = lifetime;
        _start = time.GetTimestamp();
        _copy = options.ReplayInbound ? new InboundCopy() : null;
        _machine = CreateMachine(incremental: false);
    }

    /// <summary>The guest's generation.</summary>
    public long Generation
    {
        get => _right?.Generation ?? field;
        init;
    } = 1;

    /// <summary>
    /// Gives the guest, where it runs already: one that was promoted here and is to have a standby again. Null where the sender starts its own. The
    /// guest's QEMU ends with the sender in both cases.
    /// </summary>
    internal AdoptGuest? Adopt { get; init; }

    /// <summary>The right to run the adopted guest, where an arbiter decides; it stays its owner's, who passes its events on.</summary>
    internal RightKeeper? Right
    {
        init => _right = value;
    }

    /// <summary>The identifier of this run, which the receiver knows it by.</summary>
    internal string Id => _sender;

    /// <summary>What ended the daemon before the guest ran.</summary>
    public OperatorException? Failure { get; private set; }

    /// <summary>How protection ended.</summary>
    public SenderEnd? Ended => _end?.How;

    /// <summary>The guest, once it runs.</summary>
    internal Task<PrimaryGuest> Started => _started.Task;

    /// <summary>The capture of incremental rounds, for tests that look at its cuts.</summary>
    internal IncrementalCapture? Incremental => _capture as IncrementalCapture;

    /// <summary>The state a person sees.</summary>
    internal SenderState State => _machine.State;

    /// <summary>Chunks that are out, for tests that look for leaks.</summary>
    internal int RentedChunks => _pool.RentedChunks;

    private bool SyncsOutput => _options.Sync switch
    {
        SyncChoice.Output => true,
        SyncChoice.Periodic => false,
        _ => _options.Interval is null && _guest?.Network.IsEmpty == false,
    };

    private bool UsesIncremental => _capture is IncrementalCapture;

    private TimeSpan Now => _time.GetElapsedTime(_start);

    /// <inheritdoc/>
    protected override async Task ExecuteAsync(CancellationToken stoppingToken)
    {
        try
        {
            await RunAsync(stoppingToken);
        }
        catch (Exception e) when (e is OperatorException or QemuException or GuestDefinitionException or MemoryFileException)
        {
            Failure = e as OperatorException ?? new OperatorException(e.Message);
            _started.TrySetException(Failure);
        }
        catch (OperationCanceledException) when (stoppingToken.IsCancellationRequested)
        {
            _started.TrySetCanceled(CancellationToken.None);
        }
        finally
        {
            _lifetime?.StopApplication();
        }
    }

    private async Task RunAsync(CancellationToken stopping)
    {
        int removed = Adopt is null ? InstanceDirectory.RemoveAbandoned() : 0;
        if (removed > 0)
        {
            Log.RemovedAbandoned(_log, removed);
        }

        if (Adopt is null && _options.GuestFile is null)
        {
            Log.Builtin(_log);
        }

        if (Adopt is not null)
        {
            await RunGuestAsync(stopping);
            return;
        }

        try
        {
            _right = await TakeRightAsync(stopping);
            await RunGuestAsync(stopping);
        }
        finally
        {
            if (_right is { } right)
            {
                // The guest has ended.
                await right.ReleaseAsync(ReleaseLimit);
                await right.DisposeAsync();
            }

            _arbiter?.Dispose();
        }
    }

    private async Task RunGuestAsync(CancellationToken stopping)
    {
        SenderNetwork network = new(input => Post(null, input), _copy);
        PrimaryGuest guest = Adopt is not null
            ? Adopt(network, AtCut)
            : await PrimaryGuest.StartAsync(
                _options.GuestFile, _options.Qemu, _options.MaxHeldBytes, network, deadline => _right?.Guard(deadline), AtCut, _log, stopping);
        try
        {
            // A guest inside another daemon is asked about there.
            await using ControlServer? control = Adopt is not null
                ? null
                : ControlServer.Start(_options.Control ?? ControlPaths.For("send", guest.Definition.Name), AnswerAsync);
            if (_options.DiskDigests is { } digests)
            {
                guest.Disks.AddDigestsTo(digests);
            }

            _guest = guest;
            CheckRight(guest);
            _capture = await CreateCaptureAsync(guest, stopping);
            _machine = CreateMachine(UsesIncremental);
            if (control is null)
            {
                Log.Adopted(_log, guest.Definition.Name, Generation, _options.Target.ToString());
            }
            else
            {
                Log.Started(
                    _log, guest.Definition.Name, ByteSize.Format(guest.Definition.MemoryBytes), guest.Qemu.Version,
                    guest.Qemu.Launch.Accelerator, guest.Qemu.Pid, control.SocketPath);
                Log.Reachable(_log, guest.Definition.Name, guest.Serial ?? "none", guest.Display ?? "none");
            }

            _started.TrySetResult(guest);
            using CancellationTokenRegistration stop = stopping.Register(() => Post(null, new SenderInput.Stop()));
            _ = guest.Ended.ContinueWith(
                t => Post(null, t.Result.ByGuest ? new SenderInput.GuestShutdown() : new SenderInput.QemuCrashed(t.Result.Text)),
                TaskScheduler.Default);
            Post(null, new SenderInput.GuestStarted());
            using CancellationTokenSource telling = new();
            Task tell = TellAsync(telling.Token);
            await LoopAsync();
            await telling.CancelAsync();
            await tell.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        finally
        {
            _retarget?.Refused.TrySetResult("its protection has ended");
            Task release = guest.Ended.IsCompleted && _right is { } early ? early.ReleaseAsync(ReleaseLimit) : Task.CompletedTask;

            // A handshake that is under way ends first: the receiver must hear how this ended, or it takes it for a loss.
            if (_lateGoodbye is not null)
            {
                await Task.WhenAny(_connecting, Task.Delay(EndLimit, CancellationToken.None));
            }

            if (_end is { How: SenderEnd.Superseded })
            {
                // The guest runs elsewhere: not a moment longer here.
                await guest.Qemu.DisposeAsync();
            }

            await CloseLinkAsync();
            await release;
            await _work.CancelAsync();

            // The guest's end comes before anything that may have failed is looked at.
            await Task.WhenAll(_connecting, _closing, _releasing).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            await guest.Qemu.DisposeAsync();
            if (_end is { How: SenderEnd.GuestShutdown or SenderEnd.Stopped })
            {
                // Nobody will go on from an earlier moment: the receiver has been told. The guest's last words may be heard.
                await guest.Network.LeaveAsync(LastWords);
            }

            await _capturing.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (_capture is not null)
            {
                await _capture.DisposeAsync();
            }

            await guest.DisposeAsync();
            if (_copy is not null)
            {
                await _copy.DisposeAsync();
            }

            _pool.Dispose();
        }
    }

    private SenderMachine CreateMachine(bool incremental) => new(new SenderSettings(
        incremental,
        _options.MaxRoundsInFlight,
        TimeSpan.FromMilliseconds(Math.Min(200, _options.FailureTimeout.TotalMilliseconds / 8)),

        // A receiver that refused a connection gives the sender the failure timeout to come back: be there well before.
        TimeSpan.FromMilliseconds(Math.Clamp(_options.FailureTimeout.TotalMilliseconds / 4, 50, 5000)))
    {
        OutputAsksForRounds = SyncsOutput,
        EndsWhenRefused = Adopt is null,
        Arbitrated = _options.Arbiter is not null,
        StallTimeout = TimeSpan.FromSeconds(Math.Max(60, 10 * _options.FailureTimeout.TotalSeconds)),
    })
    {
        MinInterval = _options.MinInterval ?? TimeSpan.Zero,
        Interval = SyncsOutput ? _options.MaxInterval : _options.Interval ?? TimeSpan.FromMilliseconds(10),
    };

    private void Post(ReceiverLink? link, SenderInput input) => _inputs.Writer.TryWrite((link, input));

    private async Task LoopAsync()
    {
        using PeriodicTimer timer = new(TickEvery, _time);
        Task<bool> tick = timer.WaitForNextTickAsync().AsTask();
        Task<bool> input = _inputs.Reader.WaitToReadAsync().AsTask();
        TimeSpan lastTick = Now;
        while (_end is null)
        {
            if (_machine.NextTick is { } next && next - Now is { Ticks: > 0 } wait && wait < TickEvery)
            {
                // Whole milliseconds, upwards: a delay is cut to them, and less than one would not wait at all.
                await Task.WhenAny(tick, input, Task.Delay(TimeSpan.FromMilliseconds(Math.Ceiling(wait.TotalMilliseconds)), _time));
            }
            else if (_machine.NextTick is null || _machine.NextTick > Now)
            {
                await Task.WhenAny(tick, input);
            }

            if (input.IsCompleted)
            {
                await input;
                while (_inputs.Reader.TryRead(out (ReceiverLink? Link, SenderInput Input) posted))
                {
                    Take(posted.Link, posted.Input);
                }

                input = _inputs.Reader.WaitToReadAsync().AsTask();
            }

            if (tick.IsCompleted)
            {
                await tick;
                CheckSilence(ref lastTick);
                if (_guest?.Disks.WantsRound == true)
                {
                    Take(null, new SenderInput.OutputFull());
                }

                tick = timer.WaitForNextTickAsync().AsTask();
            }

            Take(null, SenderInput.Tick.Instance);
        }
    }

    private void CheckSilence(ref TimeSpan lastTick)
    {
        TimeSpan now = Now;

        // Our own lateness is not the peer's silence.
        if (now - lastTick > _options.FailureTimeout / 4)
        {
            _graceUntil = now + (_options.FailureTimeout / 2);
        }

        lastTick = now;
        if (_link is { } link && now > _graceUntil
            && now - _time.GetElapsedTime(_start, link.LastHeard) > _options.FailureTimeout)
        {
            Take(link, new SenderInput.LinkLost($"nothing was heard from the receiver for {Durations.Format(_options.FailureTimeout)}"));
        }

        if (_link is { } alive)
        {
            Take(alive, new SenderInput.Sent(alive.Rounds.MemoryBytes + alive.Rounds.StateBytes));
        }
    }

    private void Take(ReceiverLink? link, SenderInput input)
    {
        // What an earlier connection still brings counts for nothing.
        if (link is not null && link != _link)
        {
            return;
        }

        if (input is SenderInput.Refused { Code: RefusalCode.Limit })
        {
            _guest?.Disks.SendLessAtOnce();
        }

        if (input is SenderInput.Committed committed && _guest is { Disks.IsEmpty: false } guest && _machine.MayBeCommitted(committed.Round))
        {
            try
            {
                guest.Disks.Committed(committed.Round);
                input = committed with { IsComplete = guest.Disks.IsComplete(committed.Round) };
            }
            catch (InvalidOperationException e)
            {
                input = new SenderInput.LinkLost($"the receiver says that round {committed.Round} is committed, which it cannot be: {e.Message}");
            }
        }

        if (input is SenderInput.Switchover && _newAskers.TryDequeue(out TaskCompletionSource<string>? asker))
        {
            _switchoverAskers.Add(asker);
        }

        foreach (SenderOutput output in _machine.Step(input, Now))
        {
            Carry(output);
        }
    }

    private void Carry(SenderOutput output)
    {
        switch (output)
        {
            case SenderOutput.Connect:
                _attempt.Dispose();
                _attempt = CancellationTokenSource.CreateLinkedTokenSource(_work.Token);
                _connecting = ConnectAsync(_connecting, _attempt.Token);
                break;
            case SenderOutput.CloseLink close:
                _attempt.Cancel();
                _link?.SayRefusal(close.Reason);
                _closing = Task.WhenAll(_closing, CloseLinkAsync());
                break;
            case SenderOutput.LeaveStandby leave:
                _closing = Task.WhenAll(_closing, LeaveStandbyAsync(leave, _retarget, Interlocked.Exchange(ref _link, null)));
                break;
            case SenderOutput.RetargetRefused refused:
                TellRetargetRefused(refused.Why);
                break;
            case SenderOutput.SwitchoverFailed failed:
                _switchoverAskers.ForEach(a => a.TrySetResult(failed.Reason));
                _switchoverAskers.Clear();
                break;
            case SenderOutput.CaptureRound capture:
                _captureStarted = Stopwatch.GetTimestamp();
                _capturing = CaptureAsync(capture, _capturing);
                break;
            case SenderOutput.HoldOutput hold when !_options.ReleaseEarly:
                _guest!.Network.Gate.Protect(hold.FirstRound);
                break;
            case SenderOutput.ReleaseOutput release:
                Release(release.Round);
                break;
            case SenderOutput.ReleaseAllOutput:
                ReleaseAll();
                break;
            case SenderOutput.SayGoodbye goodbye:
                if (_link is { } link)
                {
                    link.SayGoodbye(goodbye.Reason, goodbye.Text);
                }
                else
                {
                    _lateGoodbye = goodbye;
                }

                break;
            case SenderOutput.ResumeGuest resume:
                Log.Resumed(_log, _guest!.Definition.Name, resume.Reason);
                _capturing = Task.WhenAll(_capturing, ResumeAsync());
                break;
            case SenderOutput.RunGuest:
                _capturing = Task.WhenAll(_capturing, AllowGuestAsync());
                break;
            case SenderOutput.ReleaseRight:
                _givenBack = true;
                _releasing = ReleaseRightAsync(_releasing);
                break;
            case SenderOutput.WantRight:
                _givenBack = false;
                _releasing = WantRightAsync(_releasing);
                break;
            case SenderOutput.StateChanged changed:
                Tell(changed);
                break;
            case SenderOutput.End end:
                _end = end;
                break;
        }
    }
}
