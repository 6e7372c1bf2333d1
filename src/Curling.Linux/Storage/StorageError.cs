using System.Runtime.InteropServices;

namespace Curling.Linux.Storage;

/// <summary>The kinds of failure of a file that are treated differently.</summary>
public enum StorageErrorKind
{
    /// <summary>Anything else: what was written may not be there.</summary>
    Io = 1,

    /// <summary>The filesystem, or the share of it that this user may have, is full.</summary>
    NoSpace,

    /// <summary>The file, its filesystem or its device may only be read.</summary>
    ReadOnly,

    /// <summary>This user may not.</summary>
    NoAccess,

    /// <summary>There is no such file.</summary>
    Missing,

    /// <summary>It is neither a file nor a block device.</summary>
    WrongKind,

    /// <summary>Another program has it.</summary>
    InUse,

    /// <summary>This file, or its filesystem, cannot do that.</summary>
    NotSupported,
}

/// <summary>A call to the kernel about a file failed.</summary>
public sealed class StorageException : IOException
{
    /// <summary>Creates the exception.</summary>
    public StorageException(StorageErrorKind kind, string message)
        : base(message) => Kind = kind;

    /// <summary>What kind of failure it was.</summary>
    public StorageErrorKind Kind { get; }

    internal static StorageException FromLast(string what)
    {
        int error = Marshal.GetLastPInvokeError();
        StorageErrorKind kind = error switch
        {
            Interop.NoSpace or Interop.QuotaExceeded => StorageErrorKind.NoSpace,
            Interop.ReadOnlyFilesystem => StorageErrorKind.ReadOnly,
            Interop.NoAccess or Interop.NotPermitted => StorageErrorKind.NoAccess,
            Interop.NoEntry => StorageErrorKind.Missing,
            Interop.IsDirectory => StorageErrorKind.WrongKind,
            Interop.NotSupported => StorageErrorKind.NotSupported,
            _ => StorageErrorKind.Io,
        };
        return new StorageException(kind, $"{what}: {Marshal.GetPInvokeErrorMessage(error)}");
    }
}
