namespace Curling.Simulation.Arbiter;

/// <summary>A key as etcd has it.</summary>
/// <param name="Value">Its value.</param>
/// <param name="ModRevision">The store's revision at which it was last written; for compare-and-swap.</param>
/// <param name="Lease">The lease that it goes with; 0 for none.</param>
internal sealed record EtcdKey(string Value, long ModRevision, long Lease);

/// <summary>What came of a call.</summary>
/// <param name="Reached">The answer came. Without it the call may have been carried out, or not.</param>
/// <param name="Succeeded">Its condition held.</param>
/// <param name="Key">The key as it is now; null when there is none.</param>
/// <param name="Lease">The lease that was granted.</param>
internal readonly record struct EtcdAnswer(bool Reached, bool Succeeded, EtcdKey? Key, long Lease)
{
    /// <summary>The keys that were asked for, in their order.</summary>
    public EtcdKey?[] Keys { get; init; } = [];

    /// <summary>The term of the leader that answered.</summary>
    public long Term { get; init; }
}

/// <summary>
/// An etcd in a history: keys that are created where there is none and swapped where nobody was faster, leases that expire on its own clock,
/// and a network to each client that may be cut in either direction.
/// </summary>
/// <remarks>
/// A call reaches it after a delay, is carried out at once, and its answer takes a delay again. Where the way there is cut nothing is
/// carried out; where the way back is cut the caller cannot know. Either way the caller hears after its time limit that nothing came. A call
/// may also be under way for longer than that, and is carried out when its caller has long given it up.
/// </remarks>
internal sealed class SimulatedEtcd(History history, int limitMilliseconds = 200)
{
    /// <summary>The names of the two hosts.</summary>
    public const string Primary = "primary";

    /// <inheritdoc cref="Primary"/>
    public const string Standby = "standby";

    private readonly SortedDictionary<string, EtcdKey> _keys = [];
    private readonly SortedDictionary<long, (int Ttl, long Expires)> _leases = [];
    private readonly HashSet<string> _deaf = [];
    private readonly HashSet<string> _mute = [];
    private readonly HashSet<string> _deposed = [];
    private long _revision;
    private long _lastLease;
    private long _term = 1;
    private bool _down;
    private long _slowUntil;
    private long _lossyUntil;

    /// <summary>Its process runs; keys and leases are kept over a stop, and leases do not expire meanwhile.</summary>
    public void Down(bool down)
    {
        history.Note("etcd", down ? "DOWN" : "up");
        if (_down && !down)
        {
            // A leader that takes over gives every lease its whole time again.
            foreach ((long lease, (int ttl, long _)) in _leases.ToArray())
            {
                _leases[lease] = (ttl, history.Milliseconds + ttl);
            }
        }

        _down = down;
    }

    /// <summary>Cuts or mends the ways between a client and etcd.</summary>
    public void Partition(string client, bool there, bool back)
    {
        history.Note("etcd", $"{client}: the way there is {(there ? "cut" : "open")}, the way back {(back ? "cut" : "open")}");
        _ = there ? _deaf.Add(client) : _deaf.Remove(client);
        _ = back ? _mute.Add(client) : _mute.Remove(client);
    }

    /// <summary>Calls and answers take long for a while.</summary>
    public void Slow(int milliseconds)
    {
        history.Note("etcd", $"is slow for {milliseconds} ms");
        _slowUntil = history.Milliseconds + milliseconds;
    }

    /// <summary>Of what is carried out many an answer is lost for a while, as when a server dies or changes its leader.</summary>
    public void LoseAnswers(int milliseconds)
    {
        history.Note("etcd", $"loses answers for {milliseconds} ms");
        _lossyUntil = history.Milliseconds + milliseconds;
    }

    /// <summary>
    /// A client talks, or does not any more, to a leader that has been deposed and does not know it: it renews leases, which the next one
    /// lets run out, and answers nothing that needs its quorum (etcd issue 13675).
    /// </summary>
    public void Depose(string client, bool deposed)
    {
        history.Note("etcd", deposed ? $"{client} talks to a leader that is none any more" : $"{client} talks to the leader");
        _term += deposed ? 1 : 0;
        _ = deposed ? _deposed.Add(client) : _deposed.Remove(client);
    }

    /// <summary>Everything is as it should be.</summary>
    public void Heal()
    {
        _deaf.Clear();
        _mute.Clear();
        _deposed.Clear();
        _slowUntil = 0;
        _lossyUntil = 0;
        if (_down)
        {
            Down(false);
        }
    }

    /// <summary>Asks for a lease.</summary>
    public void Grant(string client, SimulatedProcess process, int ttlMilliseconds, Action<EtcdAnswer> answer) => Call(
        client, process, $"grant {ttlMilliseconds} ms", answer, () =>
        {
            _leases[++_lastLease] = (ttlMilliseconds, history.Milliseconds + ttlMilliseconds);
            return new EtcdAnswer(true, true, null, _lastLease);
        });

    /// <summary>Renews a lease; does not succeed when it has expired.</summary>
    public void KeepAlive(string client, SimulatedProcess process, long lease, Action<EtcdAnswer> answer) => Call(
        client, process, $"keep lease {lease} alive", answer, () =>
        {
            if (_deposed.Contains(client))
            {
                return new EtcdAnswer(true, true, null, lease) { Term = _term - 1 };
            }

            bool lives = _leases.TryGetValue(lease, out (int Ttl, long Expires) granted);
            if (lives)
            {
                _leases[lease] = (granted.Ttl, history.Milliseconds + granted.Ttl);
            }

            return new EtcdAnswer(true, lives, null, lease) { Term = _term };
        }, needsQuorum: false);

    /// <summary>Gives a lease back, and its keys with it.</summary>
    public void Revoke(string client, SimulatedProcess process, long lease, Action<EtcdAnswer> answer) => Call(
        client, process, $"revoke lease {lease}", answer, () =>
        {
            bool lived = _leases.ContainsKey(lease);
            Expire(lease);
            return new EtcdAnswer(true, lived, null, lease);
        });

    /// <summary>Reads a key.</summary>
    public void Get(string client, SimulatedProcess process, string key, Action<EtcdAnswer> answer) => Call(
        client, process, $"get {key}", answer, () => new EtcdAnswer(true, true, _keys.GetValueOrDefault(key), 0));

    /// <summary>Reads keys as they are at one moment.</summary>
    public void Read(string client, SimulatedProcess process, string[] keys, Action<EtcdAnswer> answer) => Call(
        client, process, "read", answer, () => new EtcdAnswer(true, true, null, 0) { Keys = [.. keys.Select(k => _keys.GetValueOrDefault(k))], Term = _term });

    /// <summary>Writes keys if all of some others are what they should be; null for absent, and to delete.</summary>
    public void Transact(
        string client, SimulatedProcess process, (string Key, string? Value)[] ifSo, (string Key, string? Value, long Lease)[] puts, Action<EtcdAnswer> answer) => Call(
        client, process, $"write {string.Join(", ", puts.Select(p => $"{p.Key} = {p.Value}"))}", answer, () =>
        {
            bool holds = ifSo.All(c => _keys.GetValueOrDefault(c.Key)?.Value == c.Value) && puts.All(p => p.Lease == 0 || _leases.ContainsKey(p.Lease));
            return new EtcdAnswer(true, holds && puts.All(p => p.Value is { } value ? Put(p.Key, value, p.Lease, true).Succeeded : _keys.Remove(p.Key)), null, 0) { Term = _term };
        });

    /// <summary>Creates a key where there is none.</summary>
    public void Create(string client, SimulatedProcess process, string key, string value, long lease, Action<EtcdAnswer> answer) => Call(
        client, process, $"create {key} = {value}", answer, () => Put(key, value, lease, !_keys.ContainsKey(key)));

    /// <summary>Writes a key if nobody has since it was read; a revision of 0 stands for no key.</summary>
    public void Swap(
        string client, SimulatedProcess process, string key, long modRevision, string value, long lease, Action<EtcdAnswer> answer) => Call(
        client, process, $"swap {key} at {modRevision} = {value}", answer,
        () => Put(key, value, lease, (_keys.GetValueOrDefault(key)?.ModRevision ?? 0) == modRevision));

    /// <summary>What a key is now, for checkers.</summary>
    public EtcdKey? Look(string key)
    {
        ExpireLeases();
        return _keys.GetValueOrDefault(key);
    }

    private EtcdAnswer Put(string key, string value, long lease, bool holds)
    {
        if (!holds || (lease != 0 && !_leases.ContainsKey(lease)))
        {
            return new EtcdAnswer(true, false, _keys.GetValueOrDefault(key), 0);
        }

        _keys[key] = new EtcdKey(value, ++_revision, lease);
        return new EtcdAnswer(true, true, _keys[key], lease);
    }

    private void Call(
        string client, SimulatedProcess process, string what, Action<EtcdAnswer> answer, Func<EtcdAnswer> carryOut, bool needsQuorum = true)
    {
        bool answered = false;
        void Answer(EtcdAnswer given)
        {
            if (!answered)
            {
                answered = true;
                answer(given);
            }
        }

        process.In(limitMilliseconds, () => Answer(default));
        history.In(Delay(), () =>
        {
            if (_down || _deaf.Contains(client) || (needsQuorum && _deposed.Contains(client)))
            {
                return;
            }

            ExpireLeases();
            EtcdAnswer given = carryOut();
            history.Note("etcd", $"{client}: {what}: {(given.Succeeded ? "yes" : "no")}");
            bool mute = _mute.Contains(client) || (history.Milliseconds < _lossyUntil && history.Chance(40));
            if (!mute)
            {
                process.In(Delay(), () => Answer(given));
            }
        });
    }

    private int Delay() => history.Milliseconds < _slowUntil ? history.Between(0, 2 * limitMilliseconds) : history.Between(0, 8);

    private void ExpireLeases()
    {
        if (_down)
        {
            return;
        }

        foreach (long lease in _leases.Where(l => l.Value.Expires <= history.Milliseconds).Select(l => l.Key).ToArray())
        {
            Expire(lease);
        }
    }

    private void Expire(long lease)
    {
        _leases.Remove(lease);
        foreach (string key in _keys.Where(k => k.Value.Lease == lease).Select(k => k.Key).ToArray())
        {
            _keys.Remove(key);
            _revision++;
        }
    }
}
