using System.Buffers.Binary;

namespace Curling.TestKit.Disks;

/// <summary>
/// Checks a disk that the guest's block writer (<c>curling.disk=raw</c>, <c>Guests/diskraw.c</c>) wrote to: it must be exactly all
/// writes up to one, of which the last may be half done, and none after.
/// </summary>
public static class RawPatternCheck
{
    private const int Sector = 512;
    private const ulong Magic = 0x3157415244534944; // "DISDRAW1"

    /// <summary>The block that a write goes to.</summary>
    public static long BlockOf(long write, long blocks) => (long)(DiskRecord.Mix((ulong)write) % (ulong)blocks);

    /// <summary>Finds the last write.</summary>
    /// <param name="image">The image.</param>
    /// <param name="offset">Where the region begins, in bytes.</param>
    /// <param name="length">The bytes of the region.</param>
    /// <param name="blockBytes">The bytes of a write.</param>
    /// <returns>The number of the last write that is wholly there.</returns>
    /// <exception cref="DiskDamageException">The disk is not all writes up to one.</exception>
    public static long Check(string image, long offset, long length, int blockBytes = 4096)
    {
        using FileStream stream = new(image, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        stream.Seek(offset, SeekOrigin.Begin);
        long blocks = length / blockBytes;
        int sectors = blockBytes / Sector;
        ulong[] written = new ulong[blocks * sectors];
        byte[] block = new byte[blockBytes];
        ulong highest = 0;
        for (long b = 0; b < blocks; b++)
        {
            stream.ReadExactly(block);
            for (int s = 0; s < sectors; s++)
            {
                ulong n = ReadSector(block.AsSpan(s * Sector, Sector), b, s);
                written[(b * sectors) + s] = n;
                highest = Math.Max(highest, n);
            }
        }

        ulong[] wanted = new ulong[blocks];
        ulong[] before = new ulong[blocks];
        for (ulong n = 1; n <= highest; n++)
        {
            long at = BlockOf((long)n, blocks);
            before[at] = wanted[at];
            wanted[at] = n;
        }

        bool half = false;
        for (long i = 0; i < written.Length; i++)
        {
            long b = i / sectors;
            bool isHalf = wanted[b] == highest && written[i] == before[b] && highest > 0;
            half |= isHalf;
            if (written[i] != wanted[b] && !isHalf)
            {
                throw new DiskDamageException(
                    $"{image}: block {b}, sector {i % sectors} is of write {written[i]}; the disk has seen write {highest}, so it must be of {wanted[b]}");
            }
        }

        return (long)(half ? highest - 1 : highest);
    }

    /// <returns>The write that made a sector; 0 when nobody has.</returns>
    private static ulong ReadSector(ReadOnlySpan<byte> bytes, long block, int sector)
    {
        if (!bytes.ContainsAnyExcept((byte)0))
        {
            return 0;
        }

        ulong n = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
        bool right = BinaryPrimitives.ReadUInt64LittleEndian(bytes) == Magic
            && BinaryPrimitives.ReadUInt64LittleEndian(bytes[16..]) == (ulong)block
            && BinaryPrimitives.ReadUInt64LittleEndian(bytes[24..]) == (ulong)sector;
        ulong seed = DiskRecord.Mix(n ^ ((ulong)sector << 48));
        for (int i = 32; i < Sector && right; i += 8)
        {
            seed = DiskRecord.Mix(seed);
            right = BinaryPrimitives.ReadUInt64LittleEndian(bytes[i..]) == seed;
        }

        return right ? n : throw new DiskDamageException($"block {block}, sector {sector} holds what no write made");
    }
}
