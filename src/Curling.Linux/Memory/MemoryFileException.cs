namespace Curling.Linux.Memory;

/// <summary>Guest memory or a round could not be kept; the message says where, how much, and what to do.</summary>
public sealed class MemoryFileException : IOException
{
    /// <summary>Creates the exception.</summary>
    public MemoryFileException(string message, Exception? cause = null)
        : base(message, cause)
    {
    }
}
