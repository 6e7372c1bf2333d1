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
    private readonly SafeFileHandle _handle;
    private readonly string _path;

    /// <summary>Creates an empty file.</summary>
    public StreamFile(string path)
    {
        _path = path;
        _handle = File.OpenHandle(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Read);
    }

    /// <summary>Bytes written.</summary>
    public long Length { get; private set; }

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
