namespace Curling.Linux.Storage;

/// <summary>Bytes that the garbage collector does not move, so that the kernel can be handed several such buffers in one call.</summary>
public sealed unsafe class PinnedBuffer
{
    /// <summary>Allocates one; what it holds at first is anything.</summary>
    public PinnedBuffer(int length)
    {
        Bytes = GC.AllocateUninitializedArray<byte>(length, pinned: true);

        // Safety: the array is on the pinned heap and lives as long as this object refers to it.
        Address = (byte*)System.Runtime.CompilerServices.Unsafe.AsPointer(ref Bytes[0]);
    }

    /// <summary>The bytes.</summary>
    public byte[] Bytes { get; }

    /// <summary>Where they are.</summary>
    internal byte* Address { get; }
}

/// <summary>A part of a buffer that is to be sent or filled.</summary>
/// <param name="Buffer">The buffer; it belongs to the caller.</param>
/// <param name="Start">Where the part begins in it.</param>
/// <param name="Length">How long it is.</param>
public readonly record struct BufferPart(PinnedBuffer Buffer, int Start, int Length);
