namespace Curling.Linux.Tracking;

/// <summary>Reads and writes memory of another process by address.</summary>
public static unsafe class ProcessMemory
{
    /// <summary>Reads memory, all of it.</summary>
    /// <exception cref="IOException">It cannot be read; the message names process and address.</exception>
    public static void Read(int pid, ulong address, Span<byte> to)
    {
        fixed (byte* local = to)
        {
            // Safety: the kernel copies at most to.Length bytes into the span and refuses addresses the process does not map.
            Interop.IoVector ours = new() { Base = local, Length = (ulong)to.Length };
            Interop.IoVector theirs = new() { Base = (void*)address, Length = (ulong)to.Length };
            Check(Interop.process_vm_readv(pid, &ours, 1, &theirs, 1, 0), to.Length, "read", pid, address);
        }
    }

    /// <summary>Writes memory, all of it.</summary>
    /// <exception cref="IOException">It cannot be written; the message names process and address.</exception>
    public static void Write(int pid, ulong address, ReadOnlySpan<byte> from)
    {
        fixed (byte* local = from)
        {
            // Safety: as in Read; the other process is ours to write to, its owner stopped or waiting.
            Interop.IoVector ours = new() { Base = local, Length = (ulong)from.Length };
            Interop.IoVector theirs = new() { Base = (void*)address, Length = (ulong)from.Length };
            Check(Interop.process_vm_writev(pid, &ours, 1, &theirs, 1, 0), from.Length, "write", pid, address);
        }
    }

    private static void Check(nint done, int wanted, string what, int pid, ulong address)
    {
        if (done != wanted)
        {
            string why = done < 0 ? Interop.Error() : $"only {done} of {wanted} bytes are mapped";
            throw new IOException($"cannot {what} memory of process {pid} at 0x{address:X}: {why}");
        }
    }
}
