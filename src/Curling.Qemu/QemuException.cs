namespace Curling.Qemu;

/// <summary>QEMU is missing, too old, ended or did not do what it was asked; the message says which and what to do.</summary>
public class QemuException : Exception
{
    /// <summary>Creates the exception.</summary>
    public QemuException(string message, Exception? cause = null)
        : base(message, cause)
    {
    }
}

/// <summary>QEMU's monitor answered a command with an error, or the conversation broke.</summary>
public sealed class QmpException : QemuException
{
    /// <summary>Creates the exception.</summary>
    public QmpException(string message, string errorClass = "")
        : base(message)
    {
        ErrorClass = errorClass;
    }

    /// <summary>QMP's class of the error, such as <c>GenericError</c>; empty when the conversation broke.</summary>
    public string ErrorClass { get; }
}
