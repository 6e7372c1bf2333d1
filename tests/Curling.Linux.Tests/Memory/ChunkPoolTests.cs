using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Curling.Linux.Memory;
using Curling.Linux.Tracking;

namespace Curling.Linux.Tests.Memory;

public sealed unsafe class ChunkPoolTests
{
    private const int Size = 64 * 1024;
    private static readonly Dictionary<nint, Guid> Marks = [];

    [Fact]
    public void The_limit_holds_and_a_return_makes_room()
    {
        using ChunkPool pool = new(Size, (3 * Size) + 1);
        List<Chunk> rented = [];
        while (pool.TryRent(out Chunk chunk))
        {
            rented.Add(chunk);
        }

        Assert.Equal(3, rented.Count);
        Assert.Equal(3, pool.RentedChunks);
        rented[1].Return();
        Assert.Equal(2, pool.RentedChunks);
        Assert.True(pool.TryRent(out Chunk again));
        Assert.Same(rented[1], again);
        Assert.False(pool.TryRent(out _));
    }

    [Fact]
    public void Even_a_limit_below_one_chunk_allows_one()
    {
        using ChunkPool pool = new(Size, 1);
        Assert.True(pool.TryRent(out _));
        Assert.False(pool.TryRent(out _));
    }

    [Fact]
    public void Span_and_memory_are_the_same_bytes_and_chunks_share_none()
    {
        using ChunkPool pool = new(Size, 2 * Size);
        Assert.True(pool.TryRent(out Chunk one));
        Assert.True(pool.TryRent(out Chunk two));
        one.Span.Fill(1);
        two.Memory.Span.Fill(2);
        Assert.Equal(Size, one.Memory.Length);
        Assert.Equal(-1, one.Memory.Span.IndexOfAnyExcept((byte)1));
        Assert.Equal(-1, two.Span.IndexOfAnyExcept((byte)2));
    }

    [Fact]
    public void Memory_can_be_pinned_at_any_place()
    {
        using ChunkPool pool = new(Size, Size);
        Assert.True(pool.TryRent(out Chunk chunk));
        using MemoryHandle handle = chunk.Memory[100..].Pin();

        // Safety: the address is only compared; the chunk is rented.
        Assert.Equal((nint)Unsafe.AsPointer(ref chunk.Span[100]), (nint)handle.Pointer);
    }

    [Fact]
    public void A_chunk_returned_twice_is_an_error()
    {
        using ChunkPool pool = new(Size, Size);
        Assert.True(pool.TryRent(out Chunk chunk));
        chunk.Return();
        Assert.Throws<InvalidOperationException>(chunk.Return);
        Assert.Equal(0, pool.RentedChunks);
    }

    [Fact]
    public void A_chunk_comes_back_empty_and_costs_nothing()
    {
        using ChunkPool pool = new(Size, Size);
        Assert.True(pool.TryRent(out Chunk chunk));
        chunk.Length = 17;
        chunk.Return();
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 1000; i++)
        {
            _ = pool.TryRent(out chunk);
            _ = chunk.Memory.Length;
            chunk.Return();
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.Equal(0, chunk.Length);
    }

    [Fact]
    public void Trimming_gives_unused_memory_back_and_leaves_what_is_rented()
    {
        using ChunkPool pool = new(Size, 8 * Size);
        Chunk[] chunks = Enumerable.Range(0, 8).Select(_ => pool.TryRent(out Chunk chunk) ? chunk : throw new InvalidOperationException()).ToArray();
        nint[] addresses = chunks.Select(Mark).ToArray();
        chunks[0].Span[16..].Fill(4);
        foreach (Chunk chunk in chunks[1..])
        {
            chunk.Return();
        }

        pool.Trim(2 * Size);

        Assert.Equal(3 * Size, pool.HeldBytes);
        Assert.Equal(3, addresses.Count(Mapped));
        Assert.Equal(-1, chunks[0].Span[16..].IndexOfAnyExcept((byte)4));
        pool.Trim(0);
        Assert.Equal([addresses[0]], addresses.Where(Mapped));
        Assert.True(pool.TryRent(out _));
    }

    [Fact]
    public void Disposal_leaves_rented_chunks_alone_until_they_come_back()
    {
        ChunkPool pool = new(Size, 2 * Size);
        Assert.True(pool.TryRent(out Chunk rented));
        Assert.True(pool.TryRent(out Chunk free));
        (nint rentedAt, nint freeAt) = (Mark(rented), Mark(free));
        free.Return();

        pool.Dispose();
        pool.Dispose();

        Assert.False(Mapped(freeAt));
        Assert.True(Mapped(rentedAt));
        rented.Span.Fill(9);
        Assert.Equal(-1, rented.Memory.Span.IndexOfAnyExcept((byte)9));
        Assert.Equal(rentedAt, Mark(rented));
        rented.Return();
        Assert.False(Mapped(rentedAt));
        Assert.Equal(0, pool.HeldBytes);
        Assert.Throws<ObjectDisposedException>(() => pool.TryRent(out _));
        Assert.Throws<InvalidOperationException>(rented.Return);
    }

    [Fact]
    public void Many_threads_never_hold_the_same_chunk()
    {
        using ChunkPool pool = new(4096, 6 * 4096);
        Parallel.For(0, 8, new ParallelOptions { MaxDegreeOfParallelism = 8 }, thread =>
        {
            for (int i = 0; i < 2000; i++)
            {
                if (!pool.TryRent(out Chunk chunk))
                {
                    continue;
                }

                byte mark = (byte)(thread + 1);
                chunk.Span.Fill(mark);
                if (i % 16 == 0)
                {
                    Thread.Yield();
                }

                Assert.Equal(-1, chunk.Span.IndexOfAnyExcept(mark));
                chunk.Return();
                if (i % 100 == 0)
                {
                    pool.Trim(4096);
                }
            }
        });
        Assert.Equal(0, pool.RentedChunks);
        Assert.InRange(pool.HeldBytes, 0, pool.MaxBytes);
    }

    /// <summary>Writes a mark that no other memory has at the chunk's start and says where that is.</summary>
    private static nint Mark(Chunk chunk)
    {
        Guid.NewGuid().TryWriteBytes(chunk.Span);
        Marks[AddressOf(chunk)] = new Guid(chunk.Span[..16]);
        return AddressOf(chunk);
    }

    // Safety: only the address is taken; a chunk's memory does not move.
    private static nint AddressOf(Chunk chunk) => (nint)Unsafe.AsPointer(ref MemoryMarshal.GetReference(chunk.Span));

    // Reading through the kernel tells whether an address is mapped without touching it; the mark, whether it is still the same
    // memory, for someone else in this process may have mapped the place anew.
    private static bool Mapped(nint address)
    {
        Span<byte> bytes = stackalloc byte[16];
        try
        {
            ProcessMemory.Read(Environment.ProcessId, (ulong)address, bytes);
            return new Guid(bytes) == Marks[address];
        }
        catch (IOException)
        {
            return false;
        }
    }
}
