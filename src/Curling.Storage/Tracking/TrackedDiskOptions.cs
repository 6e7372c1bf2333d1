namespace Curling.Storage.Tracking;

/// <summary>The bounds of a tracked disk.</summary>
public sealed record TrackedDiskOptions
{
    /// <summary>What old content of blocks, written again before a round's snapshot was read, may take; beyond it such writes wait.</summary>
    public long MaxHeldBytes { get; init; } = 64 << 20;

    /// <summary>What may change between two cuts; beyond it writes wait for the next cut while <see cref="TrackedDisk.IsBounded"/>.</summary>
    public long MaxDirtyBytes { get; init; } = 256 << 20;

    /// <summary>How long a cut waits for writes that should not be under way any more.</summary>
    public TimeSpan DrainLimit { get; init; } = TimeSpan.FromSeconds(2);

    /// <summary>Where the image is, so that the map can say what it looks like; null where nobody else can change it.</summary>
    public string? ImagePath { get; init; }
}

/// <summary>How far a copy is.</summary>
/// <param name="BytesLeft">Blocks that no round has carried yet, in bytes.</param>
/// <param name="BytesTotal">What the copy began with.</param>
public readonly record struct BacklogStatus(long BytesLeft, long BytesTotal);

/// <summary>What a tracked disk counted.</summary>
/// <param name="HeldBytes">Old content that is held now.</param>
/// <param name="SavedBlocks">Blocks that were copied before a write, since the start.</param>
/// <param name="SnapshotWaits">Writes that waited for a snapshot's reader: a block being read, or no memory left to hold old content.</param>
/// <param name="GateWaits">Writes that waited for the next cut.</param>
/// <param name="WaitTime">How long these waited together.</param>
public readonly record struct TrackedDiskCounters(long HeldBytes, long SavedBlocks, long SnapshotWaits, long GateWaits, TimeSpan WaitTime);
