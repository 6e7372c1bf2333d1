using System.Net.Sockets;
using System.Text.Json;
using Curling.Hosting.Faults;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Monitor;
using Curling.Qemu.Processes;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Standby;

/// <summary>Reads a committed round's state for a promotion.</summary>
/// <param name="destination">Where to put the bytes.</param>
/// <param name="offset">The position in the state.</param>
/// <returns>Bytes put there; 0 at the end.</returns>
internal delegate int StateReader(Span<byte> destination, long offset);

/// <summary>What waits beside the committed round and becomes the guest.</summary>
internal interface IStandby : IAsyncDisposable
{
    /// <summary>The process that runs it.</summary>
    int Pid { get; }

    /// <summary>Where its display can be seen, or null.</summary>
    string? Display { get; }

    /// <summary>Its memory, in the order that the sender named.</summary>
    IReadOnlyList<IStandbyBlock> Blocks { get; }

    /// <summary>Completes when it has ended.</summary>
    Task<GuestEnd> Ended { get; }

    /// <summary>Its QEMU and the watch over it; null where it has none.</summary>
    (QemuProcess Qemu, GuestWatch Watch)? Process { get; }

    /// <summary>Loads a committed round's state; the guest stands still.</summary>
    /// <exception cref="QemuException">It did not take the state: the guest has not run here.</exception>
    Task LoadAsync(StateReader state, CancellationToken cancellation);

    /// <summary>Lets the guest run.</summary>
    /// <exception cref="QemuException">It does not, or may have run for a moment.</exception>
    Task RunAsync(CancellationToken cancellation);

    /// <summary>Stops the promoted guest.</summary>
    /// <exception cref="QemuException">QEMU did not do it.</exception>
    Task StopAsync(CancellationToken cancellation);

    /// <summary>Lets the promoted guest run again.</summary>
    /// <exception cref="QemuException">QEMU did not do it.</exception>
    Task ContinueAsync(CancellationToken cancellation);
}

/// <summary>Starts a standby.</summary>
/// <param name="launch">What with.</param>
/// <param name="memory">The guest's memory, which stays the caller's.</param>
/// <param name="blocks">The memory blocks that the sender named.</param>
/// <param name="log">Where to log.</param>
/// <param name="cancellation">Ends the attempt.</param>
internal delegate Task<IStandby> StandbyStarter(
    QemuLaunch launch, SharedMapping memory, IReadOnlyList<HelloBlock> blocks, ILogger log, CancellationToken cancellation);

/// <summary>
/// The QEMU that waits beside the committed round (<c>-incoming defer</c>) and becomes the guest at a promotion.
/// </summary>
/// <remarks>Not thread-safe: the session calls it. Disposing it kills QEMU.</remarks>
internal sealed class StandbyGuest : IStandby
{
    private static readonly TimeSpan LoadLimit = TimeSpan.FromMinutes(2);
    private readonly QemuProcess _qemu;
    private readonly string _socket;
    private readonly GuestWatch _watch;

    private StandbyGuest(QemuProcess qemu, string directory)
    {
        _qemu = qemu;
        _socket = Path.Combine(directory, "in.sock");
        _watch = new GuestWatch(qemu);
    }

    /// <summary>The process that runs QEMU.</summary>
    public int Pid => _qemu.Pid;

    /// <inheritdoc/>
    public string? Display { get; private init; }

    /// <inheritdoc/>
    public IReadOnlyList<IStandbyBlock> Blocks { get; private init; } = [];

    /// <inheritdoc/>
    public Task<GuestEnd> Ended => _watch.Ended;

    /// <inheritdoc/>
    public (QemuProcess Qemu, GuestWatch Watch)? Process => (_qemu, _watch);

    /// <summary>Starts QEMU and waits until it waits.</summary>
    public static async Task<IStandby> StartAsync(
        QemuLaunch launch, SharedMapping memory, IReadOnlyList<HelloBlock> blocks, ILogger log, CancellationToken cancellation)
    {
        QemuProcess qemu = await QemuProcess.StartAsync(launch, log, cancellation);
        try
        {
            await qemu.Qmp.ExecuteAsync("migrate-set-capabilities", WriteCapabilities, cancellation: cancellation);
            return new StandbyGuest(qemu, launch.Directory)
            {
                Display = await qemu.DisplayAddressAsync(cancellation),
                Blocks = await StandbyBlocks.FindAsync(qemu, memory, blocks, cancellation),
            };
        }
        catch
        {
            await qemu.DisposeAsync();
            throw;
        }
    }

    /// <inheritdoc/>
    public async Task LoadAsync(StateReader state, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(LoadLimit);
        File.Delete(_socket);
        Task<string> migration = _watch.Migration.Begin().Done;
        await _qemu.Qmp.ExecuteAsync(
            "migrate-incoming", w => w.WriteString("uri", "unix:" + _socket), cancellation: limit.Token);
        try
        {
            await SendStateAsync(state, migration, limit.Token);
            string status = await migration;
            if (status != "completed")
            {
                throw new QemuException($"QEMU did not take the state over: {status}. {_qemu.ErrorTail}");
            }
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new QemuException($"QEMU did not load the state within {LoadLimit.TotalSeconds:F0} s");
        }
    }

    /// <inheritdoc/>
    public Task RunAsync(CancellationToken cancellation) => _qemu.Qmp.ExecuteAsync("cont", cancellation: cancellation);

    /// <inheritdoc/>
    public Task StopAsync(CancellationToken cancellation) => _qemu.Qmp.ExecuteAsync("stop", cancellation: cancellation);

    /// <inheritdoc/>
    public Task ContinueAsync(CancellationToken cancellation) => _qemu.Qmp.ExecuteAsync("cont", cancellation: cancellation);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _qemu.DisposeAsync();
        await _watch.Ended;
    }

    private static void WriteCapabilities(Utf8JsonWriter w)
    {
        w.WriteStartArray("capabilities");
        w.WriteStartObject();
        w.WriteString("capability", "events");
        w.WriteBoolean("state", true);
        w.WriteEndObject();
        w.WriteEndArray();
    }

    private async Task SendStateAsync(StateReader state, Task migration, CancellationToken cancellation)
    {
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(_socket), cancellation);
        byte[] buffer = new byte[256 * 1024];
        long offset = 0;
        try
        {
            for (int count; (count = state(buffer, offset)) > 0; offset += count)
            {
                ReadOnlyMemory<byte> left = buffer.AsMemory(0, count);
                left = left[await socket.SendAsync(left[..(count / 2)], SocketFlags.None, cancellation)..];
                await FaultPoint.HitAsync(FaultPoint.PromoteHalfLoaded);
                while (!left.IsEmpty)
                {
                    left = left[await socket.SendAsync(left, SocketFlags.None, cancellation)..];
                }
            }

            socket.Shutdown(SocketShutdown.Send);
            await migration.WaitAsync(cancellation);
        }
        catch (SocketException e)
        {
            throw new QemuException($"QEMU stopped reading the state after {offset} bytes: {e.Message}. {_qemu.ErrorTail}");
        }
    }
}
