using System.Globalization;
using System.Text.Json;
using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;

namespace Curling.EndToEnd.Tests;

/// <summary>A guest named <c>disk</c> with one disk, its image and its replica, in a lab.</summary>
/// <remarks>The daemons note what the disk holds at each round: see <see cref="Digests"/>.</remarks>
internal sealed class DiskPair(Lab lab)
{
    /// <summary>The size of the disk.</summary>
    public const long ImageBytes = 64 << 20;

    /// <summary>The guest's address in the hosts' network.</summary>
    public const string Address = "10.77.0.10";

    /// <summary>The disk of the primary.</summary>
    public string Image { get; } = Path.Combine(lab.Directory, "primary.img");

    /// <summary>The replica.</summary>
    public string Replica { get; } = Path.Combine(lab.Directory, "replicas", "disk-disk0.img");

    /// <summary>What the disk and the replica held.</summary>
    public DiskDigests Digests { get; set; } = new(lab.Directory);

    /// <summary>How often a case kills something.</summary>
    public static int Kills(int standard) => Number("CURLING_KILLS") ?? standard;

    /// <summary>The moments of a case.</summary>
    public static Random Chance(int seed) => new(seed + (1000 * (Number("CURLING_SEED") ?? 0)));

    /// <summary>Always at the same address of the hosts' network, so that the next one finds what is left of one that was killed.</summary>
    public Task<Receiver> StartReceiverAsync(NetworkLab hosts, params string[] options) =>
        StartReceiverAsync(hosts, $"tcp:{NetworkLab.StandbyAddress}:7711", options);

    /// <summary>Starts a receiver on loopback.</summary>
    public Task<Receiver> StartReceiverAsync(string endpoint, params string[] options) => StartReceiverAsync(null, endpoint, options);

    /// <summary>Starts the guest, on a new disk unless there is one, and waits until it is protected with its disk.</summary>
    public async Task<Sender> StartSenderAsync(string target, string program, params string[] options)
    {
        if (program.Contains("=log") || program.Contains("=sqlite"))
        {
            await Ext4Image.CreateAsync(Image, ImageBytes);
        }
        else if (!File.Exists(Image))
        {
            Ext4Image.CreateEmpty(Image, ImageBytes);
        }

        string? address = lab.SenderNamespace is null ? null : Address;
        Sender sender = lab.StartSender(
            target, TestGuests.WriteWithDisk(lab.Directory, "disk", Image, program, address), [.. Digests.SenderOptions, .. options]);
        SenderStatus status = await sender.UntilProtectedAsync();
        await new SerialText(status.Serial!).UntilAsync(": ready ");
        return sender;
    }

    /// <summary>Kills the primary's host: the daemon and, with it, its QEMU.</summary>
    public static async Task KillAsync(Sender sender)
    {
        int qemu = (await sender.StatusAsync()).GuestPid!.Value;
        sender.Kill();
        await sender.ExitAsync();
        await sender.UntilAsync(() => !Linux.Processes.ProcessInfo.Exists(qemu), "the primary's QEMU is dead");
    }

    /// <summary>Checks the filesystem on an image and what a disk program left there.</summary>
    /// <exception cref="DiskDamageException">Something is not as it must be.</exception>
    public async Task<DiskContent> CheckAsync(string image, int service)
    {
        string files = await Ext4Image.ExtractAsync(image, Path.Combine(lab.Directory, Guid.NewGuid().ToString("N")));
        return service == DiskClient.LogPort ? DiskLogCheck.Check(files) : await DiskSqlCheck.CheckAsync(files);
    }

    /// <summary>The guest's disk, as <c>curling-send status --json</c> has it.</summary>
    public async Task<JsonElement> StatusAsync(Sender sender)
    {
        (int code, string text, string error) = await lab.RunAsync("curling-send", "status", "--control", sender.Control, "--json");
        return code == 0
            ? JsonDocument.Parse(text).RootElement.GetProperty("disks")[0]
            : throw new InvalidOperationException($"curling-send status: {error}");
    }

    private static int? Number(string variable) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int number) ? number : null;

    private Task<Receiver> StartReceiverAsync(NetworkLab? hosts, string endpoint, string[] options)
    {
        lab.SenderNamespace = hosts?.Primary;
        lab.ReceiverNamespace = hosts?.Standby;
        return lab.StartReceiverAsync(
            ["--listen", endpoint, "--on-failure", "hold", "--replica-directory", Path.GetDirectoryName(Replica)!, .. Digests.ReceiverOptions, .. options]);
    }
}
