namespace Curling.Storage.Tracking;

/// <summary>Wakes all who wait for a change of what a lock guards. Both members are called under that lock.</summary>
internal sealed class Pulse
{
    private TaskCompletionSource? _next;

    /// <summary>Completes at the next change; await it outside the lock, then look again.</summary>
    public Task Next() => (_next ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;

    /// <summary>Something changed.</summary>
    public void Fire()
    {
        TaskCompletionSource? waiting = _next;
        _next = null;
        waiting?.SetResult();
    }
}
