namespace Curling.Hosting.Network;

/// <summary>Passes a network's events on to whom they concern now: nobody while a standby waits, its sender once it is protected again.</summary>
/// <remarks>Thread-safe.</remarks>
public sealed class NetworkEventsSwitch : INetworkEvents
{
    private volatile INetworkEvents? _target;

    /// <summary>Who hears the events from now on; null for nobody.</summary>
    public INetworkEvents? Target
    {
        get => _target;
        set => _target = value;
    }

    /// <inheritdoc/>
    public void OutputWaits() => _target?.OutputWaits();

    /// <inheritdoc/>
    public void OutputFull() => _target?.OutputFull();

    /// <inheritdoc/>
    public void Held(int network, long round, ReadOnlySpan<byte> frame) => _target?.Held(network, round, frame);

    /// <inheritdoc/>
    public void Passed(int network, ReadOnlySpan<byte> batch) => _target?.Passed(network, batch);
}
