using Curling.Hosting.Arbiter;
using Curling.Hosting.Network;
using Curling.Linux.Time;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Hosting.Tests.Arbiter;

/// <summary>The keeper of a right, with an arbiter that a test plays.</summary>
public sealed class RightKeeperTests : IRightEvents
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);
    private readonly PlayedArbiter _arbiter = new();
    private readonly List<string> _heard = [];
    private readonly ReleaseDeadline _deadline = new();
    private RightKeeper? _keeper;
    private bool _vouches;

    void IRightEvents.RightLost(string reason)
    {
        // Whoever hears it must find the way out closed already.
        Hear(_deadline.IsOpen ? "lost while open" : "lost");
    }

    void IRightEvents.RightBack() => Hear("back");

    void IRightEvents.Superseded(string reason) => Hear("superseded");

    void IRightEvents.AskVouch(long sequence, TimeSpan time)
    {
        if (Volatile.Read(ref _vouches))
        {
            _keeper!.Vouched(sequence, time);
        }
    }

    [Fact]
    public async Task Right_that_is_renewed_stays()
    {
        // Long enough for a host whose cores are busy: this right must not run out.
        _arbiter.Ttl = TimeSpan.FromSeconds(6);
        await using RightKeeper keeper = await TakenAsync();
        await UntilAsync(() => _arbiter.Renewals >= 2);
        Assert.True(keeper.IsValid && _deadline.IsOpen);
        Assert.Empty(Heard());
    }

    [Fact]
    public async Task Right_runs_out_when_the_arbiter_is_silent_and_comes_back_with_it()
    {
        await using RightKeeper keeper = await TakenAsync();
        _arbiter.IsSilent = true;
        await UntilAsync(() => Heard().Count == 1);
        Assert.False(keeper.IsValid);
        Assert.True(keeper.IsArbiterSilent);
        Assert.True(keeper.Status().Suspended);
        _arbiter.IsSilent = false;
        await UntilAsync(() => Heard().Count == 2);
        Assert.Equal(["lost", "back"], Heard());
        Assert.True(_deadline.IsOpen);
    }

    [Fact]
    public async Task Vouches_carry_a_guest_over_an_arbiter_that_is_silent()
    {
        _arbiter.Ttl = TimeSpan.FromSeconds(4);
        await using RightKeeper keeper = await TakenAsync();
        Volatile.Write(ref _vouches, true);
        _arbiter.IsSilent = true;
        await UntilAsync(() => keeper.Status().Vouched);
        TimeSpan until = BootClock.Now + (2 * _arbiter.Ttl);
        while (BootClock.Now < until)
        {
            Assert.True(keeper.IsValid && _deadline.IsOpen);
            await Task.Delay(10);
        }

        Volatile.Write(ref _vouches, false);
        await UntilAsync(() => Heard().Count == 1);
        Assert.Equal(["lost"], Heard());
    }

    [Fact]
    public async Task Lease_that_ran_out_is_taken_again_as_the_same_generation()
    {
        await using RightKeeper keeper = await TakenAsync();
        _arbiter.Answer = RenewResult.RunOut;
        await UntilAsync(() => _arbiter.Takings == 2);
        _arbiter.Answer = RenewResult.Renewed;
        await UntilAsync(() => keeper.IsValid);
        Assert.Equal(1, keeper.Generation);
    }

    [Fact]
    public async Task Guest_of_a_newer_generation_elsewhere_is_lost_at_once_and_for_good()
    {
        await using RightKeeper keeper = await TakenAsync();
        _arbiter.Answer = RenewResult.Superseded;
        await UntilAsync(() => Heard().Count == 2);
        Assert.Equal(["lost", "superseded"], Heard().Order());
        int renewals = _arbiter.Renewals;
        await Task.Delay(_arbiter.Ttl / 2);
        Assert.Equal(renewals, _arbiter.Renewals);
        Assert.False(keeper.IsValid);
    }

    [Fact]
    public async Task Right_that_was_given_back_is_taken_again_only_when_it_is_wanted()
    {
        await using RightKeeper keeper = await TakenAsync();
        await keeper.ReleaseAsync(Limit);
        Assert.False(keeper.IsValid || _deadline.IsOpen);
        await Task.Delay(_arbiter.Ttl / 2);
        Assert.Equal((1, 1), (_arbiter.Takings, _arbiter.Releases));
        keeper.Want();
        await UntilAsync(() => Heard().Count == 2);
        Assert.Equal(["lost", "back"], Heard());
        Assert.Equal(2, _arbiter.Takings);
    }

    [Fact]
    public async Task Right_that_arrives_while_it_is_given_back_is_given_back_too()
    {
        await using RightKeeper keeper = await TakenAsync();
        TaskCompletionSource gate = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _arbiter.Gate = gate;
        _arbiter.Answer = RenewResult.RunOut;
        await UntilAsync(() => _arbiter.Takings == 2);
        Task release = keeper.ReleaseAsync(Limit);
        gate.SetResult();
        await release;
        await UntilAsync(() => _arbiter.Released.Contains(2));
        Assert.False(keeper.IsValid || _deadline.IsOpen);
        await Task.Delay(_arbiter.Ttl / 2);
        Assert.False(keeper.IsValid);
        Assert.Equal(2, _arbiter.Takings);
    }

    [Fact]
    public async Task Lease_whose_end_was_asked_for_without_an_answer_is_not_counted_on()
    {
        await using RightKeeper keeper = await TakenAsync();
        _arbiter.IsSilent = true;
        await keeper.ReleaseAsync(Limit);
        _arbiter.IsSilent = false;

        // The arbiter has not heard of it, or not yet: it says that lease 1 is this holder's.
        _arbiter.Adopt = 1;
        keeper.Want();
        await UntilAsync(() => _arbiter.Takings == 2);
        _arbiter.Adopt = null;
        await UntilAsync(() => keeper.IsValid);
        Assert.Equal([1], _arbiter.Released);
        Assert.Equal(3, _arbiter.Takings);
    }

    private async Task<RightKeeper> TakenAsync()
    {
        RightKeeper keeper = _keeper = new RightKeeper(_arbiter, "g", "sender", this, NullLogger.Instance);
        keeper.Guard(_deadline);
        Assert.False(_deadline.IsOpen);
        Assert.Equal(TakeResult.Taken, (await keeper.TakeAsync(null, CancellationToken.None)).How);
        Assert.True(_deadline.IsOpen);
        return keeper;
    }

    private static async Task UntilAsync(Func<bool> holds)
    {
        for (TimeSpan end = BootClock.Now + Limit; !holds();)
        {
            Assert.True(BootClock.Now < end, "it did not come about");
            await Task.Delay(5);
        }
    }

    private List<string> Heard()
    {
        lock (_heard)
        {
            return [.. _heard];
        }
    }

    private void Hear(string what)
    {
        lock (_heard)
        {
            _heard.Add(what);
        }
    }

    private sealed class PlayedArbiter : IArbiter
    {
        private volatile bool _silent;
        private int _renewals;
        private int _takings;
        private readonly List<long> _released = [];

        public string Name => "played";

        public TimeSpan Ttl { get; set; } = TimeSpan.FromSeconds(1);

        public bool IsSilent
        {
            get => _silent;
            set => _silent = value;
        }

        public RenewResult Answer { get; set; } = RenewResult.Renewed;

        public int Renewals => Volatile.Read(ref _renewals);

        public int Takings => Volatile.Read(ref _takings);

        public int Releases => Released.Count;

        /// <summary>The leases that were given back.</summary>
        public List<long> Released
        {
            get
            {
                lock (_released)
                {
                    return [.. _released];
                }
            }
        }

        /// <summary>Who asks for the right waits for it, once.</summary>
        public TaskCompletionSource? Gate { get; set; }

        /// <summary>A lease that the holder has already.</summary>
        public long? Adopt { get; set; }

        public async Task<TakeAnswer> TakeAsync(string guest, Holder holder, long? expected, bool raise, CancellationToken cancellation)
        {
            ThrowIfSilent();
            TimeSpan askedAt = BootClock.Now;
            long lease = Adopt ?? Volatile.Read(ref _takings) + 1;
            Interlocked.Increment(ref _takings);
            if (Gate is { } gate)
            {
                Gate = null;
                await gate.Task;
            }

            return new TakeAnswer(TakeResult.Taken, new Claim(guest, holder with { Generation = 1 }, lease), askedAt, Ttl, null, 1);
        }

        public Task<Holder?> LookAsync(string guest, CancellationToken cancellation) => Task.FromResult<Holder?>(null);

        public Task<RenewAnswer> RenewAsync(Claim claim, CancellationToken cancellation)
        {
            ThrowIfSilent();
            Interlocked.Increment(ref _renewals);
            return Task.FromResult(new RenewAnswer(Answer, BootClock.Now, Ttl, Answer == RenewResult.Superseded ? 2 : 1, null));
        }

        public Task ReleaseAsync(Claim claim, CancellationToken cancellation)
        {
            ThrowIfSilent();
            lock (_released)
            {
                _released.Add(claim.Lease);
            }

            return Task.CompletedTask;
        }

        public void Dispose()
        {
        }

        private void ThrowIfSilent()
        {
            if (_silent)
            {
                throw new ArbiterException("no answer");
            }
        }
    }
}
