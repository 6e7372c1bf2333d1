using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Processes;
using Curling.Recv.Standby;
using Microsoft.Extensions.Logging;

namespace Curling.Pair.Tests;

/// <summary>A standby without QEMU: at a promotion it keeps what a QEMU would have loaded.</summary>
internal sealed class PlayedStandby(SharedMapping memory) : IStandby
{
    private readonly TaskCompletionSource<GuestEnd> _ended = new();

    public int Pid => Environment.ProcessId;

    public string? Display => null;

    public IReadOnlyList<IStandbyBlock> Blocks { get; } = [new MappedBlock(memory)];

    public Task<GuestEnd> Ended => _ended.Task;

    public (QemuProcess Qemu, GuestWatch Watch)? Process => null;

    public byte[] LoadedState { get; private set; } = [];

    public byte[] LoadedMemory { get; private set; } = [];

    public Task RunAsync(CancellationToken cancellation) => Task.CompletedTask;

    public Task LoadAsync(StateReader state, CancellationToken cancellation)
    {
        using MemoryStream all = new();
        byte[] buffer = new byte[10_000];
        for (int count; (count = state(buffer, all.Length)) > 0;)
        {
            all.Write(buffer, 0, count);
        }

        LoadedState = all.ToArray();
        LoadedMemory = memory.Span(0, (int)memory.Length).ToArray();
        return Task.CompletedTask;
    }

    public Task StopAsync(CancellationToken cancellation) => Task.CompletedTask;

    public Task ContinueAsync(CancellationToken cancellation) => Task.CompletedTask;

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    /// <summary>A starter that keeps what it started, by guest.</summary>
    public static StandbyStarter Starter(System.Collections.Concurrent.ConcurrentDictionary<string, PlayedStandby> started) =>
        (QemuLaunch launch, SharedMapping memory, IReadOnlyList<HelloBlock> _, ILogger _, CancellationToken _) =>
        {
            PlayedStandby standby = new(memory);
            started[launch.Definition.Name] = standby;
            return Task.FromResult<IStandby>(standby);
        };
}
