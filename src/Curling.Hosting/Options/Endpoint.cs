using System.Globalization;
using System.Net;

namespace Curling.Hosting.Options;

/// <summary>Where to listen or connect: <c>tcp:host:port</c>, with an IPv6 address in brackets.</summary>
/// <param name="Host">A name or an address.</param>
/// <param name="Port">The port; 0 lets the system choose one, for listening.</param>
public readonly record struct Endpoint(string Host, int Port)
{
    private const string Example = "write tcp:host:port, for example tcp:192.0.2.7:7711";

    /// <summary>Reads an endpoint.</summary>
    /// <param name="text">What a person wrote.</param>
    /// <param name="allowPortZero">Whether port 0 has a meaning here.</param>
    /// <param name="endpoint">The endpoint.</param>
    /// <param name="error">What is wrong with it, for that person.</param>
    public static bool TryParse(string text, bool allowPortZero, out Endpoint endpoint, out string error)
    {
        endpoint = default;
        if (!text.StartsWith("tcp:", StringComparison.Ordinal))
        {
            error = $"\"{text}\" does not begin with tcp:; {Example}";
            return false;
        }

        string rest = text[4..];
        int colon = rest.LastIndexOf(':');
        bool inBrackets = rest.StartsWith('[');
        if (colon < 0 || (inBrackets && !rest[..colon].EndsWith(']')))
        {
            error = $"\"{text}\" has no port; {Example}";
            return false;
        }

        string host = inBrackets ? rest[1..(colon - 1)] : rest[..colon];
        bool good = inBrackets
            ? IPAddress.TryParse(host, out IPAddress? address) && address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetworkV6
            : Uri.CheckHostName(host) is UriHostNameType.Dns or UriHostNameType.IPv4;
        if (!good)
        {
            error = $"\"{host}\" in \"{text}\" is not a host name or address (an IPv6 address stands in brackets); {Example}";
            return false;
        }

        if (!int.TryParse(rest.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int port)
            || port > 65535 || (port == 0 && !allowPortZero))
        {
            error = $"\"{rest[(colon + 1)..]}\" in \"{text}\" is not a port; write a number from {(allowPortZero ? 0 : 1)} to 65535";
            return false;
        }

        endpoint = new Endpoint(host, port);
        error = "";
        return true;
    }

    /// <inheritdoc/>
    public override string ToString() => Host.Contains(':')
        ? string.Create(CultureInfo.InvariantCulture, $"tcp:[{Host}]:{Port}")
        : string.Create(CultureInfo.InvariantCulture, $"tcp:{Host}:{Port}");
}
