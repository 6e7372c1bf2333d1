using Curling.Hosting.Arbiter;
using Curling.Protocol;
using Curling.Replication.Rights;
using Curling.Replication.Sender;
using Curling.Simulation.Arbiter;

namespace Curling.Simulation.Sender;

/// <summary>The right to run the guest, where an arbiter decides, as the real daemon minds it.</summary>
internal sealed partial class SenderHost
{
    private const int TakeAgainMilliseconds = 100;
    private const int SlackMilliseconds = 1_000;
    private const int LastFramesMilliseconds = 50;
    private Task _releasing = Task.CompletedTask;
    private bool _isStarted;
    private bool _suspended;
    private bool _standsStill;
    private long _qemuBusyUntil;

    /// <summary>Keeps the right; null without an arbiter.</summary>
    public SimulatedKeeper? Keeper { get; }

    /// <summary>The guest runs at this moment.</summary>
    public bool GuestRuns => Guest == GuestState.Running && !_standsStill && _qemuStalledUntil <= _history.Milliseconds;

    /// <summary>Whoever could stop the guest is held up, or was a moment ago: its output cannot leave meanwhile.</summary>
    public bool IsHeldUp => Math.Max(_process.StalledUntil, _qemuStalledUntil) + PairOptions.StoppingMilliseconds > _history.Milliseconds;

    /// <inheritdoc/>
    void IRightEvents.RightLost(string reason)
    {
        Suspend(reason);
        Step(new SenderInput.RightLost(reason));
    }

    /// <inheritdoc/>
    void IRightEvents.RightBack()
    {
        _output.Leave();
        Step(new SenderInput.RightBack());
    }

    /// <inheritdoc/>
    void IRightEvents.Superseded(string reason) => Tell(new SenderInput.Refused(RefusalCode.Superseded, reason));

    /// <inheritdoc/>
    void IRightEvents.AskVouch(long sequence, TimeSpan time)
    {
        Span<byte> payload = stackalloc byte[VouchMessage.Bytes];
        new VouchMessage(sequence, (long)time.TotalMilliseconds).Write(payload);
        Connection?.Writer.Send(FrameType.VouchAsk, payload);
    }

    private async Task StartAsync(SimulatedKeeper keeper)
    {
        long since = _history.Milliseconds;
        string? problem = null;
        AwaitedRight awaited = new(TimeSpan.FromMilliseconds(PairOptions.TtlMilliseconds));
        while (problem is null && IsUp)
        {
            try
            {
                bool isFree = false;
                if (awaited.MayTake)
                {
                    if ((await keeper.TakeAsync(expected: null)).How == TakeResult.Taken)
                    {
                        _process.In(_history.Between(0, 50), StartGuest);
                        return;
                    }

                    awaited.Held();
                }
                else if (await keeper.LookAsync() is not null)
                {
                    awaited.Held();
                }
                else
                {
                    isFree = true;
                    awaited.Free(_history.Now);
                }

                problem = !isFree && _history.Milliseconds - since > PairOptions.TtlMilliseconds + SlackMilliseconds ? "another has the right" : null;
                await _process.Delay(TakeAgainMilliseconds);
            }
            catch (ArbiterException e)
            {
                problem = e.Message;
            }
        }

        if (IsUp)
        {
            _history.Note(_name, $"does not start its guest: {problem}");
            _world.GuestMayEnd |= Number == 1;
            Ended = SenderEnd.Refused;
            Guest = GuestState.Dead;
            keeper.End();
        }
    }

    private void StartGuest()
    {
        if (!IsUp)
        {
            return;
        }

        _isStarted = true;
        Guest = GuestState.Running;
        if (!Keeper!.IsValid)
        {
            Suspend("it ran out meanwhile");
        }

        Step(new SenderInput.GuestStarted());
    }

    private void Suspend(string reason)
    {
        _suspended = true;
        int wait = Busy();
        Keeper!.BlockFor(wait);
        _process.In(wait, () =>
        {
            if (_suspended && !_standsStill && Guest != GuestState.Dead)
            {
                _standsStill = true;
                _history.Note(_name, $"its guest is suspended: {reason}");
            }
        });
    }

    private void Allow()
    {
        // One after the other, as QEMU takes it; the right is looked at when it is its turn.
        _process.In(Math.Max(0, _qemuBusyUntil - _history.Milliseconds), () =>
        {
            if (IsUp && Keeper!.IsValid)
            {
                _suspended = false;
                _process.In(Busy(), () =>
                {
                    _standsStill = false;
                    _history.Note(_name, "its guest may run");
                });
            }
        });
    }

    /// <summary>How long QEMU takes for a command; the next one waits.</summary>
    private int Busy()
    {
        long done = Math.Max(Math.Max(_qemuBusyUntil, _qemuStalledUntil), _history.Milliseconds) + _history.Between(0, 4);
        _qemuBusyUntil = done;
        return (int)(done - _history.Milliseconds);
    }

    private async Task ReleaseRightAsync(Task before)
    {
        await before;
        long start = _history.Milliseconds;
        while (_output.Held > 0 && _history.Milliseconds - start < LastFramesMilliseconds)
        {
            await _process.Delay(1);
        }

        await Keeper!.ReleaseAsync();
    }

    private async Task WantRightAsync(Task before)
    {
        await before;
        Keeper!.Want();
    }

    private void EndRight()
    {
        if (Keeper is { } keeper)
        {
            // The daemon lives on until the right is given back.
            _process.In(_history.Between(0, 20), () => _world.Run(keeper.ReleaseAsync()));
        }
    }
}
