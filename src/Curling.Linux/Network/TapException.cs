namespace Curling.Linux.Network;

/// <summary>A tap device or its bridge cannot be used; the message says which, why, and what to do.</summary>
public sealed class TapException : IOException
{
    /// <summary>Creates the exception.</summary>
    public TapException(string message)
        : base(message)
    {
    }
}
