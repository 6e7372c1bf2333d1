using System.Runtime.InteropServices;

namespace Curling.Linux.Memory;

/// <summary>A second name for a file on the same filesystem.</summary>
public static class HardLink
{
    /// <summary>Gives a file a second name; it lives until both are gone.</summary>
    /// <exception cref="IOException">It cannot be done; the message says why.</exception>
    public static void Create(string existing, string name)
    {
        if (Processes.Interop.link(existing, name) != 0)
        {
            throw new IOException($"{existing} cannot be linked as {name}: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
        }
    }
}
