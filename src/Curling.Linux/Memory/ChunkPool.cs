using System.Buffers;
using System.Diagnostics;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Curling.Linux.Memory;

/// <summary>
/// Pieces of native memory of one size, up to a limit. Every page of guest memory that travels passes through one, so
/// renting and returning allocates nothing once a piece exists.
/// </summary>
/// <remarks>
/// Thread-safe. A chunk belongs to who rented it until <see cref="Chunk.Return"/>. After disposal of the pool, chunks that
/// are still out stay valid and are freed when they are returned.
/// </remarks>
public sealed class ChunkPool : IDisposable
{
    private readonly Stack<Chunk> _free = new();
    private readonly Lock _lock = new();
    private int _made;
    private int _rented;
    private bool _disposed;

    /// <summary>Creates an empty pool.</summary>
    /// <param name="chunkBytes">The size of a chunk.</param>
    /// <param name="maxBytes">What all chunks together may take; at least one chunk is allowed.</param>
    public ChunkPool(int chunkBytes, long maxBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(chunkBytes);
        ChunkBytes = chunkBytes;
        MaxBytes = Math.Max(maxBytes, chunkBytes);
    }

    /// <summary>The size of a chunk in bytes.</summary>
    public int ChunkBytes { get; }

    /// <summary>What all chunks together may take.</summary>
    public long MaxBytes { get; }

    /// <summary>Chunks that are out.</summary>
    public int RentedChunks => Volatile.Read(ref _rented);

    /// <summary>Bytes of chunks that exist, rented or free.</summary>
    public long HeldBytes => (long)Volatile.Read(ref _made) * ChunkBytes;

    /// <summary>Rents a chunk; false when the limit is reached.</summary>
    public bool TryRent(out Chunk chunk)
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (!_free.TryPop(out chunk!))
            {
                if ((_made + 1L) * ChunkBytes > MaxBytes)
                {
                    return false;
                }

                chunk = new Chunk(this, ChunkBytes);
                _made++;
            }

            _rented++;
            chunk.Rented = true;
            chunk.Length = 0;
            return true;
        }
    }

    /// <summary>Frees unused chunks beyond <paramref name="keepBytes"/>.</summary>
    public void Trim(long keepBytes)
    {
        lock (_lock)
        {
            while (_free.Count > 0 && (long)_free.Count * ChunkBytes > keepBytes)
            {
                _free.Pop().Free();
                _made--;
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_lock)
        {
            _disposed = true;
        }

        Trim(0);
    }

    internal void Return(Chunk chunk)
    {
        lock (_lock)
        {
            if (!chunk.Rented)
            {
                throw new InvalidOperationException("a chunk was returned twice");
            }

            chunk.Rented = false;
            _rented--;
            if (_disposed)
            {
                chunk.Free();
                _made--;
            }
            else
            {
                _free.Push(chunk);
            }
        }
    }
}

/// <summary>A piece of native memory out of a <see cref="ChunkPool"/>.</summary>
/// <remarks>Belongs to one owner at a time.</remarks>
[SuppressMessage("Reliability", "CA1001", Justification = "the pool frees it, not who rents it")]
public sealed unsafe class Chunk
{
    private readonly ChunkPool _pool;
    private readonly NativeManager _manager;

    internal Chunk(ChunkPool pool, int bytes)
    {
        _pool = pool;
        _manager = new NativeManager(bytes);
        Memory = _manager.Memory;
    }

    /// <summary>All of it.</summary>
    public Memory<byte> Memory { get; }

    /// <summary>All of it.</summary>
    public Span<byte> Span => _manager.GetSpan();

    /// <summary>How much of it holds something; its owner says so.</summary>
    public int Length { get; set; }

    internal bool Rented { get; set; }

    /// <summary>Gives the chunk back; it must not be used afterwards.</summary>
    /// <exception cref="InvalidOperationException">It was given back before.</exception>
    public void Return() => _pool.Return(this);

    internal void Free() => _manager.Free();

    private sealed class NativeManager : MemoryManager<byte>
    {
        private readonly int _bytes;
        private byte* _pointer;

        public NativeManager(int bytes)
        {
            _bytes = bytes;

            // Safety: a new private mapping that only this object knows.
            nint address = Interop.mmap(
                0, (nuint)bytes, Interop.ProtRead | Interop.ProtWrite, Interop.MapPrivate | Interop.MapAnonymous, -1, 0);
            if (address == Interop.MapFailed)
            {
                throw new MemoryFileException(
                    $"cannot allocate a buffer of {bytes} bytes: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
            }

            _pointer = (byte*)address;
        }

        // Safety: the mapping is _bytes long and lives until Free, which the pool calls only for chunks that nobody holds.
        public override Span<byte> GetSpan() => new(_pointer, _bytes);

        public override MemoryHandle Pin(int elementIndex = 0) => new(_pointer + elementIndex);

        public override void Unpin()
        {
        }

        public void Free()
        {
            Debug.Assert(_pointer != null, "a chunk is freed once");

            // Safety: unmaps exactly what the constructor mapped, once.
            _ = Interop.munmap((nint)_pointer, (nuint)_bytes);
            _pointer = null;
        }

        protected override void Dispose(bool disposing)
        {
        }
    }
}
