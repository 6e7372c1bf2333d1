namespace Curling.Storage.Nbd;

/// <summary>How a peer broke the protocol.</summary>
public enum NbdViolation
{
    /// <summary>The client's flags after the greeting are none that were offered.</summary>
    ClientFlags = 1,

    /// <summary>An option does not begin with the magic number of one.</summary>
    OptionMagic,

    /// <summary>An option is longer than any that there is.</summary>
    OptionTooLong,

    /// <summary>There were more options than any client needs.</summary>
    TooManyOptions,

    /// <summary>The negotiation took longer than it may.</summary>
    HandshakeTimeout,

    /// <summary>A name that this server does not export, in the option that has no answer for that.</summary>
    UnknownExport,

    /// <summary>A request does not begin with the magic number of one.</summary>
    RequestMagic,

    /// <summary>A write is longer than 32 MiB.</summary>
    PayloadTooLong,

    /// <summary>The stream ended in the middle of an option or a request.</summary>
    Truncated,

    /// <summary>A reply that nothing was asked for, or that is not made as it must be.</summary>
    Reply,
}

/// <summary>A peer broke the NBD protocol in a way after which the connection cannot go on.</summary>
public sealed class NbdViolationException : IOException
{
    /// <summary>Creates the exception.</summary>
    public NbdViolationException(NbdViolation violation, string message)
        : base(message) => Violation = violation;

    /// <summary>Which rule.</summary>
    public NbdViolation Violation { get; }
}
