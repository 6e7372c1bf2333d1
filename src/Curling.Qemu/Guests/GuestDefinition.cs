namespace Curling.Qemu.Guests;

/// <summary>
/// A guest as its owner describes it, independent of host and QEMU version. It travels to the receiver, which builds its own
/// command line from it. Immutable. The format is that of docs/guest-definition.md.
/// </summary>
public sealed record GuestDefinition
{
    /// <summary>The guest's name: 1 to 63 letters, digits, dots, dashes and underscores.</summary>
    public required string Name { get; init; }

    /// <summary>QEMU's machine type: <c>q35</c>, <c>pc</c>, or a versioned one such as <c>pc-q35-7.2</c>.</summary>
    public string Machine { get; init; } = "q35";

    /// <summary><c>auto</c>, <c>kvm</c> or <c>tcg</c>.</summary>
    public string Accelerator { get; init; } = "auto";

    /// <summary>QEMU's CPU model, with flags.</summary>
    public string Cpu { get; init; } = "qemu64";

    /// <summary>Virtual CPUs.</summary>
    public int Vcpus { get; init; } = 1;

    /// <summary>Guest memory in bytes, a whole number of MiB.</summary>
    public required long MemoryBytes { get; init; }

    /// <summary>A kernel to boot directly, or null.</summary>
    public string? Kernel { get; init; }

    /// <summary>Its initial RAM disk, or null.</summary>
    public string? Initrd { get; init; }

    /// <summary>The kernel's command line; for firmware guests the fw_cfg file <c>opt/org.curling.append</c>.</summary>
    public string? Append { get; init; }

    /// <summary>Firmware instead of SeaBIOS, or null.</summary>
    public string? Firmware { get; init; }

    /// <summary>Whether the guest has a serial port.</summary>
    public bool Serial { get; init; } = true;

    /// <summary>The guest's display, or null for none.</summary>
    public DisplayDefinition? Display { get; init; }

    /// <summary>Its disks, in the order in which it may boot from them.</summary>
    public DiskList Disks { get; init; } = DiskList.Empty;

    /// <summary>Its network cards.</summary>
    public NetworkList Networks { get; init; } = NetworkList.Empty;
}

/// <summary>A display: a VGA card and where to see it.</summary>
/// <param name="Type"><c>vnc</c> or <c>spice</c>.</param>
/// <param name="Listen">The address to listen on, <c>host:port</c>; port 0 is chosen by the daemon.</param>
public sealed record DisplayDefinition(string Type, string Listen)
{
    /// <summary>The address without the port.</summary>
    public string Host => Listen[..Listen.LastIndexOf(':')].Trim('[', ']');

    /// <summary>The port, 0 for any.</summary>
    public int Port => int.Parse(Listen[(Listen.LastIndexOf(':') + 1)..], System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>Whether a text is an IP address and a port that a display can have: 0, or 5900 and up.</summary>
    public static bool IsListen(string listen)
    {
        int colon = listen.LastIndexOf(':');
        return colon > 0 && System.Net.IPAddress.TryParse(listen[..colon].Trim('[', ']'), out _)
            && ushort.TryParse(
                listen.AsSpan(colon + 1),
                System.Globalization.NumberStyles.None,
                System.Globalization.CultureInfo.InvariantCulture,
                out ushort port)
            && (port == 0 || port >= 5900);
    }
}

/// <summary>A guest definition that cannot be used. The message names source, field, what is wrong and what to write.</summary>
public sealed class GuestDefinitionException : Exception
{
    /// <summary>Creates the exception.</summary>
    public GuestDefinitionException(string source, string field, string problem)
        : base(field.Length == 0 ? $"{source}: {problem}" : $"{source}: field \"{field}\": {problem}")
    {
        Field = field;
    }

    /// <summary>The field, as a path such as <c>display.listen</c>; empty when the document itself is wrong.</summary>
    public string Field { get; }
}
