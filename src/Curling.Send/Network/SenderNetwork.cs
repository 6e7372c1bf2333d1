using Curling.Hosting.Network;
using Curling.Replication.Sender;

namespace Curling.Send.Network;

/// <summary>Tells the sender's machine of the guest's output, and the receiver of its input.</summary>
/// <param name="inputs">Where the machine's inputs go.</param>
/// <param name="copy">Takes copies of what the guest is given, null for none.</param>
internal sealed class SenderNetwork(Action<SenderInput> inputs, InboundCopy? copy) : INetworkEvents
{
    /// <inheritdoc/>
    public void OutputWaits() => inputs(SenderInput.OutputWaits.Instance);

    /// <inheritdoc/>
    public void OutputFull() => inputs(SenderInput.OutputFull.Instance);

    /// <inheritdoc/>
    public void Held(int network, long round, ReadOnlySpan<byte> frame) => copy?.Sent(network, round, frame);

    /// <inheritdoc/>
    public void Passed(int network, ReadOnlySpan<byte> batch) => copy?.Take(network, batch);
}
