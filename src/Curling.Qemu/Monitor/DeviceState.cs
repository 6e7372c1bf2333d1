using System.Buffers.Binary;
using System.Text;

namespace Curling.Qemu.Monitor;

/// <summary>
/// Makes what <c>xen-save-devices-state</c> wrote into a migration stream that a waiting QEMU loads: the file lacks the
/// configuration section after the header and the end with an empty description. Source: qemu migration/savevm.c.
/// </summary>
public static class DeviceState
{
    private const uint Magic = 0x5145564D; // "QEVM"
    private const uint Version = 3;
    private const int HeaderBytes = 8;
    private const byte ConfigurationSection = 0x07;
    private const byte EndOfStream = 0x00;
    private const byte DescriptionSection = 0x06;

    /// <summary>How long the composed stream is.</summary>
    public static int ComposedLength(int savedLength, string machineType) =>
        savedLength + 5 + Encoding.ASCII.GetByteCount(machineType) + 5;

    /// <summary>Composes the stream.</summary>
    /// <param name="saved">The file QEMU wrote.</param>
    /// <param name="machineType">The versioned machine type, such as <c>pc-q35-7.2</c>.</param>
    /// <param name="destination">At least <see cref="ComposedLength"/> bytes.</param>
    /// <returns>The bytes written.</returns>
    /// <exception cref="QemuException">The file is not what QEMU writes.</exception>
    public static int Compose(ReadOnlySpan<byte> saved, string machineType, Span<byte> destination)
    {
        if (saved.Length <= HeaderBytes
            || BinaryPrimitives.ReadUInt32BigEndian(saved) != Magic
            || BinaryPrimitives.ReadUInt32BigEndian(saved[4..]) != Version
            || saved[^1] != EndOfStream)
        {
            throw new QemuException(
                $"QEMU's device state of {saved.Length} bytes is not a migration stream of version {Version}; this version of QEMU"
                + " may be too new, use --rounds full");
        }

        int at = HeaderBytes;
        saved[..HeaderBytes].CopyTo(destination);
        destination[at++] = ConfigurationSection;
        BinaryPrimitives.WriteInt32BigEndian(destination[at..], machineType.Length);
        at += 4;
        at += Encoding.ASCII.GetBytes(machineType, destination[at..]);
        saved[HeaderBytes..].CopyTo(destination[at..]);
        at += saved.Length - HeaderBytes;
        destination[at++] = DescriptionSection;
        BinaryPrimitives.WriteInt32BigEndian(destination[at..], 0);
        return at + 4;
    }
}
