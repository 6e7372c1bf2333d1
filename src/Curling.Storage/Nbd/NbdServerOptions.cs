namespace Curling.Storage.Nbd;

/// <summary>Bounds of an export.</summary>
public sealed record NbdServerOptions
{
    /// <summary>How many clients at once; further ones are turned away.</summary>
    public int MaxConnections { get; init; } = 16;

    /// <summary>How many requests of one connection may be under way; beyond that its socket is not read.</summary>
    public int MaxRequests { get; init; } = 128;

    /// <summary>
    /// How many bytes of payload the requests of one connection may hold together; beyond that its socket is not read. One request is always
    /// let in, and the longest is 32 MiB.
    /// </summary>
    public long MaxRequestBytes { get; init; } = 64L << 20;

    /// <summary>How long a client may take for its negotiation.</summary>
    public TimeSpan HandshakeLimit { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>How long the end of the export waits for requests that are under way.</summary>
    public TimeSpan DrainLimit { get; init; } = TimeSpan.FromSeconds(10);
}

/// <summary>What an export has done so far.</summary>
/// <param name="Connections">Clients that are connected now.</param>
/// <param name="Reads">Reads that were answered.</param>
/// <param name="Writes">Writes, zeroes and trims that were answered.</param>
/// <param name="Flushes">Flushes that were answered.</param>
/// <param name="BytesRead">Bytes that clients read.</param>
/// <param name="BytesWritten">Bytes that clients wrote; zeroes and trims do not count.</param>
/// <param name="Errors">Requests that were answered with an error.</param>
/// <param name="Violations">Connections that were closed because a client broke the protocol.</param>
public readonly record struct NbdServerCounters(
    int Connections, long Reads, long Writes, long Flushes, long BytesRead, long BytesWritten, long Errors, long Violations);
