using Curling.Linux.Network;
using Curling.Qemu.Guests;

namespace Curling.Hosting.Network;

/// <summary>
/// The host's end of a card's cable: a tap device, or a port of a bridge, or nothing, as the definition says. A device that
/// vanishes is made anew.
/// </summary>
/// <remarks>
/// Any thread may write; one thread reads, and that one replaces the device. A write to a device that is gone is dropped: the
/// reader meets the same and tells.
/// </remarks>
internal sealed class TapCable : IDisposable
{
    private readonly NetworkDefinition _network;
    private readonly Lock _writing = new();
    private TapDevice? _device;

    /// <summary>Opens the host's end.</summary>
    /// <param name="network">The network.</param>
    /// <param name="attach">Where it attaches on this host: <c>tap:NAME</c>, <c>bridge:NAME</c> or <c>none</c>.</param>
    /// <exception cref="TapException">It cannot be made.</exception>
    public TapCable(NetworkDefinition network, string attach)
    {
        _network = network;
        Attach = attach;
        _device = Open();
    }

    /// <summary>Where it attaches.</summary>
    public string Attach { get; }

    /// <summary>The device, null while there is none. Owned by this.</summary>
    public TapDevice? Device => Volatile.Read(ref _device);

    /// <summary>Hands a frame to the host.</summary>
    /// <returns>Whether the host took it.</returns>
    public bool Write(ReadOnlySpan<byte> frame)
    {
        lock (_writing)
        {
            try
            {
                return _device?.Write(frame) == true;
            }
            catch (TapException)
            {
                // The thread that reads from it notices, and tells.
                return false;
            }
        }
    }

    /// <summary>Tells the host's network where the guest's address is now: a reverse ARP request, as QEMU itself sends.</summary>
    public void Announce()
    {
        byte[] frame = new byte[60];
        byte[] mac = _network.MacBytes();
        frame.AsSpan(0, 6).Fill(0xFF);
        mac.CopyTo(frame, 6);
        ReadOnlySpan<byte> head = [0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3];
        head.CopyTo(frame.AsSpan(12));
        mac.CopyTo(frame, 22);
        mac.CopyTo(frame, 32);
        Write(frame);
    }

    /// <summary>The device is gone: closes it, so that its name is free again.</summary>
    public void Remove() => Exchange(null);

    /// <summary>Makes the device anew.</summary>
    /// <exception cref="TapException">It cannot be made.</exception>
    public void Reopen() => Exchange(Open());

    /// <inheritdoc/>
    public void Dispose() => Exchange(null);

    private void Exchange(TapDevice? device)
    {
        lock (_writing)
        {
            _device?.Dispose();
            Volatile.Write(ref _device, device);
        }
    }

    private TapDevice? Open() => Attach.Split(':') switch
    {
        ["tap", { } name] => TapDevice.Open(name, _network.Mtu, bridge: null),
        ["bridge", { } bridge] => TapDevice.Open("curling%d", _network.Mtu, bridge),
        _ => null,
    };
}
