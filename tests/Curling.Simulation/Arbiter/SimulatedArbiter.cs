using System.Globalization;
using Curling.Hosting.Arbiter;

namespace Curling.Simulation.Arbiter;

/// <summary>What a daemon asks of the simulated etcd, in the steps of the real <see cref="EtcdArbiter"/>, each of which may stay without an answer.</summary>
/// <remarks>Its tasks go on inside the event that completes them; one that belongs to a process that has died never ends.</remarks>
internal sealed class SimulatedArbiter(PairWorld world, SimulatedProcess process, SimulatedClock clock, string client) : IArbiter
{
    private const string HolderKey = "holder";
    private const string GenerationKey = "generation";

    /// <summary>The key that names who raised the generation last.</summary>
    public const string RaisedKey = "raised";

    private readonly SimulatedEtcd _etcd = world.Etcd;

    public string Name => "etcd";

    public TimeSpan Ttl => TimeSpan.FromMilliseconds(PairOptions.TtlMilliseconds);

    public async Task<TakeAnswer> TakeAsync(string guest, Holder holder, long? expected, bool raise, CancellationToken cancellation)
    {
        State state = await ReadAsync();
        if (state.Holder is { } there)
        {
            return there == holder.Id
                ? await AdoptAsync(new Claim(guest, holder with { Generation = state.Generation }, state.Lease))
                : new TakeAnswer(TakeResult.Held, null, default, default, null, state.Generation);
        }

        bool raisedBefore = raise && state.Generation == expected + 1 && state.RaisedBy == holder.Id;
        if (!raisedBefore && expected is { } wanted && wanted != state.Generation)
        {
            return new TakeAnswer(TakeResult.Superseded, null, default, default, null, state.Generation);
        }

        raise &= !raisedBefore;
        Holder me = holder with { Generation = raise ? state.Generation + 1 : state.Generation };
        TimeSpan askedAt = clock.Now;
        long lease = (await AskAsync(a => _etcd.Grant(client, process, PairOptions.TtlMilliseconds, a))).Lease;
        (string Key, string? Value, long Lease) mine = (HolderKey, me.Id, lease);
        (string, string?)[] ifSo = [(HolderKey, null), (GenerationKey, state.Generation == 0 ? null : Text(state.Generation))];
        EtcdAnswer answer = await AskAsync(a => _etcd.Transact(
            client, process, raisedBefore ? [.. ifSo, (RaisedKey, holder.Id)] : ifSo,
            raise ? [mine, (GenerationKey, Text(me.Generation), 0), (RaisedKey, holder.Id, 0)] : [mine], a));
        if (!answer.Succeeded)
        {
            state = await ReadAsync();
            if (state.Holder != holder.Id || state.Lease != lease)
            {
                await AskAsync(a => _etcd.Revoke(client, process, lease, a));
                return state.Holder == holder.Id
                    ? await AdoptAsync(new Claim(guest, holder with { Generation = state.Generation }, state.Lease))
                    : new TakeAnswer(TakeResult.Held, null, default, default, null, (await ReadAsync()).Generation);
            }
        }

        return new TakeAnswer(TakeResult.Taken, new Claim(guest, me, lease), Asked(askedAt), Ttl, null, me.Generation);
    }

    public async Task<Holder?> LookAsync(string guest, CancellationToken cancellation) =>
        (await ReadAsync()).Holder is { } id ? new Holder(id, "", "", 1) : null;

    public async Task<RenewAnswer> RenewAsync(Claim claim, CancellationToken cancellation)
    {
        for (int attempt = 0; ; attempt++)
        {
            TimeSpan askedAt = clock.Now;
            EtcdAnswer alive = await AskAsync(a => _etcd.KeepAlive(client, process, claim.Lease, a));
            if (world.Defect.BelievesAnyLeader && alive.Succeeded)
            {
                return new RenewAnswer(RenewResult.Renewed, askedAt, Ttl, claim.Holder.Generation, null);
            }

            State state = await ReadAsync();
            if (state.Generation != claim.Holder.Generation || (state.Holder is { } other && other != claim.Holder.Id))
            {
                return new RenewAnswer(RenewResult.Superseded, askedAt, default, state.Generation, null);
            }

            if (!alive.Succeeded || state.Holder is null || state.Lease != claim.Lease)
            {
                return new RenewAnswer(RenewResult.RunOut, askedAt, default, state.Generation, null);
            }

            if (alive.Term == state.Term)
            {
                return new RenewAnswer(RenewResult.Renewed, Asked(askedAt), Ttl, state.Generation, null);
            }

            if (attempt > 0)
            {
                throw new ArbiterException("etcd is changing its leader");
            }
        }
    }

    public Task ReleaseAsync(Claim claim, CancellationToken cancellation) => AskAsync(a => _etcd.Revoke(client, process, claim.Lease, a));

    public async Task GiveBackUnusedAsync(Claim claim, CancellationToken cancellation)
    {
        await AskAsync(a => _etcd.Transact(
            client, process, [(HolderKey, claim.Holder.Id), (GenerationKey, Text(claim.Holder.Generation))],
            [(GenerationKey, Text(claim.Holder.Generation - 1), 0), (HolderKey, null, 0)], a));
        await ReleaseAsync(claim, cancellation);
    }

    public void Dispose()
    {
    }

    private static string Text(long number) => number.ToString(CultureInfo.InvariantCulture);

    private TimeSpan Asked(TimeSpan at) => world.Defect.CountsTheLeaseFromTheAnswer ? clock.Now : at;

    private async Task<TakeAnswer> AdoptAsync(Claim claim)
    {
        RenewAnswer renewed = await RenewAsync(claim, CancellationToken.None);
        return renewed.How == RenewResult.Renewed
            ? new TakeAnswer(TakeResult.Taken, claim, renewed.AskedAt, renewed.Ttl, null, renewed.Generation)
            : new TakeAnswer(TakeResult.Held, null, default, default, null, renewed.Generation);
    }

    private async Task<State> ReadAsync()
    {
        EtcdAnswer answer = await AskAsync(a => _etcd.Read(client, process, [HolderKey, GenerationKey, RaisedKey], a));
        return new State(
            answer.Keys[0]?.Value, answer.Keys[0]?.Lease ?? 0,
            answer.Keys[1] is { } generation ? long.Parse(generation.Value, CultureInfo.InvariantCulture) : 0,
            answer.Keys[2]?.Value, answer.Term);
    }

    /// <summary>Asks one server after the other; what the first was asked may be done when the second is.</summary>
    private async Task<EtcdAnswer> AskAsync(Action<Action<EtcdAnswer>> call)
    {
        for (int i = 0; i < world.Options.ArbiterServers; i++)
        {
            TaskCompletionSource<EtcdAnswer> answer = new();
            call(a => answer.TrySetResult(a));
            EtcdAnswer given = await answer.Task;
            if (given.Reached)
            {
                return given;
            }
        }

        throw new ArbiterException("it does not answer in time");
    }

    private sealed record State(string? Holder, long Lease, long Generation, string? RaisedBy, long Term);
}

/// <summary>The clock that a daemon holds its right against: it runs on while the daemon's process is held up, unless that is the planted fault.</summary>
internal sealed class SimulatedClock(PairWorld world, SimulatedProcess process)
{
    public TimeSpan Now => world.History.Now - (world.Defect.HasAClockThatStandsStill ? process.HeldUp : TimeSpan.Zero);
}
