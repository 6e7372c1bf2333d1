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
    private readonly Stack<int> _unused = new();
    private readonly SharedMapping? _file;
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

    /// <summary>
    /// Creates an empty pool whose chunks lie in a new memory file, one behind the other: what is in them can be found again by
    /// their <see cref="Chunk.Index"/> after this process has died. The file stays when the pool is disposed.
    /// </summary>
    /// <param name="chunkBytes">The size of a chunk, in whole pages.</param>
    /// <param name="maxBytes">What all chunks together may take; only chunks that exist take memory.</param>
    /// <param name="path">The file.</param>
    /// <exception cref="MemoryFileException">The file cannot be made.</exception>
    public ChunkPool(int chunkBytes, long maxBytes, string path)
        : this(chunkBytes, maxBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(chunkBytes % 4096, 0);
        _file = SharedMapping.CreateSparse(path, MaxBytes / chunkBytes * chunkBytes);
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
    /// <exception cref="MemoryFileException">There is no memory for another one.</exception>
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

                chunk = Make();
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
                Free(_free.Pop());
            }
        }
    }

    private Chunk Make()
    {
        if (_file is null)
        {
            return new Chunk(this, ChunkBytes);
        }

        // Memory is taken here, where a lack of it is an error: met at a store it would be a signal that ends the process.
        int index = _unused.Count > 0 ? _unused.Peek() : _made;
        _file.Reserve((long)index * ChunkBytes, ChunkBytes);
        _ = _unused.TryPop(out _);
        return new Chunk(this, _file, index, ChunkBytes);
    }

    private void Free(Chunk chunk)
    {
        chunk.Free();
        _made--;
        if (_file is not null)
        {
            _unused.Push(chunk.Index);
            if (!_disposed)
            {
                _file.PunchHole((long)chunk.Index * ChunkBytes, ChunkBytes);
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
        lock (_lock)
        {
            if (_rented == 0)
            {
                _file?.Dispose();
            }
        }
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
                Free(chunk);
                if (_rented == 0)
                {
                    _file?.Dispose();
                }
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

    internal Chunk(ChunkPool pool, SharedMapping file, int index, int bytes)
    {
        _pool = pool;
        Index = index;
        _manager = new NativeManager(file.Pointer + ((long)index * bytes), bytes);
        Memory = _manager.Memory;
    }

    /// <summary>Its place in the pool's file, counted in chunks; 0 where there is no file.</summary>
    public int Index { get; }

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
        private readonly bool _own;
        private byte* _pointer;

        // Safety: the pool disposes the file that holds the range only when no chunk is out any more.
        public NativeManager(byte* pointer, int bytes)
        {
            _bytes = bytes;
            _pointer = pointer;
        }

        public NativeManager(int bytes)
        {
            _bytes = bytes;
            _own = true;

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
            if (_own)
            {
                _ = Interop.munmap((nint)_pointer, (nuint)_bytes);
            }

            _pointer = null;
        }

        protected override void Dispose(bool disposing)
        {
        }
    }
}
