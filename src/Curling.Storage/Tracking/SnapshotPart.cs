namespace Curling.Storage.Tracking;

/// <summary>What a call to <see cref="DiskSnapshot.ReadAsync"/> filled in; no runs mean that the snapshot has been read to its end.</summary>
/// <param name="Runs">How many runs.</param>
/// <param name="Bytes">How many bytes of the buffer: the content of the runs that are not zero, one behind the other.</param>
public readonly record struct SnapshotPart(int Runs, int Bytes);

/// <summary>How a snapshot came to an end; until then writes to its unread blocks save the old content.</summary>
internal enum SnapshotEnd
{
    /// <summary>It is open.</summary>
    None,

    /// <summary>All of it was read.</summary>
    Read,

    /// <summary>It could not be read; the round must be abandoned.</summary>
    Failed,

    /// <summary>Given up, with its round or with the link.</summary>
    Abandoned,
}
