using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Network;

/// <summary>Lets a thread wait until a descriptor can be read or written, or until another thread wakes it.</summary>
/// <remarks><see cref="Wait"/> is for one thread; <see cref="Wake"/> is safe from any, and is remembered until the next wait.</remarks>
public sealed unsafe class Readiness : IDisposable
{
    private readonly SafeFileHandle _event;

    /// <summary>Creates one.</summary>
    /// <exception cref="IOException">The process has no descriptor left.</exception>
    public Readiness()
    {
        int descriptor = Interop.eventfd(0, Interop.EventClose | Interop.EventNonBlocking);
        if (descriptor < 0)
        {
            throw new IOException($"no event can be made: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
        }

        _event = new SafeFileHandle(descriptor, ownsHandle: true);
    }

    /// <summary>Ends the wait that is under way, or the next one.</summary>
    public void Wake()
    {
        ulong one = 1;

        // Safety: the kernel reads eight bytes of a local.
        _ = Interop.write((int)_event.DangerousGetHandle(), (byte*)&one, sizeof(ulong));
    }

    /// <summary>Waits.</summary>
    /// <param name="readable">Waited for until it can be read, or has ended; null for nothing.</param>
    /// <param name="writable">Waited for until it can be written, or has ended; null for nothing.</param>
    /// <param name="milliseconds">How long at most.</param>
    public void Wait(SafeHandle? readable, SafeHandle? writable, int milliseconds)
    {
        Interop.PollEntry* entries = stackalloc Interop.PollEntry[3];
        entries[0] = new Interop.PollEntry { Descriptor = (int)_event.DangerousGetHandle(), Wanted = Interop.PollIn };
        entries[1] = new Interop.PollEntry { Descriptor = Number(readable), Wanted = Interop.PollIn };
        entries[2] = new Interop.PollEntry { Descriptor = Number(writable), Wanted = Interop.PollOut };

        // Safety: three entries on the stack; the kernel skips those whose descriptor is negative.
        _ = Interop.poll(entries, 3, milliseconds);
        if (entries[0].Got != 0)
        {
            ulong counted;
            _ = Interop.read((int)_event.DangerousGetHandle(), (byte*)&counted, sizeof(ulong));
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _event.Dispose();

    private static int Number(SafeHandle? handle) => handle is { IsClosed: false } open ? (int)open.DangerousGetHandle() : -1;
}
