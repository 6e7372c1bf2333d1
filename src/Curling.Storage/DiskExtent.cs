namespace Curling.Storage;

/// <summary>A stretch of a disk that is alike.</summary>
/// <param name="Length">Its length in bytes.</param>
/// <param name="IsHole">No room is taken for it in the image; it reads as zeros.</param>
public readonly record struct DiskExtent(long Length, bool IsHole);
