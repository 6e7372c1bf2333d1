namespace Curling.Linux.Memory;

/// <summary>Questions about memory that every page is asked.</summary>
public static class MemoryCopy
{
    /// <summary>Whether every byte is zero.</summary>
    public static bool IsZero(ReadOnlySpan<byte> bytes) => bytes.IndexOfAnyExcept((byte)0) < 0;
}
