using Curling.Protocol;
using Curling.Recv.Sessions;

namespace Curling.Pair.Tests;

public sealed class WholeRoundsTests
{
    private readonly List<string> _discarded = [];
    private readonly WholeRounds<string> _rounds;

    public WholeRoundsTests()
    {
        _rounds = new WholeRounds<string>(_discarded.Add);
    }

    [Fact]
    public void Rounds_are_taken_in_order_and_no_other_way()
    {
        Add(1, 2);
        Assert.Throws<InvalidOperationException>(() => _rounds.Take(2));
        Assert.Equal("1", _rounds.Take(1).Content);
        Assert.Equal("2", _rounds.Take(2).Content);
        Assert.Throws<InvalidOperationException>(() => _rounds.Take(3));
        Assert.Empty(_discarded);
    }

    [Fact]
    public void A_round_of_a_connection_that_was_given_up_is_dropped_also_behind_one_that_waits()
    {
        Add(3, 4);
        _rounds.Drop(4);
        Add(5);
        Assert.Equal(["4"], _discarded);
        Assert.Equal("3", _rounds.Take(3).Content);
        Assert.Equal("5", _rounds.Take(5).Content);
    }

    [Fact]
    public void What_is_not_there_is_not_dropped_and_the_rest_is_cleared()
    {
        Add(7, 8);
        _rounds.Drop(9);
        Assert.Empty(_discarded);
        _rounds.Clear();
        Assert.Equal(["7", "8"], _discarded);
        Assert.Throws<InvalidOperationException>(() => _rounds.Take(7));
    }

    private void Add(params long[] rounds)
    {
        foreach (long round in rounds)
        {
            _rounds.Add(round.ToString(System.Globalization.CultureInfo.InvariantCulture), new RoundEnd(round, false, 0, default, default));
        }
    }
}
