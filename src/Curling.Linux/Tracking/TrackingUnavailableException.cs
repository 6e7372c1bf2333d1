namespace Curling.Linux.Tracking;

/// <summary>Dirty pages of another process cannot be tracked here; the message says what is missing.</summary>
public sealed class TrackingUnavailableException : Exception
{
    /// <summary>Creates the exception.</summary>
    public TrackingUnavailableException(string message)
        : base(message)
    {
    }
}
