using Microsoft.Extensions.Logging;

namespace Curling.Storage.Nbd;

/// <summary>What an export tells.</summary>
internal static partial class NbdServerLog
{
    [LoggerMessage(EventName = "DiskExported", Level = LogLevel.Debug, Message = "the disk {Disk} is exported on {Path} ({Bytes} bytes)")]
    public static partial void Exported(ILogger log, string disk, string path, long bytes);

    [LoggerMessage(EventName = "DiskClientConnected", Level = LogLevel.Debug,
        Message = "the disk {Disk} has the client {Client} (structured replies: {Structured}, extents: {Extents})")]
    public static partial void Connected(ILogger log, string disk, int client, bool structured, bool extents);

    [LoggerMessage(EventName = "DiskClientDisconnected", Level = LogLevel.Debug, Message = "the disk {Disk} lost its client {Client}: {Reason}")]
    public static partial void Disconnected(ILogger log, string disk, int client, string reason);

    [LoggerMessage(EventName = "DiskClientRefused", Level = LogLevel.Warning,
        Message = "a client of the disk {Disk} was turned away: there are {Connections} already")]
    public static partial void Refused(ILogger log, string disk, int connections);

    [LoggerMessage(EventName = "DiskProtocolViolation", Level = LogLevel.Warning,
        Message = "the client {Client} of the disk {Disk} broke the NBD protocol ({Violation}) and is disconnected: {Reason}")]
    public static partial void Violation(ILogger log, string disk, int client, NbdViolation violation, string reason);

    [LoggerMessage(EventName = "DiskRequestFailed", Level = LogLevel.Warning,
        Message = "the disk {Disk} answered its client {Client} with error {Error} (command {Command} at {Offset}): {Reason}")]
    public static partial void RequestFailed(ILogger log, string disk, int client, int command, long offset, uint error, string reason);

    [LoggerMessage(EventName = "DiskRequestFailedAgain", Level = LogLevel.Debug,
        Message = "the disk {Disk} answered its client {Client} with error {Error} (command {Command} at {Offset}): {Reason}")]
    public static partial void RequestFailedAgain(ILogger log, string disk, int client, int command, long offset, uint error, string reason);

    [LoggerMessage(EventName = "DiskExportFault", Level = LogLevel.Error, Message = "the client {Client} of the disk {Disk} is disconnected")]
    public static partial void Unexpected(ILogger log, Exception exception, string disk, int client);

    [LoggerMessage(EventName = "DiskExportUnfinished", Level = LogLevel.Warning,
        Message = "requests to the disk {Disk} were under way still after {Seconds} s and are given up")]
    public static partial void Unfinished(ILogger log, string disk, double seconds);
}
