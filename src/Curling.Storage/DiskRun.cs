namespace Curling.Storage;

/// <summary>A stretch of a disk as it travels with a round: its bytes, or the word that it reads as zeros.</summary>
/// <param name="Offset">Where it begins, in bytes; a multiple of 4096.</param>
/// <param name="Length">Its length in bytes; a multiple of 4096 except at the end of a disk whose size is none.</param>
/// <param name="IsZero">It reads as zeros and carries no bytes.</param>
public readonly record struct DiskRun(long Offset, long Length, bool IsZero);
