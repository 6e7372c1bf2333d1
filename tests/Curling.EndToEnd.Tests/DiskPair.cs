using System.Globalization;
using System.Text.Json;
using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;

namespace Curling.EndToEnd.Tests;

/// <summary>A guest named <c>disk</c> with one disk, its image and its replica, in a lab.</summary>
/// <remarks>
/// The daemons note what the disk holds at each round: see <see cref="Digests"/>. What killed daemons leave is looked for only when the test came to its
/// end (<see cref="EndAsync"/>): it must not hide why one did not.
/// </remarks>
internal sealed class DiskPair
{
    private readonly Lab _lab;

    /// <summary>Creates it.</summary>
    public DiskPair(Lab lab)
    {
        _lab = lab;
        Image = Path.Combine(lab.Directory, "primary.img");
        Replica = Path.Combine(lab.Directory, "replicas", "disk-disk0.img");
        Digests = new DiskDigests(lab.Directory);
        lab.ExpectLeftovers();
    }

    /// <summary>The size of the disk.</summary>
    public const long ImageBytes = 64 << 20;

    /// <summary>The guest's address in the hosts' network.</summary>
    public const string Address = "10.77.0.10";

    /// <summary>The disk of the primary.</summary>
    public string Image { get; }

    /// <summary>The replica.</summary>
    public string Replica { get; }

    /// <summary>What the disk and the replica held.</summary>
    public DiskDigests Digests { get; set; }

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

        string? address = _lab.SenderNamespace is null ? null : Address;
        Sender sender = _lab.StartSender(
            target, TestGuests.WriteWithDisk(_lab.Directory, "disk", Image, program, address), [.. Digests.SenderOptions, .. options]);
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
        string files = await Ext4Image.ExtractAsync(image, Path.Combine(_lab.Directory, Guid.NewGuid().ToString("N")));
        return service == DiskClient.LogPort ? DiskLogCheck.Check(files) : await DiskSqlCheck.CheckAsync(files);
    }

    /// <summary>The guest's disk, as <c>curling-send status --json</c> has it.</summary>
    public async Task<JsonElement> StatusAsync(Sender sender)
    {
        (int code, string text, string error) = await _lab.RunAsync("curling-send", "status", "--control", sender.Control, "--json");
        return code == 0
            ? JsonDocument.Parse(text).RootElement.GetProperty("disks")[0]
            : throw new InvalidOperationException($"curling-send status: {error}");
    }

    /// <summary>All went well: nothing may be left.</summary>
    /// <param name="clearAway">Whether nobody has cleared away yet what killed daemons left.</param>
    public async Task EndAsync(bool clearAway = true)
    {
        if (clearAway)
        {
            await _lab.ClearAwayAsync();
        }

        _lab.ExpectNothingLeft();
    }

    private static int? Number(string variable) =>
        int.TryParse(Environment.GetEnvironmentVariable(variable), CultureInfo.InvariantCulture, out int number) ? number : null;

    private Task<Receiver> StartReceiverAsync(NetworkLab? hosts, string endpoint, string[] options)
    {
        _lab.SenderNamespace = hosts?.Primary;
        _lab.ReceiverNamespace = hosts?.Standby;
        return _lab.StartReceiverAsync(
            ["--listen", endpoint, "--on-failure", "hold", "--replica-directory", Path.GetDirectoryName(Replica)!, .. Digests.ReceiverOptions, .. options]);
    }
}
