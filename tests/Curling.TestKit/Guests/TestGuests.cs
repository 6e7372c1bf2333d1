using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Processes;
using Xunit;

namespace Curling.TestKit.Guests;

/// <summary>What there is to test with on this machine; eng/install-deps brings it.</summary>
/// <remarks>
/// Linux is started with <c>no_timer_check</c>, as it decides for itself on KVM: on an emulated processor of a busy host too few timer interrupts come
/// while it counts them, and it panics ("IO-APIC + timer doesn't work!").
/// </remarks>
public static class TestGuests
{
    /// <summary>Names of QEMU versions that tests run on, for theory data.</summary>
    public static readonly string[] Versions = ["7.2", "10.0"];

    /// <summary>The path of a QEMU version; skips the test loudly when it is not there.</summary>
    public static string Qemu(string version)
    {
        string? path = Environment.GetEnvironmentVariable("CURLING_QEMU_" + version.Replace('.', '_'));
        Skip.If(string.IsNullOrEmpty(path), $"QEMU {version} is not installed (CURLING_QEMU_{version.Replace('.', '_')}); run eng/install-deps");
        return path!;
    }

    /// <summary>Skips the test loudly when KVM is not usable.</summary>
    public static void NeedsKvm() => Skip.IfNot(QemuBinary.KvmUsable(), "/dev/kvm cannot be opened: the KVM path is not tested here");

    /// <summary>Writes the definition of a built-in guest.</summary>
    public static string WriteBuiltin(
        string directory, string name, string accelerator = "tcg", string memory = "64MiB", string append = "ws=8M rate=500",
        string more = "")
    {
        string image = Path.Combine(directory, "builtin-guest.bin");
        if (!File.Exists(image))
        {
            File.WriteAllBytes(image, BuiltinGuestImage.Read());
        }

        return Write(directory, name, $"\"accelerator\": \"{accelerator}\", \"memory\": \"{memory}\", \"firmware\": \"{image}\", \"append\": \"{append}\"{more}");
    }

    /// <summary>Writes the definition of the Linux guest; skips the test loudly when it is not there.</summary>
    public static string WriteLinux(string directory, string name, string more = "")
    {
        string? kernel = Environment.GetEnvironmentVariable("CURLING_LINUX_KERNEL");
        string? initrd = Environment.GetEnvironmentVariable("CURLING_LINUX_INITRD");
        Skip.If(string.IsNullOrEmpty(kernel) || string.IsNullOrEmpty(initrd), "the Linux guest is not built; run eng/install-deps");
        return Write(
            directory,
            name,
            $"\"accelerator\": \"tcg\", \"memory\": \"192MiB\", \"kernel\": \"{kernel}\", \"initrd\": \"{initrd}\","
            + $" \"append\": \"console=ttyS0 quiet no_timer_check counter.ws=8 counter.rate=500\"{more}");
    }

    /// <summary>
    /// Writes the definition of the Linux guest with a network card on the hosts' bridges and its services on; skips the test
    /// loudly when it is not there.
    /// </summary>
    public static string WriteNetworked(string directory, string name, string address, string card = "\"attach\": \"bridge:br0\"")
    {
        string path = WriteLinux(directory, name, $", \"networks\": [ {{ {card} }} ]");
        string text = File.ReadAllText(path);
        File.WriteAllText(path, text.Replace("counter.ws=8 counter.rate=500", $"counter.ws=8 counter.rate=500 curling.ip={address}/24"));
        return path;
    }

    /// <summary>
    /// Writes the definition of the Linux guest with a disk, a network card on the hosts' bridges and a disk program; skips the test
    /// loudly when it is not there.
    /// </summary>
    /// <param name="directory">Where to.</param>
    /// <param name="name">The guest.</param>
    /// <param name="disk">A raw image.</param>
    /// <param name="program">The switches of the disk program, for example <c>curling.disk=log disklog.rate=50</c>.</param>
    /// <param name="address">Its address in the hosts' network, or null for a guest without a card.</param>
    public static string WriteWithDisk(string directory, string name, string disk, string program, string? address = null)
    {
        (string kernel, string initrd) = DiskKernel();
        string network = address is null ? "" : ", \"networks\": [ { \"attach\": \"bridge:br0\" } ]";
        string ip = address is null ? "" : $" curling.ip={address}/24";
        return Write(
            directory,
            name,
            $"\"accelerator\": \"tcg\", \"memory\": \"192MiB\", \"kernel\": \"{kernel}\", \"initrd\": \"{initrd}\","
            + $" \"append\": \"console=ttyS0 quiet no_timer_check counter.ws=1 counter.rate=1{ip} {program}\","
            + $" \"disks\": [ {{ \"path\": \"{disk}\", \"format\": \"raw\" }} ]{network}");
    }

    /// <summary>Kernel and initramfs of the Linux guest with the disk programs; skips the test loudly when they are not there.</summary>
    public static (string Kernel, string Initrd) DiskKernel()
    {
        string? kernel = Environment.GetEnvironmentVariable("CURLING_LINUX_KERNEL");
        string? initrd = Environment.GetEnvironmentVariable("CURLING_LINUX_DISK_INITRD");
        Skip.If(string.IsNullOrEmpty(kernel) || string.IsNullOrEmpty(initrd), "the Linux guest with disk programs is not built; run eng/install-deps");
        return (kernel!, initrd!);
    }

    private static string Write(string directory, string name, string fields)
    {
        string path = Path.Combine(directory, name + ".json");
        File.WriteAllText(path, $"{{ \"name\": \"{name}\", {fields} }}");
        return path;
    }
}
