using System.Globalization;
using Curling.Hosting.Control;
using Curling.Hosting.Network;
using Curling.Linux.Time;
using Curling.Replication.Rights;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Arbiter;

/// <summary>
/// Keeps the right to run one guest: renews it, has the peer vouch while the arbiter does not answer, closes the way out of the guest's
/// output when it runs out, and has the guest stopped.
/// </summary>
/// <remarks>
/// Thread-safe. A task talks to the arbiter; a thread of its own watches the time, for a daemon that is busy must not stop a guest too
/// late. All times are of <see cref="BootClock"/>.
/// </remarks>
public sealed partial class RightKeeper : IAsyncDisposable
{
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(50);
    private static readonly TimeSpan RetryEvery = TimeSpan.FromMilliseconds(250);
    private readonly IArbiter _arbiter;
    private readonly string _guest;
    private readonly Holder _me;
    private readonly IRightEvents _events;
    private readonly ILogger _log;
    private readonly Lock _lock = new();
    private readonly RightToRun _right = new();
    private readonly CancellationTokenSource _cancellation = new();
    private readonly SemaphoreSlim _talk = new(1, 1);
    private readonly SemaphoreSlim _changed = new(0);
    private readonly AutoResetEvent _look = new(false);
    private readonly Dictionary<long, (TimeSpan AskedAt, TimeSpan Time)> _asked = [];
    private ReleaseDeadline? _deadline;
    private Task _renewing = Task.CompletedTask;
    private Thread? _watch;
    private Claim? _claim;
    private bool _wanted;
    private bool _told;
    private TimeSpan _renewedAt;
    private TimeSpan _vouchAskedAt;
    private long _vouches;
    private TimeSpan? _silentSince;
    private string? _problem;
    private bool _superseded;

    // The lease that was given back last: an answer may be missing, and what was asked for may yet be done. By who talks to the arbiter.
    private long _givenBack;

    /// <summary>Creates a keeper without a right.</summary>
    /// <param name="arbiter">The arbiter, which stays the caller's.</param>
    /// <param name="guest">The guest's name.</param>
    /// <param name="role">sender or receiver.</param>
    /// <param name="events">Hears what becomes of the right.</param>
    /// <param name="log">Where to log.</param>
    public RightKeeper(IArbiter arbiter, string guest, string role, IRightEvents events, ILogger log)
    {
        _arbiter = arbiter;
        _guest = guest;
        _me = new Holder(Guid.NewGuid().ToString("N"), Environment.MachineName, role, 1);
        _events = events;
        _log = log;
    }

    /// <summary>The guest's generation that the right was given for, 0 before.</summary>
    public long Generation { get; private set; }

    /// <summary>Whether the guest may run here at this moment.</summary>
    public bool IsValid
    {
        get
        {
            lock (_lock)
            {
                return _right.IsValid(BootClock.Now);
            }
        }
    }

    /// <summary>Whether the arbiter did not answer when it was asked last.</summary>
    public bool IsArbiterSilent
    {
        get
        {
            lock (_lock)
            {
                return _silentSince is not null;
            }
        }
    }

    /// <summary>Asks once for the right; when it is given it is kept from then on.</summary>
    /// <param name="expected">The generation that the guest must have, or null for any; it is raised.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="ArbiterException">The arbiter does not answer.</exception>
    public async Task<TakeAnswer> TakeAsync(long? expected, CancellationToken cancellation)
    {
        await _talk.WaitAsync(cancellation);
        try
        {
            TakeAnswer answer = await _arbiter.TakeAsync(_guest, _me, expected, raise: true, cancellation);
            Answered();
            if (answer.Claim is { } claim)
            {
                // Who sees the generation may count on the right.
                Have(claim, answer, again: false);
                Generation = claim.Holder.Generation;
                Log.Taken(_log, _guest, _arbiter.Name, Generation);
                Start();
            }

            return answer;
        }
        catch (ArbiterException e)
        {
            Silent(e.Message);
            throw;
        }
        finally
        {
            _talk.Release();
        }
    }

    /// <summary>Asks who else has the right; null for nobody.</summary>
    /// <exception cref="ArbiterException">The arbiter does not answer.</exception>
    public async Task<Holder?> LookAsync(CancellationToken cancellation)
    {
        try
        {
            Holder? holder = await _arbiter.LookAsync(_guest, cancellation);
            Answered();
            return holder?.Id == _me.Id ? null : holder;
        }
        catch (ArbiterException e)
        {
            Silent(e.Message);
            throw;
        }
    }

    /// <summary>From now on the guest's output leaves this host only while the right lasts.</summary>
    public void Guard(ReleaseDeadline deadline)
    {
        lock (_lock)
        {
            _deadline = deadline;
            Publish();
        }
    }

    /// <summary>The guest stands still: the right is given back, so that another need not wait until it runs out.</summary>
    /// <param name="limit">How long it may take; what is not given back runs out.</param>
    /// <param name="isUnused">The guest has surely not run under it: its generation goes back too.</param>
    public async Task ReleaseAsync(TimeSpan limit, bool isUnused = false)
    {
        lock (_lock)
        {
            _wanted = false;
            _right.Withdrawn();
            Publish();
        }

        if (_superseded)
        {
            return;
        }

        using CancellationTokenSource either = CancellationTokenSource.CreateLinkedTokenSource(_cancellation.Token);
        either.CancelAfter(limit);
        try
        {
            await _talk.WaitAsync(either.Token);
            try
            {
                // What was asked for before may have been given meanwhile.
                if (Withdraw() is { } claim)
                {
                    _givenBack = claim.Lease;
                    await (isUnused ? _arbiter.GiveBackUnusedAsync(claim, either.Token) : _arbiter.ReleaseAsync(claim, either.Token));
                    Log.Released(_log, _guest, _arbiter.Name);
                }
            }
            finally
            {
                _talk.Release();
            }
        }
        catch (Exception e) when (e is ArbiterException or OperationCanceledException)
        {
            Withdraw();
            Log.NotReleased(_log, _guest, _arbiter.Name, e.Message, _arbiter.Ttl.TotalSeconds);
        }
    }

    /// <summary>The guest is to run here again after <see cref="ReleaseAsync"/>: the right is asked for until it is given.</summary>
    public void Want()
    {
        lock (_lock)
        {
            _wanted = true;
        }

        _changed.Release();
    }

    /// <summary>The peer promised to take nothing over.</summary>
    public void Vouched(long sequence, TimeSpan time)
    {
        lock (_lock)
        {
            if (_asked.Remove(sequence, out (TimeSpan AskedAt, TimeSpan Time) asked))
            {
                _right.Vouched(asked.AskedAt, time < asked.Time ? time : asked.Time);
                Publish();
            }
        }
    }

    /// <summary>What status shows.</summary>
    public RightStatus Status()
    {
        lock (_lock)
        {
            TimeSpan now = BootClock.Now;
            bool valid = _right.IsValid(now);
            return new RightStatus(
                _arbiter.Name,
                _claim?.Holder is { } me ? string.Create(CultureInfo.InvariantCulture, $"{me.Role} on {me.Host}") : null,
                Generation,
                valid ? (long)(_right.ValidUntil - now).TotalMilliseconds : 0,
                _right.IsVouched(now),
                _watch is not null && _wanted && !valid,
                _silentSince is { } since ? (long)(now - since).TotalMilliseconds : null,
                _problem);
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        _look.Set();
        await _renewing;
        if (_watch is { } watch)
        {
            await Task.Run(watch.Join);
        }

        // The event stays: a vouch that is still on its way may set it.
        _talk.Dispose();
        _changed.Dispose();
        _cancellation.Dispose();
    }

    private void Start()
    {
        if (_watch is null)
        {
            _watch = new Thread(Watch) { IsBackground = true, Name = "right" };
            _watch.Start();
            _renewing = Task.Run(KeepAsync);
        }
    }

    /// <summary>Nothing leaves from now on, and nothing is renewed.</summary>
    /// <returns>What there is to give back.</returns>
    private Claim? Withdraw()
    {
        lock (_lock)
        {
            Claim? claim = _claim;
            _claim = null;
            _wanted = false;
            _right.Withdrawn();
            Publish();
            return claim;
        }
    }

    private bool Have(Claim claim, TakeAnswer answer, bool again)
    {
        lock (_lock)
        {
            if (again && (!_wanted || claim.Lease == _givenBack))
            {
                return false;
            }

            _claim = claim;
            _wanted = true;
            _told |= _watch is null;
            _renewedAt = answer.AskedAt;
            _right.Granted(answer.AskedAt, answer.Ttl);
            Publish();
            return true;
        }
    }

    /// <summary>Call it under the lock.</summary>
    private void Publish()
    {
        _deadline?.Set(_right.ValidUntil);
        _look.Set();
    }

    private async Task KeepAsync()
    {
        TimeSpan wait = _arbiter.Ttl / 3;
        while (!_cancellation.IsCancellationRequested)
        {
            try
            {
                await _changed.WaitAsync(wait, _cancellation.Token);
                bool good = await RenewAsync();
                wait = good ? _arbiter.Ttl / 3 : RetryEvery;
            }
            catch (OperationCanceledException) when (_cancellation.IsCancellationRequested)
            {
                return;
            }
            catch (OperationCanceledException)
            {
                // A call's own, not the end of this: without renewals the guest would be stopped for good.
                wait = RetryEvery;
            }
        }
    }

    private async Task<bool> RenewAsync()
    {
        await _talk.WaitAsync(_cancellation.Token);
        try
        {
            Claim? claim;
            lock (_lock)
            {
                if (!_wanted || _superseded)
                {
                    return true;
                }

                claim = _claim;
            }

            if (claim is not null)
            {
                RenewAnswer answer = await _arbiter.RenewAsync(claim, _cancellation.Token);
                Answered();
                if (answer.How == RenewResult.Renewed)
                {
                    Renewed(claim, answer);
                    return true;
                }

                if (answer.How == RenewResult.Superseded)
                {
                    Supersede(answer.Other, answer.Generation);
                    return true;
                }

                Log.RunOut(_log, _guest, _arbiter.Name);
            }

            TakeAnswer taken = await _arbiter.TakeAsync(_guest, _me, Generation, raise: false, _cancellation.Token);
            Answered();
            if (taken.Claim is { } again)
            {
                if (!Have(again, taken, again: true))
                {
                    // Not wanted any more, or a lease whose end has been asked for and may come any moment.
                    _givenBack = again.Lease;
                    await _arbiter.ReleaseAsync(again, _cancellation.Token);
                    return false;
                }

                Log.TakenAgain(_log, _guest, _arbiter.Name, Generation);
                return true;
            }

            if (taken.Generation != Generation)
            {
                Supersede(taken.Other, taken.Generation);
            }

            return false;
        }
        catch (ArbiterException e)
        {
            Silent(e.Message);
            return false;
        }
        finally
        {
            _talk.Release();
        }
    }

    private void Renewed(Claim claim, RenewAnswer answer)
    {
        lock (_lock)
        {
            if (_claim == claim)
            {
                _renewedAt = answer.AskedAt;
                _right.Renewed(answer.AskedAt, answer.Ttl);
                Publish();
            }
        }
    }

    private void Supersede(Holder? other, long generation)
    {
        string reason = other is not null
            ? $"the arbiter gave the guest to {other}"
            : string.Create(CultureInfo.InvariantCulture, $"the guest has run elsewhere as generation {generation} meanwhile");
        lock (_lock)
        {
            _superseded = true;
            _problem = reason;
            _right.Withdrawn();
            Publish();
        }

        _events.Superseded(reason);
    }

    private void Answered()
    {
        TimeSpan? since;
        lock (_lock)
        {
            since = _silentSince;
            _silentSince = null;
            _problem = null;
        }

        if (since is { } then)
        {
            Log.Answers(_log, _guest, _arbiter.Name, (BootClock.Now - then).TotalSeconds);
        }
    }

    private void Silent(string problem)
    {
        bool first;
        lock (_lock)
        {
            first = _silentSince is null;
            _silentSince ??= BootClock.Now;
            _problem = problem;
        }

        if (first)
        {
            Log.Silent(_log, _guest, problem);
        }
    }
}
