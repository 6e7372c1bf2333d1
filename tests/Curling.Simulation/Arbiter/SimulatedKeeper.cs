using Curling.Hosting.Arbiter;
using Curling.Replication.Rights;

namespace Curling.Simulation.Arbiter;

/// <summary>
/// Keeps the right to run one guest in the steps of the real <see cref="RightKeeper"/>, which has a thread and a task where this has events of
/// its daemon's process: it talks to the arbiter, watches the time, has the peer vouch.
/// </summary>
internal sealed class SimulatedKeeper
{
    private const int SliceMilliseconds = 50;
    private const int RetryMilliseconds = 250;
    private readonly PairWorld _world;
    private readonly SimulatedProcess _process;
    private readonly SimulatedClock _clock;
    private readonly SimulatedArbiter _arbiter;
    private readonly Holder _me;
    private readonly IRightEvents _events;
    private readonly RightToRun _right = new();
    private readonly Dictionary<long, (TimeSpan AskedAt, TimeSpan Time)> _asked = [];
    private readonly Queue<TaskCompletionSource> _waitingToTalk = new();
    private TaskCompletionSource? _changed;
    private Claim? _claim;
    private bool _isChanged;
    private bool _talking;
    private bool _started;
    private bool _wanted;
    private bool _told;
    private bool _superseded;
    private long _givenBack;
    private bool _ended;
    private TimeSpan _renewedAt;
    private TimeSpan _vouchAskedAt;
    private long _vouches;
    private long _look;
    private long _blockedUntil;

    /// <param name="world">Where it is.</param>
    /// <param name="process">Its daemon's process.</param>
    /// <param name="client">The host, as partitions name it.</param>
    /// <param name="name">Who it is; each run of a daemon has a name of its own.</param>
    /// <param name="events">Hears what becomes of the right.</param>
    public SimulatedKeeper(PairWorld world, SimulatedProcess process, string client, string name, IRightEvents events)
    {
        _world = world;
        _process = process;
        _clock = new SimulatedClock(world, process);
        _arbiter = new SimulatedArbiter(world, process, _clock, client);
        _me = new Holder(name, client, client, 1);
        _events = events;
    }

    /// <summary>The guest's generation that the right was given for, 0 before.</summary>
    public long Generation { get; private set; }

    /// <summary>Whether the guest may run, and its output leave, at this moment.</summary>
    public bool IsValid => _right.IsValid(_clock.Now);

    /// <summary>A request is on its way to the arbiter or its answer back.</summary>
    public bool IsTalking => _talking;

    /// <summary>Asks once for the right; when it is given it is kept from then on.</summary>
    /// <exception cref="ArbiterException">The arbiter does not answer.</exception>
    public async Task<TakeAnswer> TakeAsync(long? expected)
    {
        await EnterAsync();
        try
        {
            TakeAnswer answer = await _arbiter.TakeAsync("guest", _me, expected, raise: true, CancellationToken.None);
            if (answer.Claim is { } claim)
            {
                Have(claim, answer);
                Generation = claim.Holder.Generation;
                _world.Note(_me.Id, $"has the right as generation {Generation}");
                if (!_started)
                {
                    _started = true;
                    Look(0);
                    _world.Run(KeepAsync());
                }
            }

            return answer;
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>Asks who else has the right; null for nobody.</summary>
    /// <exception cref="ArbiterException">The arbiter does not answer.</exception>
    public async Task<Holder?> LookAsync() => await _arbiter.LookAsync("guest", CancellationToken.None) is { } other && other.Id != _me.Id ? other : null;

    /// <summary>The guest stands still: the right is given back, and its generation too when it has surely not run under it.</summary>
    public async Task ReleaseAsync(bool isUnused = false)
    {
        _wanted = false;
        _right.Withdrawn();
        Look(0);
        if (_superseded)
        {
            return;
        }

        await EnterAsync();
        try
        {
            Claim? claim = _claim;
            _claim = null;
            _wanted = false;
            _right.Withdrawn();
            Look(0);
            if (claim is not null)
            {
                _givenBack = claim.Lease;
                await (isUnused
                    ? _arbiter.GiveBackUnusedAsync(claim, CancellationToken.None) : _arbiter.ReleaseAsync(claim, CancellationToken.None));
                _world.Note(_me.Id, isUnused ? "has given the right back unused" : "has given the right back");
            }
        }
        catch (ArbiterException)
        {
            // It runs out.
        }
        finally
        {
            Leave();
        }
    }

    /// <summary>The guest is to run here again after <see cref="ReleaseAsync"/>.</summary>
    public void Want()
    {
        _wanted = true;
        _isChanged = _changed?.TrySetResult() != true;
    }

    /// <summary>The peer promised to take nothing over.</summary>
    public void Vouched(long sequence, TimeSpan time)
    {
        if (_asked.Remove(sequence, out (TimeSpan AskedAt, TimeSpan Time) asked))
        {
            _right.Vouched(_world.Defect.CountsTheLeaseFromTheAnswer ? _clock.Now : asked.AskedAt, time < asked.Time ? time : asked.Time);
            Look(0);
        }
    }

    /// <summary>Whoever watches the time waits so long until the guest stands still.</summary>
    public void BlockFor(int milliseconds) => _blockedUntil = _world.History.Milliseconds + milliseconds;

    /// <summary>Nothing is asked and told any more.</summary>
    public void End() => _ended = true;

    private void Have(Claim claim, TakeAnswer answer)
    {
        _claim = claim;
        _wanted = true;
        _told |= !_started;
        _renewedAt = answer.AskedAt;
        _right.Granted(answer.AskedAt, answer.Ttl);
        Look(0);
    }

    private async Task KeepAsync()
    {
        int wait = PairOptions.TtlMilliseconds / 3;
        while (!_ended)
        {
            await ChangedAsync(wait);
            wait = await RenewAsync() ? PairOptions.TtlMilliseconds / 3 : RetryMilliseconds;
        }
    }

    private async Task<bool> RenewAsync()
    {
        await EnterAsync();
        try
        {
            if (!_wanted || _superseded || _ended)
            {
                return true;
            }

            if (_claim is { } claim)
            {
                RenewAnswer answer = await _arbiter.RenewAsync(claim, CancellationToken.None);
                switch (answer.How)
                {
                    case RenewResult.Renewed:
                        if (_claim == claim)
                        {
                            _renewedAt = answer.AskedAt;
                            _right.Renewed(answer.AskedAt, answer.Ttl);
                            Look(0);
                        }

                        return true;
                    case RenewResult.Superseded:
                        Supersede();
                        return true;
                }
            }

            TakeAnswer taken = await _arbiter.TakeAsync("guest", _me, Generation, raise: false, CancellationToken.None);
            if (taken.Claim is { } again)
            {
                if (!_wanted || again.Lease == _givenBack)
                {
                    _givenBack = again.Lease;
                    await _arbiter.ReleaseAsync(again, CancellationToken.None);
                    return false;
                }

                Have(again, taken);
                _world.Note(_me.Id, $"has the right again, as generation {Generation}");
                return true;
            }

            if (taken.Generation != Generation)
            {
                Supersede();
            }

            return false;
        }
        catch (ArbiterException)
        {
            return false;
        }
        finally
        {
            Leave();
        }
    }

    private void Supersede()
    {
        _superseded = true;
        _right.Withdrawn();
        Look(0);
        _world.Note(_me.Id, "hears that the guest is another's");
        _events.Superseded("superseded");
    }

    /// <summary>Plans the next look at the clock; an earlier plan is void.</summary>
    private void Look(long milliseconds)
    {
        if (!_started || _ended)
        {
            return;
        }

        long look = ++_look;
        _process.In(Math.Max(milliseconds, _blockedUntil - _world.History.Milliseconds), () =>
        {
            if (look == _look && !_ended)
            {
                Watch();
            }
        });
    }

    private void Watch()
    {
        TimeSpan now = _clock.Now;
        bool valid = _right.IsValid(now);
        bool told = _told;
        _told = valid;
        double left = valid ? Math.Min(SliceMilliseconds, Math.Ceiling((_right.ValidUntil - now).TotalMilliseconds)) : SliceMilliseconds;
        if (valid && !told)
        {
            _events.RightBack();
        }
        else if (told && !valid)
        {
            _events.RightLost("it has run out");
        }

        TimeSpan ttl = _arbiter.Ttl;
        if (_wanted && !_superseded && now - _renewedAt >= ttl / 2 && now - _vouchAskedAt >= ttl / 4)
        {
            _vouchAskedAt = now;
            _asked[++_vouches] = (now, ttl);
            _asked.Remove(_vouches - 8);
            _events.AskVouch(_vouches, ttl);
        }

        Look((long)left);
    }

    private Task ChangedAsync(int milliseconds)
    {
        TaskCompletionSource changed = new();
        _changed = changed;
        if (_isChanged)
        {
            _isChanged = false;
            changed.SetResult();
        }

        _process.In(milliseconds, () => changed.TrySetResult());
        return changed.Task;
    }

    private Task EnterAsync()
    {
        if (!_talking)
        {
            _talking = true;
            return Task.CompletedTask;
        }

        TaskCompletionSource turn = new();
        _waitingToTalk.Enqueue(turn);
        return turn.Task;
    }

    private void Leave()
    {
        if (_waitingToTalk.TryDequeue(out TaskCompletionSource? next))
        {
            next.SetResult();
        }
        else
        {
            _talking = false;
        }
    }
}
