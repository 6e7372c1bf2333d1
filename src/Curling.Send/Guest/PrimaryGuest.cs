using System.Text.Json;
using Curling.Hosting.Instances;
using Curling.Hosting.Network;
using Curling.Linux.Memory;
using Curling.Qemu;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Qemu.Monitor;
using Curling.Qemu.Processes;
using Microsoft.Extensions.Logging;

namespace Curling.Send.Guest;

/// <summary>How the guest's QEMU ended.</summary>
/// <param name="ByGuest">Whether the guest shut itself down.</param>
/// <param name="Text">What a person should know.</param>
internal sealed record GuestEnd(bool ByGuest, string Text);

/// <summary>The guest that is protected: its definition, its memory and its QEMU.</summary>
/// <remarks>Disposing kills QEMU and deletes the guest's files.</remarks>
internal sealed class PrimaryGuest : IAsyncDisposable
{
    private static readonly TimeSpan WayOut = TimeSpan.FromSeconds(10);
    private readonly InstanceDirectory _directory;
    private readonly TaskCompletionSource<GuestEnd> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task _events;

    private PrimaryGuest(
        InstanceDirectory directory, SharedMapping memory, GuestNetwork network, QemuProcess qemu, IReadOnlyList<BootFile> files,
        string? display)
    {
        Network = network;
        _directory = directory;
        Memory = memory;
        Qemu = qemu;
        Files = files;
        Display = display;
        Migration = new MigrationEvents();
        Run = new RunSwitch(qemu.Qmp);
        _events = Task.Run(WatchAsync);
    }

    /// <summary>The guest's RAM.</summary>
    public SharedMapping Memory { get; }

    /// <summary>Its QEMU.</summary>
    public QemuProcess Qemu { get; }

    /// <summary>Whether it may run here.</summary>
    public RunSwitch Run { get; }

    /// <summary>Its definition.</summary>
    public GuestDefinition Definition => Qemu.Launch.Definition;

    /// <summary>Its network cards.</summary>
    public GuestNetwork Network { get; }

    /// <summary>Called by a capture while the guest stands still for a round, before it is let run.</summary>
    public Action<long>? AtCut { get; init; }

    /// <summary>Its boot files.</summary>
    public IReadOnlyList<BootFile> Files { get; }

    /// <summary>What QEMU says about migrations, stops and resumes.</summary>
    public MigrationEvents Migration { get; }

    /// <summary>Completes when QEMU has ended.</summary>
    public Task<GuestEnd> Ended => _ended.Task;

    /// <summary>The Unix socket of its serial port.</summary>
    public string? Serial => Definition.Serial ? _directory.Socket("serial") : null;

    /// <summary>Where its display can be seen.</summary>
    public string? Display { get; }

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
        SharedMapping? memory = null;
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
            process = await QemuProcess.StartAsync(launch, log, cancellation);
            string? display = await process.DisplayAddressAsync(cancellation);
            GuestNetwork opened = network;
            return new PrimaryGuest(directory, memory, network, process, files, display) { AtCut = round => atCut(opened, round) };
        }
        catch
        {
            if (process is not null)
            {
                await process.DisposeAsync();
            }

            network?.Dispose();
            memory?.Dispose();
            directory.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await Qemu.DisposeAsync();
        await _events;
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

    private async Task WatchAsync()
    {
        bool byGuest = false;
        await foreach (QmpEvent happened in Qemu.Qmp.Events.ReadAllAsync())
        {
            Migration.Take(happened);
            byGuest |= happened.Name == "SHUTDOWN"
                && happened.Data.TryGetProperty("guest", out JsonElement guest) && guest.ValueKind == JsonValueKind.True;
        }

        // QEMU closes its monitor on its way out, and that way takes a while with much memory. One that only closes its monitor
        // is beyond use: it is ended then.
        await Task.WhenAny(Qemu.Exited, Task.Delay(WayOut));
        Qemu.Kill();
        int code = await Qemu.Exited;
        Migration.End();
        string tail = Qemu.ErrorTail;
        _ended.TrySetResult(byGuest && code == 0
            ? new GuestEnd(true, "the guest shut itself down")
            : new GuestEnd(false, $"QEMU ended with exit code {code}{(tail.Length > 0 ? $": {tail}" : "")}"));
    }
}

/// <summary>Remembers what QEMU says about migrations, stops and resumes.</summary>
/// <remarks>Thread-safe.</remarks>
internal sealed class MigrationEvents
{
    /// <summary>How a migration ends when QEMU does.</summary>
    public const string QemuEnded = "QEMU ended";

    private readonly Lock _lock = new();
    private TaskCompletionSource<string> _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private TaskCompletionSource _resumed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>QEMU's stamp of the last stop, in microseconds.</summary>
    public long StopMicros { get; private set; }

    /// <summary>QEMU's stamp of the last resume, in microseconds.</summary>
    public long ResumeMicros { get; private set; }

    /// <summary>Prepares for a new migration: what was said before does not count.</summary>
    /// <returns>Completes with <c>completed</c>, <c>failed</c> or <c>cancelled</c>, and when the guest runs again.</returns>
    public (Task<string> Done, Task Resumed) Begin()
    {
        lock (_lock)
        {
            _done = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
            _resumed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            return (_done.Task, _resumed.Task);
        }
    }

    /// <summary>Takes an event in.</summary>
    public void Take(QmpEvent happened)
    {
        lock (_lock)
        {
            switch (happened.Name)
            {
                case "MIGRATION" when happened.Data.TryGetProperty("status", out JsonElement status)
                    && status.GetString() is "completed" or "failed" or "cancelled":
                    _done.TrySetResult(status.GetString()!);
                    break;
                case "STOP":
                    StopMicros = happened.Micros;
                    break;
                case "RESUME":
                    ResumeMicros = happened.Micros;
                    _resumed.TrySetResult();
                    break;
            }
        }
    }

    /// <summary>QEMU is gone: nothing more will be said.</summary>
    public void End()
    {
        lock (_lock)
        {
            _done.TrySetResult(QemuEnded);
            _resumed.TrySetResult();
        }
    }
}
