using Curling.Hosting.Network;

namespace Curling.Recv.Sessions;

/// <summary>A promoted guest has no standby: its network needs no rounds and no copies.</summary>
internal sealed class NoEvents : INetworkEvents
{
    /// <summary>The only one there is.</summary>
    public static readonly NoEvents Instance = new();

    /// <inheritdoc/>
    public void OutputWaits()
    {
    }

    /// <inheritdoc/>
    public void OutputFull()
    {
    }

    /// <inheritdoc/>
    public void Held(int network, long round, ReadOnlySpan<byte> frame)
    {
    }

    /// <inheritdoc/>
    public void Passed(int network, ReadOnlySpan<byte> batch)
    {
    }
}
