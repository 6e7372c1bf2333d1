using Curling.Qemu.Guests;

namespace Curling.Qemu.Processes;

/// <summary>Everything a QEMU is started with on one host.</summary>
public sealed record QemuLaunch
{
    /// <summary>The QEMU program.</summary>
    public required string Binary { get; init; }

    /// <summary>The guest.</summary>
    public required GuestDefinition Definition { get; init; }

    /// <summary>The versioned machine type.</summary>
    public required string MachineType { get; init; }

    /// <summary><c>kvm</c> or <c>tcg</c>.</summary>
    public required string Accelerator { get; init; }

    /// <summary>A directory for sockets and logs; short, for a socket's path has room for about 100 bytes.</summary>
    public required string Directory { get; init; }

    /// <summary>The file that is the guest's memory; it exists and has the right length.</summary>
    public required string MemoryPath { get; init; }

    /// <summary>Where the kernel is on this host.</summary>
    public string? KernelPath { get; init; }

    /// <summary>Where the initial RAM disk is on this host.</summary>
    public string? InitrdPath { get; init; }

    /// <summary>Where the firmware is on this host.</summary>
    public string? FirmwarePath { get; init; }

    /// <summary>Whether QEMU waits for a state instead of starting the guest.</summary>
    public bool Incoming { get; init; }

    /// <summary>Where the display listens on this host, instead of where the definition says.</summary>
    public string? DisplayListen { get; init; }

    /// <summary>
    /// The guest as this host would describe it to the next standby's: boot files where they are here, and what was the standby's side of
    /// each network is this side now.
    /// </summary>
    public GuestDefinition AsSeenFromHere() => Definition with
    {
        Kernel = KernelPath ?? Definition.Kernel,
        Initrd = InitrdPath ?? Definition.Initrd,
        Firmware = FirmwarePath ?? Definition.Firmware,
        Networks = Incoming
            ? new NetworkList(Definition.Networks.Select(n => n with { Attach = n.StandbyAttach, StandbyAttach = n.Attach }))
            : Definition.Networks,
    };
}

/// <summary>Builds QEMU's command line from a guest definition. Source: qemu docs/system/invocation.</summary>
public static class QemuCommandLine
{
    /// <summary>The fw_cfg file that carries <c>append</c> to a firmware guest.</summary>
    public const string AppendFile = "opt/org.curling.append";

    /// <summary>Builds the arguments.</summary>
    /// <exception cref="QemuException"><see cref="QemuLaunch.DisplayListen"/> is not an address to listen on.</exception>
    public static IReadOnlyList<string> Build(QemuLaunch launch)
    {
        GuestDefinition guest = launch.Definition;
        List<string> line =
        [
            "-name", Escape(guest.Name),
            "-nodefaults", "-no-user-config", "-display", "none",
            "-machine", $"{launch.MachineType},memory-backend=ram,usb=off",
            "-accel", launch.Accelerator,
            "-cpu", guest.Cpu,
            "-smp", Number(guest.Vcpus),
            "-m", Number(guest.MemoryBytes >> 20) + "M",
            "-object", $"memory-backend-file,id=ram,size={guest.MemoryBytes},share=on,mem-path={Escape(launch.MemoryPath)}",
        ];
        foreach (string monitor in (ReadOnlySpan<string>)["qmp", "cut"])
        {
            line.AddRange("-chardev", $"socket,id={monitor},path={Escape(Path.Combine(launch.Directory, monitor + ".sock"))},server=on,wait=off");
            line.AddRange("-mon", $"chardev={monitor},mode=control");
        }

        if (guest.Serial)
        {
            string path = Escape(Path.Combine(launch.Directory, "serial"));
            line.AddRange("-chardev", $"socket,id=serial0,path={path}.sock,server=on,wait=off,logfile={path}.log,logappend=on");
            line.AddRange("-serial", "chardev:serial0");
        }

        AddBoot(line, launch);
        AddDisplay(line, launch);
        AddDisks(line, launch);
        AddNetworks(line, launch);
        if (launch.Incoming)
        {
            // It stands still when it has loaded its state, until it is told to run: what must come before that can fail.
            line.Add("-S");
            line.AddRange("-incoming", "defer");
        }

        return line;
    }

    private static void AddBoot(List<string> line, QemuLaunch launch)
    {
        GuestDefinition guest = launch.Definition;
        if ((launch.FirmwarePath ?? guest.Firmware) is { } firmware)
        {
            line.AddRange("-bios", firmware);
        }

        if ((launch.KernelPath ?? guest.Kernel) is { } kernel)
        {
            line.AddRange("-kernel", kernel);
            if ((launch.InitrdPath ?? guest.Initrd) is { } initrd)
            {
                line.AddRange("-initrd", initrd);
            }

            if (guest.Append is { } append)
            {
                line.AddRange("-append", append);
            }
        }
        else if (guest.Append is { } append)
        {
            line.AddRange("-fw_cfg", $"name={AppendFile},string={Escape(append)}");
        }
    }

    private static void AddDisplay(List<string> line, QemuLaunch launch)
    {
        if (launch.Definition.Display is not { } display)
        {
            return;
        }

        if (launch.DisplayListen is { } given && !DisplayDefinition.IsListen(given))
        {
            throw new QemuException(
                $"a display cannot listen on \"{given}\"; give an IP address and a port, for example \"127.0.0.1:5901\" (port 0, or 5900 and up)");
        }

        DisplayDefinition shown = launch.DisplayListen is { } listen ? display with { Listen = listen } : display;
        string host = shown.Host.Contains(':') ? $"[{shown.Host}]" : shown.Host;
        line.AddRange("-vga", "std");
        if (shown.Type == "vnc")
        {
            // Display number n is port 5900 + n; "to" lets QEMU take the next free one.
            line.AddRange("-vnc", shown.Port == 0 ? $"{host}:0,to=999" : $"{host}:{Number(shown.Port - 5900)}{(launch.Incoming ? ",to=999" : "")}");
        }
        else
        {
            line.AddRange("-spice", $"addr={shown.Host},port={Number(shown.Port)},disable-ticketing=on");
        }
    }

    /// <summary>The Unix socket that a disk is exported on; QEMU connects to it at its start.</summary>
    public static string DiskSocket(string directory, int index) => Path.Combine(directory, $"disk{Number(index)}.sock");

    private static void AddDisks(List<string> line, QemuLaunch launch)
    {
        for (int i = 0; i < launch.Definition.Disks.Count; i++)
        {
            string id = $"disk{Number(i)}";
            string readOnly = launch.Definition.Disks[i].ReadOnly ? "on" : "off";
            line.AddRange(
                "-blockdev",
                $"driver=nbd,node-name={id},server.type=unix,server.path={Escape(DiskSocket(launch.Directory, i))},reconnect-delay=10,discard=unmap,read-only={readOnly}");
            line.AddRange("-device", $"virtio-blk-pci,id=virtio-{id},drive={id},bootindex={Number(i + 1)},serial=curling-{id},werror=report,rerror=report");
        }
    }

    /// <summary>The Unix socket of a network card's cable: QEMU connects to it at its start.</summary>
    public static string NetworkSocket(string directory, int index) => Path.Combine(directory, $"net{Number(index)}.sock");

    private static void AddNetworks(List<string> line, QemuLaunch launch)
    {
        for (int i = 0; i < launch.Definition.Networks.Count; i++)
        {
            NetworkDefinition network = launch.Definition.Networks[i];
            string path = Escape(NetworkSocket(launch.Directory, i));
            line.AddRange("-netdev", $"stream,id=net{Number(i)},server=off,addr.type=unix,addr.path={path}");

            // Without a boot ROM: it would be one more block of memory, and the guest boots from what the definition names.
            string device = $"{network.Model},netdev=net{Number(i)},id=nic{Number(i)},mac={network.Mac},romfile=";
            line.AddRange("-device", network.Mtu == NetworkDefinition.DefaultMtu ? device : $"{device},host_mtu={Number(network.Mtu)}");
        }
    }

    // In QEMU's key=value lists a comma inside a value is written twice.
    private static string Escape(string value) => value.Replace(",", ",,");

    private static void AddRange(this List<string> line, string option, string value)
    {
        line.Add(option);
        line.Add(value);
    }

    private static string Number(long value) => value.ToString(System.Globalization.CultureInfo.InvariantCulture);
}
