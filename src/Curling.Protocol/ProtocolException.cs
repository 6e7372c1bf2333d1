namespace Curling.Protocol;

/// <summary>Why bytes from a peer were refused. Zero is never valid, so a forgotten value shows.</summary>
public enum ProtocolError
{
    /// <summary>The first bytes are not Curling's.</summary>
    NotCurling = 1,

    /// <summary>The peer speaks another version of the protocol.</summary>
    Version = 2,

    /// <summary>A frame's header does not match its own checksum.</summary>
    DamagedHeader = 3,

    /// <summary>A frame's payload does not match the checksum in its header.</summary>
    DamagedPayload = 4,

    /// <summary>A frame type this version does not know, or one that has no place here.</summary>
    UnexpectedFrame = 5,

    /// <summary>A length beyond its bound.</summary>
    TooLong = 6,

    /// <summary>A frame is missing, came twice or came out of order.</summary>
    Order = 7,

    /// <summary>A field holds a value that has no meaning.</summary>
    Malformed = 8,

    /// <summary>A round's counts or digest do not match what arrived.</summary>
    DamagedRound = 9,

    /// <summary>The connection ended inside a frame.</summary>
    Truncated = 10,
}

/// <summary>
/// Bytes from a peer that break the protocol. The message says what was wrong and where; the connection that carried
/// them is of no further use and must be closed.
/// </summary>
public sealed class ProtocolException : Exception
{
    /// <summary>Creates the exception for one kind of breach.</summary>
    public ProtocolException(ProtocolError error, string message)
        : base(message)
    {
        Error = error;
    }

    /// <summary>The kind of breach.</summary>
    public ProtocolError Error { get; }
}
