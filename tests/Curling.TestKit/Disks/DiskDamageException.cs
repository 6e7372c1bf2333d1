namespace Curling.TestKit.Disks;

/// <summary>A disk is not what it must be: something is torn, missing, older or newer than the rest.</summary>
/// <param name="message">What, and where.</param>
public sealed class DiskDamageException(string message) : Exception(message);
