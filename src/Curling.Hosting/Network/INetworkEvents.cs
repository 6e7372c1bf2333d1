namespace Curling.Hosting.Network;

/// <summary>What a daemon hears from its guest's network. Called on the network's own threads: it must not block.</summary>
public interface INetworkEvents
{
    /// <summary>Output waits for the next cut, where none did before.</summary>
    void OutputWaits();

    /// <summary>So much output waits that no more is taken from the guest.</summary>
    void OutputFull();

    /// <summary>A frame of the guest waits.</summary>
    /// <param name="network">The network.</param>
    /// <param name="round">The earliest round that can make it safe.</param>
    /// <param name="frame">The frame; valid during the call.</param>
    void Held(int network, long round, ReadOnlySpan<byte> frame);

    /// <summary>Frames were passed on to the guest.</summary>
    /// <param name="network">The network.</param>
    /// <param name="batch">Each with its length before it (big-endian, 4 bytes); valid during the call.</param>
    void Passed(int network, ReadOnlySpan<byte> batch);
}

/// <summary>The numbers of one network card's cable since the daemon's start.</summary>
/// <param name="Mac">Its address.</param>
/// <param name="Attach">Where it was to attach.</param>
/// <param name="Device">The tap device, null when there is none.</param>
/// <param name="HeldFrames">Frames of the guest that wait now.</param>
/// <param name="HeldBytes">Their bytes.</param>
/// <param name="ReleasedFrames">Frames of the guest that left.</param>
/// <param name="ReleasedBytes">Their bytes.</param>
/// <param name="DroppedMisfits">Frames dropped because the guest made them longer than the MTU allows, or too short.</param>
/// <param name="DroppedNoCable">Frames dropped when they might leave, because the host's end was down or there is none.</param>
/// <param name="PassedFrames">Frames passed on to the guest.</param>
/// <param name="PassedBytes">Their bytes.</param>
/// <param name="HostDroppedFrames">Frames for the guest that the host's kernel dropped because the guest did not take them in time.</param>
/// <param name="Overruns">Stops of the guest at which there was no room for what its card had queued: QEMU may have dropped a frame each time.</param>
public sealed record PortCounters(
    string Mac, string Attach, string? Device, long HeldFrames, long HeldBytes, long ReleasedFrames, long ReleasedBytes,
    long DroppedMisfits, long DroppedNoCable, long PassedFrames, long PassedBytes, long HostDroppedFrames,
    long Overruns);
