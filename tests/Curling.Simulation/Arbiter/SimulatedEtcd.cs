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
internal readonly record struct EtcdAnswer(bool Reached, bool Succeeded, EtcdKey? Key, long Lease);

/// <summary>
/// An etcd in a history: keys that are created where there is none and swapped where nobody was faster, leases that expire on its own clock,
/// and a network to each client that may be cut in either direction.
/// </summary>
/// <remarks>
/// A call reaches it after a delay, is carried out at once, and its answer takes a delay again. Where the way there is cut nothing is
/// carried out; where the way back is cut the caller cannot know. Either way the caller hears after its time limit that nothing came.
/// </remarks>
internal sealed class SimulatedEtcd(History history)
{
    private const int LimitMilliseconds = 200;
    private readonly SortedDictionary<string, EtcdKey> _keys = [];
    private readonly SortedDictionary<long, (int Ttl, long Expires)> _leases = [];
    private readonly HashSet<string> _deaf = [];
    private readonly HashSet<string> _mute = [];
    private long _revision;
    private long _lastLease;
    private bool _down;

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
            bool lives = _leases.TryGetValue(lease, out (int Ttl, long Expires) granted);
            if (lives)
            {
                _leases[lease] = (granted.Ttl, history.Milliseconds + granted.Ttl);
            }

            return new EtcdAnswer(true, lives, null, lease);
        });

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

    private void Call(string client, SimulatedProcess process, string what, Action<EtcdAnswer> answer, Func<EtcdAnswer> carryOut)
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

        process.In(LimitMilliseconds, () => Answer(default));
        history.In(history.Between(0, 8), () =>
        {
            if (_down || _deaf.Contains(client))
            {
                return;
            }

            ExpireLeases();
            EtcdAnswer given = carryOut();
            history.Note("etcd", $"{client}: {what}: {(given.Succeeded ? "yes" : "no")}");
            bool mute = _mute.Contains(client);
            if (!mute)
            {
                process.In(history.Between(0, 8), () => Answer(given));
            }
        });
    }

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
