namespace Curling.Storage;

/// <summary>Why a request to a disk failed, as far as the guest can be told.</summary>
public enum DiskError
{
    /// <summary>The image could not be read or written (EIO).</summary>
    Io = 1,

    /// <summary>There is no room left (ENOSPC).</summary>
    NoSpace = 2,

    /// <summary>The disk may only be read (EPERM).</summary>
    ReadOnly = 3,
}

/// <summary>A request to a disk failed; the message says which image, where in it, and why.</summary>
public sealed class DiskException : IOException
{
    /// <summary>Creates the exception.</summary>
    public DiskException(DiskError error, string message, Exception? inner = null)
        : base(message, inner) => Error = error;

    /// <summary>What the guest can be told.</summary>
    public DiskError Error { get; }
}
