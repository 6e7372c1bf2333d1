namespace Curling.Storage.Replica;

/// <summary>What a replica is worth.</summary>
public enum ReplicaState
{
    /// <summary>It reads as zeros; nothing was applied yet.</summary>
    Empty = 1,

    /// <summary>A copy is under way, or a round was applied in part: a guest must not be started from it.</summary>
    Copying = 2,

    /// <summary>It is the primary's disk as of its round.</summary>
    Consistent = 3,
}

/// <summary>Whether a round's bytes are safe from a loss of the host's power when it is committed (<c>--replica-sync</c>).</summary>
public enum ReplicaSync
{
    /// <summary>They are not: after a reboot of the standby's host the replica starts anew, empty.</summary>
    None = 1,

    /// <summary>They are: each commit waits for the device.</summary>
    Commit = 2,
}

/// <summary>What a replica tells a sender about itself.</summary>
/// <param name="ReplicaId">Which replica it is; a new one whenever it starts from nothing.</param>
/// <param name="HistoryId">The history of the disk it copies.</param>
/// <param name="Length">Its size in bytes.</param>
/// <param name="State">What it is worth.</param>
/// <param name="Session">The sender's session of its last round.</param>
/// <param name="Round">Its last round.</param>
public sealed record ReplicaIdentity(Guid ReplicaId, Guid HistoryId, long Length, ReplicaState State, Guid Session, long Round);

/// <summary>A file cannot be used as the replica that is asked for, and was not touched; the message says why and what can be done.</summary>
public sealed class ReplicaRefusedException(string message) : IOException(message);
