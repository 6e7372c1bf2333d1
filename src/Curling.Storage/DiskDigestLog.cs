using System.Buffers.Binary;
using System.IO.Hashing;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Curling.Storage;

/// <summary>
/// For tests: a file that tells what disks held at which round, one line each, <c>WHEN ROUND DISK DIGEST</c>. The sender's and the receiver's
/// are held against each other. Each line costs the reading of a whole disk, by whoever waits for the round.
/// </summary>
/// <remarks>One line at a time. A line that was written survives the process, as nothing of it is buffered here.</remarks>
public sealed class DiskDigestLog : IDisposable
{
    private const int Block = 4096;
    private const int PartBytes = 1 << 20;
    private static readonly byte[] Zeros = new byte[Block];
    private readonly SafeFileHandle _file;
    private readonly byte[] _part = new byte[PartBytes];
    private readonly DiskExtent[] _extents = new DiskExtent[256];

    private DiskDigestLog(SafeFileHandle file) => _file = file;

    /// <summary>Opens or makes the file; lines are added at its end.</summary>
    /// <exception cref="IOException">It cannot be opened.</exception>
    public static DiskDigestLog Open(string path) => new(File.OpenHandle(path, FileMode.OpenOrCreate, FileAccess.Write, FileShare.ReadWrite));

    /// <summary>Adds a line.</summary>
    /// <param name="when">What happens to the disk: <c>cut</c>, <c>commit</c> or <c>promote</c>.</param>
    /// <param name="round">The round that it stands at.</param>
    /// <param name="disk">Which of the guest's disks it is, from 0.</param>
    /// <param name="content">The disk; nobody writes to it meanwhile.</param>
    /// <exception cref="IOException">The disk cannot be read, or the line cannot be written.</exception>
    public void Add(string when, long round, int disk, IDiskBackend content)
    {
        string line = FormattableString.Invariant($"{when} {round} {disk} {Digest(content)}\n");
        RandomAccess.Write(_file, Encoding.ASCII.GetBytes(line), RandomAccess.GetLength(_file));
    }

    /// <inheritdoc/>
    public void Dispose() => _file.Dispose();

    /// <summary>A digest of what a disk reads as, wherever it has holes: of each block that is not zero, and where it is.</summary>
    internal string Digest(IDiskBackend disk)
    {
        XxHash128 hash = new();
        long done = 0;
        for (long offset = 0; offset < disk.Length;)
        {
            int count = Wait(disk.GetExtentsAsync(offset, disk.Length - offset, _extents, CancellationToken.None));
            long before = offset;
            for (int i = 0; i < count; i++)
            {
                if (!_extents[i].IsHole)
                {
                    // An extent may begin within a block that another one ends in: whole blocks are read, and none twice.
                    long first = Math.Max(done, offset / Block * Block);
                    done = Math.Min(disk.Length, (offset + _extents[i].Length + Block - 1) / Block * Block);
                    Append(hash, disk, first, done);
                }

                offset += _extents[i].Length;
            }

            if (offset == before)
            {
                throw new DiskException(DiskError.Io, $"the disk does not tell how it is made up from {offset} on");
            }
        }

        return Convert.ToHexStringLower(hash.GetCurrentHash());
    }

    private static T Wait<T>(ValueTask<T> task) => task.IsCompletedSuccessfully ? task.Result : task.AsTask().GetAwaiter().GetResult();

    private void Append(XxHash128 hash, IDiskBackend disk, long at, long end)
    {
        Span<byte> where = stackalloc byte[sizeof(long)];
        while (at < end)
        {
            int now = (int)Math.Min(PartBytes, end - at);
            ValueTask reading = disk.ReadAsync(at, _part.AsMemory(0, now), CancellationToken.None);
            if (!reading.IsCompletedSuccessfully)
            {
                reading.AsTask().GetAwaiter().GetResult();
            }

            for (int i = 0; i < now; i += Block)
            {
                ReadOnlySpan<byte> block = _part.AsSpan(i, Math.Min(Block, now - i));
                if (!block.SequenceEqual(Zeros.AsSpan(0, block.Length)))
                {
                    BinaryPrimitives.WriteInt64LittleEndian(where, at + i);
                    hash.Append(where);
                    hash.Append(block);
                }
            }

            at += now;
        }
    }
}
