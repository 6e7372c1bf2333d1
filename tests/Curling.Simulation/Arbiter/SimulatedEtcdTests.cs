namespace Curling.Simulation.Arbiter;

public sealed class SimulatedEtcdTests
{
    private readonly History _history = new(1, record: false);
    private readonly SimulatedEtcd _etcd;
    private readonly SimulatedProcess _process;

    public SimulatedEtcdTests()
    {
        _etcd = new SimulatedEtcd(_history);
        _process = new SimulatedProcess(_history);
    }

    [Fact]
    public void A_key_is_created_once_and_swapped_only_by_who_read_it_last()
    {
        EtcdAnswer first = Ask(a => _etcd.Create("a", _process, "guest", "a", 0, a));
        EtcdAnswer second = Ask(a => _etcd.Create("b", _process, "guest", "b", 0, a));
        Assert.True(first is { Reached: true, Succeeded: true });
        Assert.True(second is { Reached: true, Succeeded: false, Key.Value: "a" });

        EtcdAnswer swapped = Ask(a => _etcd.Swap("b", _process, "guest", second.Key!.ModRevision, "b", 0, a));
        EtcdAnswer late = Ask(a => _etcd.Swap("c", _process, "guest", second.Key!.ModRevision, "c", 0, a));
        Assert.True(swapped.Succeeded);
        Assert.False(late.Succeeded);
        Assert.Equal("b", Ask(a => _etcd.Get("a", _process, "guest", a)).Key?.Value);
    }

    [Fact]
    public void A_lease_that_is_not_renewed_takes_its_keys_with_it()
    {
        long lease = Ask(a => _etcd.Grant("a", _process, 300, a)).Lease;
        Assert.True(Ask(a => _etcd.Create("a", _process, "guest", "a", lease, a)).Succeeded);
        Wait(250);
        Assert.True(Ask(a => _etcd.KeepAlive("a", _process, lease, a)).Succeeded);
        Wait(250);
        Assert.Equal("a", _etcd.Look("guest")?.Value);
        Wait(100);
        Assert.Null(_etcd.Look("guest"));
        Assert.False(Ask(a => _etcd.KeepAlive("a", _process, lease, a)).Succeeded);
        Assert.False(Ask(a => _etcd.Create("a", _process, "guest", "a", lease, a)).Succeeded);
    }

    [Fact]
    public void Behind_a_cut_nothing_is_known_and_something_may_have_happened()
    {
        _etcd.Partition("a", there: true, back: false);
        Assert.False(Ask(a => _etcd.Create("a", _process, "guest", "a", 0, a)).Reached);
        Assert.Null(_etcd.Look("guest"));

        _etcd.Partition("a", there: false, back: true);
        Assert.False(Ask(a => _etcd.Create("a", _process, "guest", "a", 0, a)).Reached);
        Assert.Equal("a", _etcd.Look("guest")?.Value);

        _etcd.Partition("a", there: false, back: false);
        Assert.True(Ask(a => _etcd.Get("a", _process, "guest", a)).Reached);
    }

    [Fact]
    public void Down_it_answers_nobody_and_no_lease_expires()
    {
        long lease = Ask(a => _etcd.Grant("a", _process, 300, a)).Lease;
        Ask(a => _etcd.Create("a", _process, "guest", "a", lease, a));
        _etcd.Down(true);
        Assert.False(Ask(a => _etcd.Get("a", _process, "guest", a)).Reached);
        Wait(1_000);
        _etcd.Down(false);
        Assert.Equal("a", Ask(a => _etcd.Get("a", _process, "guest", a)).Key?.Value);
        Wait(400);
        Assert.Null(_etcd.Look("guest"));
    }

    private EtcdAnswer Ask(Action<Action<EtcdAnswer>> call)
    {
        EtcdAnswer? given = null;
        call(a => given = a);
        while (given is null && _history.Next())
        {
        }

        return given!.Value;
    }

    private void Wait(int milliseconds)
    {
        bool over = false;
        _history.In(milliseconds, () => over = true);
        while (!over && _history.Next())
        {
        }
    }
}
