using Curling.Hosting.Instances;
using Curling.Hosting.Network;
using Curling.Linux.Memory;
using Curling.Qemu;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Send.Disks;
using Microsoft.Extensions.Logging;

namespace Curling.Send.Guest;

/// <summary>The guest that is protected: its definition, its memory and its QEMU.</summary>
/// <remarks>Disposing kills QEMU and, where the guest was started here, deletes its files; an adopted guest's files stay its owner's.</remarks>
internal sealed class PrimaryGuest : IAsyncDisposable
{
    private readonly InstanceDirectory _directory;
    private readonly bool _ownsFiles;
    private readonly GuestWatch _watch;

    private PrimaryGuest(
        InstanceDirectory directory, SharedMapping memory, GuestDisks disks, GuestNetwork network, QemuProcess qemu, GuestWatch watch, bool ownsFiles)
    {
        Disks = disks;
        Network = network;
        _directory = directory;
        _watch = watch;
        _ownsFiles = ownsFiles;
        Memory = memory;
        Qemu = qemu;
        Run = new RunSwitch(qemu.Qmp);
    }

    /// <summary>The guest's RAM.</summary>
    public SharedMapping Memory { get; }

    /// <summary>Its QEMU.</summary>
    public QemuProcess Qemu { get; }

    /// <summary>Whether it may run here.</summary>
    public RunSwitch Run { get; }

    /// <summary>Its definition, as it travels to the receiver.</summary>
    public required GuestDefinition Definition { get; init; }

    /// <summary>Its network cards.</summary>
    public GuestNetwork Network { get; }

    /// <summary>Its disks.</summary>
    public GuestDisks Disks { get; }

    /// <summary>Called by a capture while the guest stands still for a round, before it is let run.</summary>
    public Action<long>? AtCut { get; init; }

    /// <summary>Its boot files.</summary>
    public required IReadOnlyList<BootFile> Files { get; init; }

    /// <summary>What QEMU says about migrations, stops and resumes.</summary>
    public MigrationEvents Migration => _watch.Migration;

    /// <summary>Completes when QEMU has ended.</summary>
    public Task<GuestEnd> Ended => _watch.Ended;

    /// <summary>The Unix socket of its serial port.</summary>
    public string? Serial => Definition.Serial ? _directory.Socket("serial") : null;

    /// <summary>Where its display can be seen.</summary>
    public string? Display { get; init; }

    /// <summary>A directory in the memory filesystem for passing files.</summary>
    public string MemoryDirectory => _directory.MemoryPath;

    /// <summary>A directory for sockets.</summary>
    public string RuntimeDirectory => _directory.RuntimePath;

    /// <summary>Starts a guest.</summary>
    /// <param name="file">Its definition, or null for the built-in guest.</param>
    /// <param name="qemu">The QEMU to run, or null to look for one.</param>
    /// <param name="heldBytes">Output that may wait, per network.</param>
    /// <param name="events">Hears of the guest's network.</param>
    /// <param name="guard">Called before QEMU is started: sets until when output may leave.</param>
    /// <param name="atCut">See <see cref="AtCut"/>.</param>
    /// <param name="log">Where QEMU's command line is logged.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="GuestDefinitionException">The definition is wrong, or this host cannot run it.</exception>
    /// <exception cref="QemuException">QEMU is missing, too old or does not start.</exception>
    /// <exception cref="MemoryFileException">There is no room for the guest's memory.</exception>
    /// <exception cref="Hosting.Options.OperatorException">This host has not the network that the definition names.</exception>
    public static async Task<PrimaryGuest> StartAsync(
        string? file, string? qemu, long heldBytes, INetworkEvents events, Action<ReleaseDeadline> guard,
        Action<GuestNetwork, long> atCut, ILogger log, CancellationToken cancellation)
    {
        // The definition is read before anything is made: a mistake in it should be told, not cleaned up.
        GuestDefinition? named = file is null ? null : GuestDefinitionReader.Load(file);
        string binary = QemuBinary.Find(qemu);
        InstanceDirectory directory = InstanceDirectory.Create("send");
        MemoryPlace.Report(log);
        SharedMapping? memory = null;
        GuestDisks? disks = null;
        GuestNetwork? network = null;
        QemuProcess? process = null;
        try
        {
            GuestDefinition guest = named ?? WriteBuiltin(directory);
            GuestDefinitionReader.CheckHost(guest, file ?? "the built-in guest", HostMemory.TotalBytes());
            QemuFacts facts = await QemuBinary.ProbeAsync(binary, directory.RuntimePath, cancellation);
            memory = SharedMapping.Create(Path.Combine(directory.MemoryPath, "ram"), guest.MemoryBytes);
            IReadOnlyList<BootFile> files = BootFile.Describe(guest);
            QemuLaunch launch = new()
            {
                Binary = binary,
                Definition = guest,
                MachineType = facts.ResolveMachine(guest.Machine),
                Accelerator = QemuBinary.ChooseAccelerator(guest.Accelerator),
                Directory = directory.RuntimePath,
                MemoryPath = memory.Path,
            };
            network = GuestNetwork.Create(guest, directory.RuntimePath, standby: false, heldBytes, events, log);
            guard(network.Deadline);
            disks = await GuestDisks.OpenAsync(guest, directory.RuntimePath, log, cancellation);
            process = await QemuProcess.StartAsync(launch, log, cancellation);
            string? display = await process.DisplayAddressAsync(cancellation);
            GuestNetwork opened = network;
            return new PrimaryGuest(directory, memory, disks, network, process, new GuestWatch(process), ownsFiles: true)
            {
                Definition = process.Launch.Definition,
                Files = files,
                Display = display,
                AtCut = round => atCut(opened, round),
            };
        }
        catch
        {
            if (process is not null)
            {
                await process.DisposeAsync();
            }

            if (disks is not null)
            {
                await disks.DisposeAsync();
            }

            network?.Dispose();
            memory?.Dispose();
            directory.Dispose();
            throw;
        }
    }

    /// <summary>Takes a guest over that runs already: one that was promoted here and is to have a standby again.</summary>
    /// <param name="directory">Its files; they stay the caller's, as do <paramref name="memory"/> and <paramref name="network"/>.</param>
    /// <param name="memory">Its memory.</param>
    /// <param name="disks">Its disks; they stay the caller's too.</param>
    /// <param name="definitions">The same, as its definition names them from now on.</param>
    /// <param name="network">Its network cards.</param>
    /// <param name="qemu">Its QEMU; owned here from now on.</param>
    /// <param name="watch">The watch over that QEMU.</param>
    /// <param name="display">See <see cref="Display"/>.</param>
    /// <param name="atCut">See <see cref="AtCut"/>.</param>
    /// <exception cref="GuestDefinitionException">A boot file cannot be read.</exception>
    public static PrimaryGuest Adopt(
        InstanceDirectory directory, SharedMapping memory, GuestDisks disks, DiskList definitions, GuestNetwork network, QemuProcess qemu,
        GuestWatch watch, string? display,
        Action<GuestNetwork, long> atCut)
    {
        GuestDefinition guest = qemu.Launch.AsSeenFromHere() with { Disks = definitions };
        return new PrimaryGuest(directory, memory, disks, network, qemu, watch, ownsFiles: false)
        {
            Definition = guest,
            Files = BootFile.Describe(guest),
            Display = display,
            AtCut = round => atCut(network, round),
        };
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await Qemu.DisposeAsync();
        await _watch.Ended;
        if (!_ownsFiles)
        {
            return;
        }

        await Disks.DisposeAsync();
        Network.Dispose();
        Memory.Dispose();
        _directory.Dispose();
    }

    private static GuestDefinition WriteBuiltin(InstanceDirectory directory)
    {
        string image = Path.Combine(directory.RuntimePath, "builtin-guest.bin");
        File.WriteAllBytes(image, BuiltinGuestImage.Read());
        return BuiltinGuestImage.Define(image);
    }
}
