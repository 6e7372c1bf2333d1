using System.Text.Json;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Processes;

/// <summary>How a guest's QEMU ended.</summary>
/// <param name="ByGuest">Whether the guest shut itself down.</param>
/// <param name="Text">What a person should know.</param>
public sealed record GuestEnd(bool ByGuest, string Text);

/// <summary>Reads what a QEMU says about its guest until it ends, and remembers what matters.</summary>
/// <remarks>Thread-safe. One watch reads the events of one QEMU; it ends with that QEMU.</remarks>
public sealed class GuestWatch
{
    // QEMU closes its monitor on its way out, and that way takes a while with much memory.
    private static readonly TimeSpan WayOut = TimeSpan.FromSeconds(10);
    private readonly QemuProcess _qemu;

    /// <summary>Begins to watch.</summary>
    public GuestWatch(QemuProcess qemu)
    {
        _qemu = qemu;
        Ended = Task.Run(WatchAsync);
    }

    /// <summary>What QEMU says about migrations, stops and resumes.</summary>
    public MigrationEvents Migration { get; } = new();

    /// <summary>Completes when QEMU has ended.</summary>
    public Task<GuestEnd> Ended { get; }

    private async Task<GuestEnd> WatchAsync()
    {
        bool byGuest = false;
        await foreach (QmpEvent happened in _qemu.Qmp.Events.ReadAllAsync())
        {
            Migration.Take(happened);
            byGuest |= happened.Name == "SHUTDOWN"
                && happened.Data.TryGetProperty("guest", out JsonElement guest) && guest.ValueKind == JsonValueKind.True;
        }

        // One that only closes its monitor is beyond use: it is ended then.
        await Task.WhenAny(_qemu.Exited, Task.Delay(WayOut));
        _qemu.Kill();
        int code = await _qemu.Exited;
        Migration.End();
        string tail = _qemu.ErrorTail;
        return byGuest && code == 0
            ? new GuestEnd(true, "the guest shut itself down")
            : new GuestEnd(false, $"QEMU ended with exit code {code}{(tail.Length > 0 ? $": {tail}" : "")}");
    }
}
