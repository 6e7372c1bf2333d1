using System.Globalization;
using System.Text.Json;
using Curling.Linux.Time;
using Etcdserverpb;
using Google.Protobuf;
using Mvccpb;
using Compare = Etcdserverpb.Compare;

namespace Curling.Hosting.Arbiter;

/// <summary>
/// The arbiter in an etcd: <c>curling/guests/NAME/holder</c> names the holder and hangs on its lease,
/// <c>curling/guests/NAME/generation</c> stays for good, and with it <c>…/raised</c>, which names who raised it last. They change in one transaction only.
/// </summary>
/// <remarks>
/// etcd: Documentation/learning/api. A renewal counts only when the same leader was confirmed by its quorum after it: a leader that was
/// cut off and does not know it yet renews leases that the next one lets run out. A call that got no answer is repeated at another server, or given
/// up, and may have been carried out all the same: so who asks looks what came of it before anything else is made of a refusal.
/// </remarks>
public sealed class EtcdArbiter : IArbiter
{
    private const int MaxValueBytes = 4096;
    private readonly EtcdEndpoints _endpoints;
    private readonly long _ttlSeconds;

    /// <summary>Creates the arbiter; nothing is connected before it is asked.</summary>
    /// <exception cref="Options.OperatorException">The options name files that cannot be read, or contradict.</exception>
    public EtcdArbiter(ArbiterOptions options)
    {
        Name = options.Name;
        Ttl = options.Ttl;
        _ttlSeconds = (long)options.Ttl.TotalSeconds;
        _endpoints = new EtcdEndpoints(options, options.ReadSecrets());
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public TimeSpan Ttl { get; }

    /// <inheritdoc/>
    public async Task<TakeAnswer> TakeAsync(string guest, Holder holder, long? expected, bool raise, CancellationToken cancellation)
    {
        State state = await ReadAsync(guest, cancellation);
        if (state.Holder is { } there)
        {
            // An answer of ours may have been lost: what we have is ours.
            return there.Id == holder.Id
                ? await AdoptAsync(new Claim(guest, there, state.Lease), state.Generation, cancellation)
                : new TakeAnswer(TakeResult.Held, null, default, default, there, state.Generation);
        }

        // Its answer was lost, and the lease ran out before anybody could be asked again: the guest has not run as this generation.
        bool raisedBefore = raise && state.Generation == expected + 1 && state.RaisedBy == holder.Id;
        if (!raisedBefore && expected is { } wanted && wanted != state.Generation)
        {
            return new TakeAnswer(TakeResult.Superseded, null, default, default, null, state.Generation);
        }

        raise &= !raisedBefore;
        Holder me = holder with { Generation = raise ? state.Generation + 1 : state.Generation };
        TimeSpan askedAt = BootClock.Now;
        LeaseGrantResponse lease = await _endpoints.CallAsync(
            (e, o) => e.Lease.LeaseGrantAsync(new LeaseGrantRequest { TTL = _ttlSeconds }, o).ResponseAsync, cancellation);
        me = me with { Seconds = lease.TTL };
        TxnRequest txn = new();
        txn.Compare.Add(Absent(HolderKey(guest)));
        txn.Compare.Add(state.Generation == 0
            ? Absent(GenerationKey(guest))
            : Is(GenerationKey(guest), Text(state.Generation)));
        if (raisedBefore)
        {
            txn.Compare.Add(Is(RaisedKey(guest), ByteString.CopyFromUtf8(holder.Id)));
        }

        txn.Success.Add(Put(HolderKey(guest), ByteString.CopyFrom(JsonSerializer.SerializeToUtf8Bytes(me, HolderJson.Default.Holder)), lease.ID));
        if (raise)
        {
            txn.Success.Add(Put(GenerationKey(guest), Text(me.Generation), 0));
            txn.Success.Add(Put(RaisedKey(guest), ByteString.CopyFromUtf8(holder.Id), 0));
        }

        TxnResponse answer = await _endpoints.CallAsync((e, o) => e.Kv.TxnAsync(txn, o).ResponseAsync, cancellation);
        if (!answer.Succeeded)
        {
            // Refused may also be what was carried out already, by a server whose answer did not come in time.
            state = await ReadAsync(guest, cancellation);
            if (state.Holder?.Id != holder.Id || state.Lease != lease.ID)
            {
                await RevokeAsync(lease.ID, cancellation);
                return state.Holder is { } mine && mine.Id == holder.Id
                    ? await AdoptAsync(new Claim(guest, mine, state.Lease), state.Generation, cancellation)
                    : new TakeAnswer(TakeResult.Held, null, default, default, state.Holder, state.Generation);
            }
        }

        return new TakeAnswer(TakeResult.Taken, new Claim(guest, me, lease.ID), askedAt, Seconds(lease.TTL), null, me.Generation);
    }

    /// <inheritdoc/>
    public async Task<Holder?> LookAsync(string guest, CancellationToken cancellation) => (await ReadAsync(guest, cancellation)).Holder;

    /// <inheritdoc/>
    public async Task<RenewAnswer> RenewAsync(Claim claim, CancellationToken cancellation)
    {
        for (int attempt = 0; ; attempt++)
        {
            TimeSpan askedAt = BootClock.Now;
            LeaseKeepAliveResponse alive = await _endpoints.CallAsync((e, o) => e.KeepAliveAsync(claim.Lease, o), cancellation);
            State state = await ReadAsync(claim.Guest, cancellation);
            if (state.Generation != claim.Holder.Generation || (state.Holder is { } other && other.Id != claim.Holder.Id))
            {
                return new RenewAnswer(RenewResult.Superseded, askedAt, default, state.Generation, state.Holder);
            }

            if (alive.TTL <= 0 || state.Holder is null || state.Lease != claim.Lease)
            {
                return new RenewAnswer(RenewResult.RunOut, askedAt, default, state.Generation, null);
            }

            // The read was confirmed by a quorum in its term: the same term before it is the same leader.
            if (alive.Header?.RaftTerm == state.Term)
            {
                return new RenewAnswer(RenewResult.Renewed, askedAt, Seconds(alive.TTL), state.Generation, state.Holder);
            }

            if (attempt > 0)
            {
                throw new ArbiterException($"{Name}: etcd is changing its leader");
            }
        }
    }

    /// <inheritdoc/>
    public Task ReleaseAsync(Claim claim, CancellationToken cancellation) => RevokeAsync(claim.Lease, cancellation);

    /// <inheritdoc/>
    public async Task GiveBackUnusedAsync(Claim claim, CancellationToken cancellation)
    {
        // Both in one step, and only while nobody else has taken the guest.
        TxnRequest txn = new();
        txn.Compare.Add(Is(HolderKey(claim.Guest), ByteString.CopyFrom(JsonSerializer.SerializeToUtf8Bytes(claim.Holder, HolderJson.Default.Holder))));
        txn.Compare.Add(Is(GenerationKey(claim.Guest), Text(claim.Holder.Generation)));
        txn.Success.Add(Put(GenerationKey(claim.Guest), Text(claim.Holder.Generation - 1), 0));
        txn.Success.Add(new RequestOp { RequestDeleteRange = new DeleteRangeRequest { Key = RaisedKey(claim.Guest) } });
        txn.Success.Add(new RequestOp { RequestDeleteRange = new DeleteRangeRequest { Key = HolderKey(claim.Guest) } });
        await _endpoints.CallAsync((e, o) => e.Kv.TxnAsync(txn, o).ResponseAsync, cancellation);
        await RevokeAsync(claim.Lease, cancellation);
    }

    /// <inheritdoc/>
    public void Dispose() => _endpoints.Dispose();

    private static ByteString HolderKey(string guest) => ByteString.CopyFromUtf8($"curling/guests/{guest}/holder");

    private static ByteString GenerationKey(string guest) => ByteString.CopyFromUtf8($"curling/guests/{guest}/generation");

    private static ByteString RaisedKey(string guest) => ByteString.CopyFromUtf8($"curling/guests/{guest}/raised");

    private static ByteString Text(long number) => ByteString.CopyFromUtf8(number.ToString(CultureInfo.InvariantCulture));

    private static Compare Absent(ByteString key) => new()
    {
        Key = key,
        Target = Compare.Types.CompareTarget.Create,
        Result = Compare.Types.CompareResult.Equal,
        CreateRevision = 0,
    };

    private static Compare Is(ByteString key, ByteString value) => new()
    {
        Key = key,
        Target = Compare.Types.CompareTarget.Value,
        Result = Compare.Types.CompareResult.Equal,
        Value = value,
    };

    private static RequestOp Put(ByteString key, ByteString value, long lease) =>
        new() { RequestPut = new PutRequest { Key = key, Value = value, Lease = lease } };

    /// <summary>What a server grants beyond what was asked for is not used: it may be counted from another moment.</summary>
    private TimeSpan Seconds(long granted) => TimeSpan.FromSeconds(Math.Min(granted, _ttlSeconds));

    private async Task<TakeAnswer> AdoptAsync(Claim claim, long generation, CancellationToken cancellation)
    {
        claim = claim with { Holder = claim.Holder with { Generation = generation } };
        RenewAnswer renewed = await RenewAsync(claim, cancellation);
        return renewed.How == RenewResult.Renewed
            ? new TakeAnswer(TakeResult.Taken, claim, renewed.AskedAt, renewed.Ttl, null, generation)
            : new TakeAnswer(TakeResult.Held, null, default, default, renewed.Other, renewed.Generation);
    }

    private async Task RevokeAsync(long lease, CancellationToken cancellation) => await _endpoints.CallAsync(
        (e, o) => e.RevokeAsync(lease, o), cancellation);

    /// <summary>Reads the keys at one moment; etcd has its quorum confirm that moment.</summary>
    private async Task<State> ReadAsync(string guest, CancellationToken cancellation)
    {
        TxnRequest all = new();
        foreach (ByteString key in (ReadOnlySpan<ByteString>)[HolderKey(guest), GenerationKey(guest), RaisedKey(guest)])
        {
            all.Success.Add(new RequestOp { RequestRange = new RangeRequest { Key = key } });
        }

        TxnResponse answer = await _endpoints.CallAsync((e, o) => e.Kv.TxnAsync(all, o).ResponseAsync, cancellation);
        if (answer.Responses.Count != 3)
        {
            throw new ArbiterException($"{Name}: etcd answered {answer.Responses.Count} of 3 questions");
        }

        KeyValue? holder = answer.Responses[0].ResponseRange?.Kvs.FirstOrDefault();
        KeyValue? generation = answer.Responses[1].ResponseRange?.Kvs.FirstOrDefault();
        long number = 0;
        if (generation is not null && (!long.TryParse(
            generation.Value.ToStringUtf8(), NumberStyles.None, CultureInfo.InvariantCulture, out number) || number is < 1 or > long.MaxValue / 2))
        {
            throw new ArbiterException($"{Name}: the key {GenerationKey(guest).ToStringUtf8()} does not hold a number; somebody else writes there");
        }

        KeyValue? raised = answer.Responses[2].ResponseRange?.Kvs.FirstOrDefault();
        return new State(
            holder is null ? null : ReadHolder(holder), holder?.Lease ?? 0, number, raised?.Value.ToStringUtf8(), answer.Header?.RaftTerm ?? 0);
    }

    private Holder ReadHolder(KeyValue pair)
    {
        try
        {
            return (pair.Value.Length <= MaxValueBytes ? JsonSerializer.Deserialize(pair.Value.Span, HolderJson.Default.Holder) : null)
                ?? throw new JsonException("it is empty or too long");
        }
        catch (JsonException e)
        {
            throw new ArbiterException($"{Name}: the key {pair.Key.ToStringUtf8()} does not name a holder ({e.Message}); somebody else writes there");
        }
    }

    private sealed record State(Holder? Holder, long Lease, long Generation, string? RaisedBy, ulong Term);
}
