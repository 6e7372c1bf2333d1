using System.Net.NetworkInformation;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>Sees every frame in a network namespace, on whatever device, and counts what one card sent to somebody there is.</summary>
/// <remarks>A frame that passes several devices is counted on each. Broadcasts are not counted: every host of a network gets them.</remarks>
public sealed class FrameTap : IDisposable
{
    // linux: include/uapi/linux/if_ether.h, ETH_P_ALL, in the network's order.
    private const ProtocolType Everything = (ProtocolType)0x0300;
    private readonly Socket _socket;
    private readonly byte[] _card;
    private readonly Thread _thread;
    private int _seen;

    /// <summary>Begins to look.</summary>
    /// <param name="place">The namespace.</param>
    /// <param name="mac">The card, such as 52:54:00:00:00:01.</param>
    public FrameTap(string place, string mac)
    {
        _card = PhysicalAddress.Parse(mac).GetAddressBytes();
        _socket = NetworkLab.In(place, () => new Socket(AddressFamily.Packet, SocketType.Raw, Everything));
        _thread = new Thread(Look) { IsBackground = true };
        _thread.Start();
    }

    /// <summary>How many were seen.</summary>
    public int Seen => Volatile.Read(ref _seen);

    /// <inheritdoc/>
    public void Dispose()
    {
        _socket.Dispose();
        _thread.Join();
    }

    private void Look()
    {
        byte[] frame = new byte[2048];
        try
        {
            while (true)
            {
                int length = _socket.Receive(frame);
                if (length >= 14 && (frame[0] & 1) == 0 && frame.AsSpan(6, 6).SequenceEqual(_card))
                {
                    Interlocked.Increment(ref _seen);
                }
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Enough was seen.
        }
    }
}
