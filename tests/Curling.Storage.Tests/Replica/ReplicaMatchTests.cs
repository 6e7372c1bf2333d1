using Curling.Storage.Replica;
using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Replica;

public sealed class ReplicaMatchTests
{
    private static readonly Guid History = Guid.NewGuid();
    private static readonly Guid Id = Guid.NewGuid();
    private static readonly Guid Known = Guid.NewGuid();
    private static readonly Guid Last = Guid.NewGuid();
    private static readonly ChangeMapRecord Map = new(1 << 20, 65536, History, Id, Known, 7, Last, Guid.NewGuid());
    private static readonly ReplicaIdentity Replica = new(Id, History, 1 << 20, ReplicaState.Consistent, Known, 7);

    [Fact]
    public void A_replica_that_has_what_the_map_takes_for_granted_gets_the_rest()
    {
        Assert.Equal(new CopyPlan(false, "the replica has all but what changed since", 99), Decide(Replica));
        Assert.False(Decide(Replica with { Round = 9 }).IsFull); // the word of two commits was lost
        Assert.False(Decide(Replica with { Session = Last, Round = 1 }).IsFull);
        Assert.False(Decide(Replica with { State = ReplicaState.Copying }).IsFull); // a copy that is taken up again
    }

    [Fact]
    public void Anything_else_is_a_full_copy_that_says_why()
    {
        Full("empty", Replica with { State = ReplicaState.Empty });
        Full("another history", Replica with { HistoryId = Guid.NewGuid() });
        Full("another replica", Replica with { ReplicaId = Guid.NewGuid() });
        Full("512 bytes", Replica with { Length = 512 });
        Full("was put back", Replica with { Round = 6 });
        Full("does not know", Replica with { Session = Guid.NewGuid() });
        CopyPlan plan = ReplicaMatch.Decide(Map, "the map is damaged", Replica, 99);
        Assert.Equal(new CopyPlan(true, "the map is damaged", 0), plan);
    }

    private static CopyPlan Decide(ReplicaIdentity replica) => ReplicaMatch.Decide(Map, null, replica, 99);

    private static void Full(string why, ReplicaIdentity replica)
    {
        CopyPlan plan = Decide(replica);
        Assert.True(plan.IsFull);
        Assert.Contains(why, plan.Why, StringComparison.Ordinal);
    }
}
