using System.Buffers.Binary;
using System.Text;

namespace Curling.TestKit.Disks;

/// <summary>
/// A record that the guest's log writer made. Source of the format: <c>Guests/disklog.c</c>; a head of 48 bytes (magic, sequence, seed,
/// length, length of the note, run, hash; little endian), then the payload, whose first bytes are the note and whose rest follows from the
/// seed.
/// </summary>
/// <param name="Sequence">Its number; 1 is the first.</param>
/// <param name="Run">The random number of the log it belongs to.</param>
/// <param name="Note">The text of the question that it answered, or empty.</param>
/// <param name="Bytes">Its size, head included.</param>
public sealed record DiskRecord(long Sequence, ulong Run, string Note, int Bytes)
{
    /// <summary>The bytes of the head.</summary>
    public const int HeadBytes = 48;

    private const ulong Magic = 0x31474F4C4B534944; // "DISKLOG1"

    /// <summary>Reads the record at the beginning of some bytes.</summary>
    /// <returns>Null when there is none, or one that is not whole.</returns>
    public static DiskRecord? Read(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < HeadBytes || BinaryPrimitives.ReadUInt64LittleEndian(bytes) != Magic)
        {
            return null;
        }

        ulong sequence = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]);
        ulong seed = BinaryPrimitives.ReadUInt64LittleEndian(bytes[16..]);
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(bytes[24..]);
        uint noted = BinaryPrimitives.ReadUInt32LittleEndian(bytes[28..]);
        ulong run = BinaryPrimitives.ReadUInt64LittleEndian(bytes[32..]);
        if (length % 8 != 0 || length > bytes.Length - HeadBytes || noted > length || seed != Mix(sequence ^ Mix(run)))
        {
            return null;
        }

        byte[] whole = bytes[..(HeadBytes + (int)length)].ToArray();
        BinaryPrimitives.WriteUInt64LittleEndian(whole.AsSpan(40), 0);
        if (Hash(whole) != BinaryPrimitives.ReadUInt64LittleEndian(bytes[40..]))
        {
            return null;
        }

        ReadOnlySpan<byte> payload = whole.AsSpan(HeadBytes);
        for (int i = 0; i < payload.Length; i += 8)
        {
            seed = Mix(seed);
            if (i >= noted && BinaryPrimitives.ReadUInt64LittleEndian(payload[i..]) != seed)
            {
                return null;
            }
        }

        return new DiskRecord((long)sequence, run, Encoding.ASCII.GetString(payload[..(int)noted]), whole.Length);
    }

    /// <summary>SplitMix64, as in <c>Guests/disk.h</c>.</summary>
    internal static ulong Mix(ulong x)
    {
        x += 0x9E3779B97F4A7C15;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
        return x ^ (x >> 31);
    }

    /// <summary>FNV-1a over words of eight bytes, as in <c>Guests/disk.h</c>.</summary>
    private static ulong Hash(ReadOnlySpan<byte> bytes)
    {
        ulong hash = 0xCBF29CE484222325;
        for (int i = 0; i < bytes.Length; i += 8)
        {
            hash = (hash ^ BinaryPrimitives.ReadUInt64LittleEndian(bytes[i..])) * 0x100000001B3;
        }

        return hash;
    }
}
