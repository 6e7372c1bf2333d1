using System.Runtime.InteropServices;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Network;

/// <summary>
/// A tap device: an interface of the host whose cable ends in this process. Frames are Ethernet frames without any header
/// before them, at most the device's MTU and 18 bytes long. Source: the kernel's Documentation/networking/tuntap.
/// </summary>
/// <remarks>
/// One thread may read while another writes. Closing it removes the interface, unless it was there before as a persistent one;
/// so does the end of the process, however it ends.
/// </remarks>
public sealed unsafe class TapDevice : IDisposable
{
    private readonly SafeFileHandle _handle;

    private TapDevice(SafeFileHandle handle, string name)
    {
        _handle = handle;
        Name = name;
    }

    /// <summary>The interface's name.</summary>
    public string Name { get; }

    /// <summary>For <see cref="Readiness"/>.</summary>
    public SafeHandle Handle => _handle;

    /// <summary>Creates a tap device, or attaches to a persistent one of that name, and takes it into use.</summary>
    /// <param name="name">Its name, or a pattern such as <c>curling%d</c> of which the kernel makes the next free name.</param>
    /// <param name="mtu">The longest payload of a frame in bytes.</param>
    /// <param name="bridge">The bridge it becomes a port of, or null.</param>
    /// <exception cref="TapException">It cannot be done.</exception>
    public static TapDevice Open(string name, int mtu, string? bridge)
    {
        int descriptor = Interop.open("/dev/net/tun", Interop.ReadWrite | Interop.NonBlocking | Interop.CloseOnExec);
        if (descriptor < 0)
        {
            int error = Marshal.GetLastPInvokeError();
            throw new TapException($"/dev/net/tun cannot be opened: {Explain(error)}" + (error switch
            {
                Interop.NoEntry or Interop.NoDevice => "; load the kernel's module tun (modprobe tun)",
                Interop.NoAccess or Interop.NotPermitted => "; a guest's network needs root, or the capability CAP_NET_ADMIN",
                _ => "",
            }));
        }

        SafeFileHandle handle = new(descriptor, ownsHandle: true);
        try
        {
            Interop.InterfaceRequest request = Named(name);
            request.Value = Interop.TunTap | Interop.TunNoPacketInfo;
            if (Interop.ioctl(descriptor, Interop.TunSetInterface, &request) < 0)
            {
                int error = Marshal.GetLastPInvokeError();
                throw new TapException($"the tap device {name} cannot be made: {Explain(error)}" + (error switch
                {
                    Interop.Busy => "; another program uses it",
                    Interop.Invalid => "; there is an interface of that name which is not a tap device",
                    Interop.NotPermitted => "; a guest's network needs root, or the capability CAP_NET_ADMIN",
                    _ => "",
                }));
            }

            string given = Encoding.ASCII.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(request.Name));
            QuietIpv6(given);
            int control = Interop.socket(Interop.InternetFamily, Interop.DatagramSocket | Interop.CloseOnExec, 0);
            using SafeFileHandle socket = new(control, ownsHandle: true);
            TakeIntoUse(control, given, mtu, bridge);
            return new TapDevice(handle, given);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>Whether a text can be an interface's name.</summary>
    public static bool IsName(string name) => name.Length is > 0 and < Interop.NameBytes
        && name is not ("." or "..") && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.' or '@');

    /// <summary>Reads a frame that came from the host.</summary>
    /// <returns>Its length; 0 when there is none now.</returns>
    /// <exception cref="TapException">The device is gone.</exception>
    public int Read(Span<byte> frame)
    {
        fixed (byte* start = frame)
        {
            while (true)
            {
                // Safety: the kernel writes at most frame.Length bytes.
                nint got = Interop.read((int)_handle.DangerousGetHandle(), start, (nuint)frame.Length);
                if (got >= 0)
                {
                    return (int)got;
                }

                switch (Marshal.GetLastPInvokeError())
                {
                    case Interop.Interrupted:
                        continue;
                    case Interop.Again or Interop.InputOutput or Interop.NetworkDown:
                        return 0;
                    case int error:
                        throw new TapException($"the tap device {Name} is gone: {Explain(error)}");
                }
            }
        }
    }

    /// <summary>Hands a frame to the host.</summary>
    /// <returns>Whether the host took it; it does not while the interface is down.</returns>
    /// <exception cref="TapException">The device is gone.</exception>
    public bool Write(ReadOnlySpan<byte> frame)
    {
        fixed (byte* start = frame)
        {
            while (true)
            {
                // Safety: the kernel reads frame.Length bytes.
                if (Interop.write((int)_handle.DangerousGetHandle(), start, (nuint)frame.Length) >= 0)
                {
                    return true;
                }

                switch (Marshal.GetLastPInvokeError())
                {
                    case Interop.Interrupted:
                        continue;
                    case Interop.Again or Interop.InputOutput or Interop.Invalid or Interop.NetworkDown:
                        return false;
                    case int error:
                        throw new TapException($"the tap device {Name} is gone: {Explain(error)}");
                }
            }
        }
    }

    /// <summary>Frames that the host had for the guest and dropped because they were not read fast enough.</summary>
    public long HostDropped()
    {
        try
        {
            string text = File.ReadAllText($"/sys/class/net/{Name}/statistics/tx_dropped");
            return long.Parse(text, System.Globalization.CultureInfo.InvariantCulture);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or FormatException)
        {
            return 0;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    private static void TakeIntoUse(int control, string name, int mtu, string? bridge)
    {
        Interop.InterfaceRequest request = Named(name);
        request.Value = mtu;
        Check(Interop.ioctl(control, Interop.SetMtu, &request), $"the tap device {name} does not take the MTU {mtu}");
        if (bridge is not null)
        {
            Join(control, name, mtu, bridge);
        }

        request = Named(name);
        Check(Interop.ioctl(control, Interop.GetFlags, &request), $"the tap device {name} cannot be asked");
        request.Value |= Interop.InterfaceUp;
        Check(Interop.ioctl(control, Interop.SetFlags, &request), $"the tap device {name} cannot be brought up");
    }

    private static void Join(int control, string name, int mtu, string bridge)
    {
        Interop.InterfaceRequest request = Named(bridge);
        if (Interop.ioctl(control, Interop.GetMtu, &request) < 0)
        {
            throw new TapException(
                $"there is no bridge {bridge} on this host; create it (ip link add {bridge} type bridge) or name another in the guest's networks");
        }

        if (request.Value < mtu)
        {
            throw new TapException(
                $"the bridge {bridge} has an MTU of {request.Value} bytes, the guest's network {mtu}; write \"mtu\": {request.Value} in the guest's"
                + " networks, or raise the bridge's");
        }

        request = Named(name);
        Check(Interop.ioctl(control, Interop.GetIndex, &request), $"the tap device {name} cannot be asked");
        int index = request.Value;
        request = Named(bridge);
        request.Value = index;
        if (Interop.ioctl(control, Interop.BridgeAdd, &request) < 0)
        {
            int error = Marshal.GetLastPInvokeError();

            // A persistent tap device may be a port of this bridge already.
            if (error != Interop.Busy || !Directory.Exists($"/sys/class/net/{bridge}/brif/{name}"))
            {
                throw new TapException($"{bridge} does not take the port {name}: {Explain(error)}; is it a bridge?");
            }
        }
    }

    /// <summary>The host itself must not speak on the guest's cable.</summary>
    private static void QuietIpv6(string name)
    {
        try
        {
            File.WriteAllText($"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "1");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // No IPv6 here, or not ours to change: a few packets more.
        }
    }

    private static Interop.InterfaceRequest Named(string name)
    {
        Interop.InterfaceRequest request = default;
        Encoding.ASCII.GetBytes(name.AsSpan(0, Math.Min(name.Length, Interop.NameBytes - 1)), new Span<byte>(request.Name, Interop.NameBytes));
        return request;
    }

    private static void Check(int result, string problem)
    {
        if (result < 0)
        {
            throw new TapException($"{problem}: {Explain(Marshal.GetLastPInvokeError())}");
        }
    }

    private static string Explain(int error) => Marshal.GetPInvokeErrorMessage(error);
}
