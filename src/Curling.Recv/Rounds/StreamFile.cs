using Curling.Linux.Memory;
using Microsoft.Win32.SafeHandles;

namespace Curling.Recv.Rounds;

/// <summary>
/// The content of one full round: QEMU's migration stream, in a file of the memory filesystem. Written once from start to
/// end, then read whole at a promotion.
/// </summary>
/// <remarks>Not thread-safe. Disposing it deletes the file.</remarks>
internal sealed class StreamFile : IDisposable
{
    private const string Prefix = "round-";
    private readonly SafeFileHandle _handle;
    private readonly string _path;

    /// <summary>Creates an empty file.</summary>
    public StreamFile(string path)
    {
        _path = path;
        _handle = File.OpenHandle(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Read);
    }

    private StreamFile(string path, SafeFileHandle handle, long length)
    {
        _path = path;
        _handle = handle;
        Length = length;
    }

    /// <summary>Its name in its directory.</summary>
    public string Name => Path.GetFileName(_path);

    /// <summary>Bytes written.</summary>
    public long Length { get; private set; }

    /// <summary>A path for the stream of a round that is about to arrive.</summary>
    public static string NewPath(string directory, long round) => Path.Combine(directory, $"{Prefix}{round}-{Guid.NewGuid():N}");

    /// <summary>Deletes what an earlier process had received of other rounds: each may be as large as the guest's memory.</summary>
    public static void DeleteOthers(string directory, string keep)
    {
        foreach (string path in Directory.GetFiles(directory, Prefix + "*").Where(p => Path.GetFileName(p) != keep))
        {
            File.Delete(path);
        }
    }

    /// <summary>Opens a file that an earlier process wrote.</summary>
    /// <exception cref="IOException">It is not there, or not as long as it should be.</exception>
    public static StreamFile Open(string path, long length)
    {
        SafeFileHandle handle = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read);
        long found = RandomAccess.GetLength(handle);
        if (found != length)
        {
            handle.Dispose();
            throw new IOException($"{path} has {found} bytes, the journal says {length}");
        }

        return new StreamFile(path, handle, length);
    }

    /// <summary>Closes the file and leaves it where it is.</summary>
    public void Close() => _handle.Dispose();

    /// <summary>Appends bytes.</summary>
    /// <exception cref="MemoryFileException">The memory filesystem has no room.</exception>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        try
        {
            RandomAccess.Write(_handle, bytes, Length);
        }
        catch (IOException e)
        {
            throw new MemoryFileException(
                $"no room for the round in {Path.GetDirectoryName(_path)}: {e.Message}; a full round needs the guest's memory"
                + " twice over, free some or give the memory filesystem a larger size (mount -o remount,size=…)",
                e);
        }

        Length += bytes.Length;
    }

    /// <summary>Reads bytes at a position.</summary>
    public int Read(Span<byte> destination, long offset) => RandomAccess.Read(_handle, destination, offset);

    /// <inheritdoc/>
    public void Dispose()
    {
        _handle.Dispose();
        File.Delete(_path);
    }
}
