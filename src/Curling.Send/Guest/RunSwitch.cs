using System.Diagnostics.CodeAnalysis;
using Curling.Qemu;
using Curling.Qemu.Monitor;

namespace Curling.Send.Guest;

/// <summary>
/// Whether the guest may run here, held against the cuts of rounds: a guest is not stopped or let run from outside while a cut, which
/// stops it and lets it run too, is under way.
/// </summary>
/// <remarks>Thread-safe. A capture stands between <see cref="Enter"/> and <see cref="Leave"/> while it decides whether the guest runs.</remarks>
[SuppressMessage("Design", "CA1001", Justification = "A semaphore whose wait handle is never asked for owns nothing to dispose of.")]
internal sealed class RunSwitch(QmpClient qmp)
{
    private readonly SemaphoreSlim _cut = new(1, 1);
    private volatile bool _suspended;

    /// <summary>Whether the guest must stand still, also after a cut.</summary>
    public bool IsSuspended => _suspended;

    /// <summary>A cut begins; waits for one who stops the guest or lets it run.</summary>
    public void Enter() => _cut.Wait();

    /// <summary>The cut is over.</summary>
    public void Leave() => _cut.Release();

    /// <summary>Stops the guest until <see cref="AllowAsync"/>: at once, or right after the cut that is under way, in which it stands still anyway.</summary>
    /// <param name="beforeStop">Done with no cut under way: lets go what QEMU waits for before it stops.</param>
    /// <exception cref="QemuException">QEMU did not do it.</exception>
    public async Task SuspendAsync(Action beforeStop)
    {
        _suspended = true;
        await _cut.WaitAsync();
        try
        {
            if (_suspended)
            {
                beforeStop();
                await qmp.ExecuteAsync("stop");
            }
        }
        finally
        {
            _cut.Release();
        }
    }

    /// <summary>Lets the guest run unless it is suspended.</summary>
    /// <returns>Whether it runs.</returns>
    /// <exception cref="QemuException">QEMU did not do it.</exception>
    public Task<bool> ContinueAsync(CancellationToken cancellation) => ContinueAsync(() => !_suspended, cancellation);

    /// <summary>Ends the suspension and lets the guest run, unless the right to it is gone again.</summary>
    /// <param name="mayRun">Asked with no cut under way.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <returns>Whether it runs.</returns>
    /// <exception cref="QemuException">QEMU did not do it.</exception>
    public Task<bool> AllowAsync(Func<bool> mayRun, CancellationToken cancellation) => ContinueAsync(
        () =>
        {
            // In this order: whoever suspends it after the question has the last word.
            _suspended = false;
            bool may = mayRun();
            if (!may)
            {
                _suspended = true;
            }

            return may;
        },
        cancellation);

    private async Task<bool> ContinueAsync(Func<bool> may, CancellationToken cancellation)
    {
        await _cut.WaitAsync(cancellation);
        try
        {
            if (!may())
            {
                return false;
            }

            await qmp.ExecuteAsync("cont", cancellation: cancellation);
            return true;
        }
        finally
        {
            _cut.Release();
        }
    }
}
