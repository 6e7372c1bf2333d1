using System.Globalization;
using Curling.Storage.Tracking;

namespace Curling.Storage.Replica;

/// <summary>How a replica comes to be a true copy.</summary>
/// <param name="IsFull">All allocated extents travel; otherwise only what is outstanding.</param>
/// <param name="Why">The reason, for people.</param>
/// <param name="Bytes">What travels with a resync, at most; 0 for a full copy, whose size the image tells.</param>
public sealed record CopyPlan(bool IsFull, string Why, long Bytes);

/// <summary>Decides how a replica comes to be a true copy, from what the sender's map and the replica say.</summary>
/// <remarks>
/// A resync is right when the replica holds at least what the map takes to be there. It need not be consistent: what a round applied in
/// part was not committed, so the map still counts it as outstanding.
/// </remarks>
public static class ReplicaMatch
{
    /// <summary>Decides.</summary>
    /// <param name="map">The sender's map.</param>
    /// <param name="distrust">Why the map cannot tell; null when it can.</param>
    /// <param name="replica">What the replica says of itself.</param>
    /// <param name="outstandingBytes">What the sender would have to send again.</param>
    public static CopyPlan Decide(ChangeMapRecord map, string? distrust, ReplicaIdentity replica, long outstandingBytes)
    {
        string? why = replica switch
        {
            { State: ReplicaState.Empty } => "the replica is empty",
            _ when distrust is not null => distrust,
            _ when replica.Length != map.DiskLength => Inv($"the replica has {replica.Length} bytes, the disk {map.DiskLength}"),
            _ when replica.HistoryId != map.HistoryId => "the replica belongs to another history of the disk",
            _ when replica.ReplicaId != map.ReplicaId => "the map of changes is about another replica",
            _ when replica.Session == map.KnownSession && replica.Round < map.KnownRound =>
                Inv($"the replica is at round {replica.Round}, and had round {map.KnownRound} before: it was put back"),
            _ when replica.Session != map.KnownSession && replica.Session != map.Session =>
                "the replica's last round is from a session that the map does not know",
            _ => null,
        };
        return why is null
            ? new CopyPlan(false, "the replica has all but what changed since", outstandingBytes)
            : new CopyPlan(true, why, 0);
    }

    private static string Inv(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
