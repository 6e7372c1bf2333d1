using Curling.Hosting.Arbiter;
using Curling.Replication.Receiver;
using Curling.Simulation.Arbiter;

namespace Curling.Simulation.Receiver;

/// <summary>The right to run the guest here, where an arbiter decides, as the real session minds it.</summary>
internal sealed partial class Session
{
    private bool _standsStill;

    /// <summary>Keeps the right; null without an arbiter.</summary>
    public SimulatedKeeper? Keeper { get; }

    /// <summary>The guest's generation.</summary>
    public long Generation { get; private set; }

    /// <summary>Why the arbiter did not give the right when it was asked last.</summary>
    public RightRefusal? LastRefusal { get; private set; }

    /// <summary>The guest runs here at this moment.</summary>
    public bool GuestRuns => HasGuest && !_standsStill && _standbyStalledUntil <= _history.Milliseconds;

    /// <summary>Whoever could stop the guest is held up, or was a moment ago.</summary>
    public bool IsHeldUp => Math.Max(_process.StalledUntil, _standbyStalledUntil) + PairOptions.StoppingMilliseconds > _history.Milliseconds;

    /// <inheritdoc/>
    void IRightEvents.RightLost(string reason)
    {
        if (HasGuest)
        {
            Suspend(true);
        }
    }

    /// <inheritdoc/>
    void IRightEvents.RightBack()
    {
        if (HasGuest)
        {
            Suspend(false);
        }
    }

    /// <inheritdoc/>
    void IRightEvents.Superseded(string reason) => Post(null, new ReceiverInput.EndAsked(reason));

    /// <inheritdoc/>
    void IRightEvents.AskVouch(long sequence, TimeSpan time)
    {
        // A promoted guest that has no standby has no peer that could.
    }

    /// <summary>The session is gone while its process lives on: its guest ends, and the right is given back.</summary>
    public void Dispose()
    {
        Gone = true;
        HasGuest = false;
        GiveRightBack();
    }

    private async Task TakeRightAsync()
    {
        try
        {
            TakeAnswer answer = await Keeper!.TakeAsync(Generation);
            if (Gone)
            {
                return;
            }

            LastRefusal = answer.How switch
            {
                TakeResult.Taken => null,
                TakeResult.Held => RightRefusal.Held,
                _ => RightRefusal.Superseded,
            };
            if (answer.How == TakeResult.Taken)
            {
                Generation = Keeper.Generation;
            }
        }
        catch (ArbiterException)
        {
            LastRefusal = RightRefusal.Unreachable;
        }

        Post(null, LastRefusal is { } why ? new ReceiverInput.RightRefused(why, "refused") : new ReceiverInput.RightTaken());
    }

    /// <summary>The guest runs here: if the right was lost meanwhile, not any more.</summary>
    private void GuardGuest()
    {
        if (Machine.HasRight && Keeper is { IsValid: false })
        {
            Suspend(true);
        }

        if (!Machine.HasRight && Keeper is { } unasked)
        {
            _world.Run(TakeRightAfterwardsAsync(unasked));
        }
    }

    private async Task TakeRightAfterwardsAsync(SimulatedKeeper keeper)
    {
        while (!Gone && !Machine.IsOver)
        {
            try
            {
                if ((await keeper.TakeAsync(Generation - 1)).How == TakeResult.Taken)
                {
                    Post(null, new ReceiverInput.RightTaken());
                    return;
                }
            }
            catch (ArbiterException)
            {
                // It is asked again.
            }

            await _process.Delay(PairOptions.TtlMilliseconds / 3);
        }
    }

    private void Suspend(bool stop)
    {
        int wait = (int)Math.Max(0, _standbyStalledUntil - _history.Milliseconds) + _history.Between(0, 4);
        Keeper!.BlockFor(wait);
        _process.In(wait, () =>
        {
            _history.Note(Name, stop ? "its guest is suspended" : "its guest may run");
            _standsStill = stop;
        });
    }

    /// <summary>What the promoted guest sends leaves while the right lasts.</summary>
    private void SendOutput()
    {
        if (GuestRuns && (Keeper is null || !Machine.HasRight || Keeper.IsValid))
        {
            _world.OutputLeaves(Name, Generation);
        }
    }

    private void GiveRightBack()
    {
        if (Keeper is { } keeper)
        {
            if (!_mayHaveRun && keeper.Generation > 0 && Generation == keeper.Generation)
            {
                Generation--;
            }

            _world.Run(keeper.ReleaseAsync(isUnused: !_mayHaveRun));
        }
    }
}
