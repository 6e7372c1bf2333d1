using System.Text.Json;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Processes;

/// <summary>Remembers what QEMU says about migrations, stops and resumes.</summary>
/// <remarks>Thread-safe.</remarks>
public sealed class MigrationEvents
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
