using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Memory;

/// <summary>
/// A file in memory, mapped shared: what is written here is what another process that maps the file sees, and the other way
/// round.
/// </summary>
/// <remarks>
/// Reading and writing is safe from any thread as far as memory is: the other process may write at any time. Disposing unmaps;
/// nobody may use <see cref="Pointer"/> or a span after that. The file stays: its directory's owner deletes it.
/// </remarks>
public sealed unsafe class SharedMapping : IDisposable
{
    private readonly SafeFileHandle _handle;
    private byte* _pointer;

    private SharedMapping(SafeFileHandle handle, string path, long length, bool writable)
    {
        _handle = handle;
        Path = path;
        Length = length;
        int protection = Interop.ProtRead | (writable ? Interop.ProtWrite : 0);

        // Safety: a new mapping of a descriptor we hold; the kernel chooses the address, so nothing existing is replaced.
        nint address = Interop.mmap(0, (nuint)length, protection, Interop.MapShared, (int)handle.DangerousGetHandle(), 0);
        if (address == Interop.MapFailed)
        {
            int error = Marshal.GetLastPInvokeError();
            handle.Dispose();
            throw new MemoryFileException($"{path}: cannot map {length} bytes: {Marshal.GetPInvokeErrorMessage(error)}");
        }

        _pointer = (byte*)address;
    }

    /// <summary>The file's path.</summary>
    public string Path { get; }

    /// <summary>The mapping's length in bytes.</summary>
    public long Length { get; }

    /// <summary>The first byte; valid until disposal.</summary>
    public byte* Pointer => _pointer != null ? _pointer : throw new ObjectDisposedException(nameof(SharedMapping));

    /// <summary>Creates a new file of zeros that only its owner may read, and maps it.</summary>
    /// <exception cref="MemoryFileException">The file exists, or its filesystem has no room.</exception>
    public static SharedMapping Create(string path, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        CheckRoom(path, bytes);
        return CreateSparse(path, bytes);
    }

    /// <summary>
    /// The same without asking whether the filesystem has room for all of it: for files of which only parts will be used. Have
    /// <see cref="Reserve"/> make a part before it is touched.
    /// </summary>
    /// <exception cref="MemoryFileException">The file exists or cannot be made.</exception>
    public static SharedMapping CreateSparse(string path, long bytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(bytes);
        SafeFileHandle handle;
        try
        {
            // Private from its first moment: who opened it before a later chmod could go on reading the guest's memory.
            handle = new FileStream(path, new FileStreamOptions
            {
                Mode = FileMode.CreateNew,
                Access = FileAccess.ReadWrite,
                Share = FileShare.ReadWrite,
                UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
                BufferSize = 0,
            }).SafeFileHandle;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MemoryFileException($"{path}: cannot create the memory file: {e.Message}", e);
        }

        if (Interop.ftruncate((int)handle.DangerousGetHandle(), bytes) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            handle.Dispose();
            File.Delete(path);
            throw new MemoryFileException($"{path}: cannot be made {bytes} bytes long: {Marshal.GetPInvokeErrorMessage(error)}");
        }

        try
        {
            return new SharedMapping(handle, path, bytes, writable: true);
        }
        catch (MemoryFileException)
        {
            File.Delete(path);
            throw;
        }
    }

    /// <summary>Maps an existing file whole.</summary>
    /// <exception cref="MemoryFileException">It is not there, empty, or may not be opened.</exception>
    public static SharedMapping Open(string path, bool writable)
    {
        try
        {
            SafeFileHandle handle = File.OpenHandle(
                path, FileMode.Open, writable ? FileAccess.ReadWrite : FileAccess.Read, FileShare.ReadWrite);
            long length = RandomAccess.GetLength(handle);
            if (length == 0)
            {
                handle.Dispose();
                throw new MemoryFileException($"{path}: the memory file is empty");
            }

            return new SharedMapping(handle, path, length, writable);
        }
        catch (Exception e) when (e is (IOException and not MemoryFileException) or UnauthorizedAccessException)
        {
            throw new MemoryFileException($"{path}: cannot open the memory file: {e.Message}", e);
        }
    }

    /// <summary>A part of the memory.</summary>
    /// <exception cref="ArgumentOutOfRangeException">It is not inside the mapping.</exception>
    public Span<byte> Span(long offset, int length)
    {
        if (offset < 0 || length < 0 || offset > Length - length)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), $"{offset}+{length} is not inside {Length} bytes of {Path}");
        }

        // Safety: the range was just held against the mapping's length.
        return new Span<byte>(Pointer + offset, length);
    }

    /// <summary>
    /// Writes through the file instead of the mapping: memory that does not exist yet is made without a fault for each page and
    /// without zeroing it first, and a full filesystem is an error instead of a signal.
    /// </summary>
    /// <exception cref="MemoryFileException">The filesystem has no room.</exception>
    public void Write(long offset, ReadOnlySpan<byte> bytes)
    {
        _ = Span(offset, bytes.Length);
        try
        {
            RandomAccess.Write(_handle, bytes, offset);
        }
        catch (IOException e)
        {
            throw new MemoryFileException(
                $"{Path}: cannot write {bytes.Length} bytes at {offset}: {e.Message}; free memory, or give the memory filesystem a"
                + " larger size (mount -o remount,size=…)",
                e);
        }
    }

    /// <summary>Makes the memory of a range, as zeros where there is none yet.</summary>
    /// <exception cref="MemoryFileException">The filesystem has no room.</exception>
    public void Reserve(long offset, long length)
    {
        if (Interop.fallocate((int)_handle.DangerousGetHandle(), 0, offset, length) != 0)
        {
            throw new MemoryFileException(
                $"{Path}: no room for {length} bytes at {offset}: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())};"
                + " free memory, or give the memory filesystem a larger size (mount -o remount,size=…)");
        }
    }

    /// <summary>Gives the memory of a range back; it reads as zeros afterwards, in every process.</summary>
    public void PunchHole(long offset, long length)
    {
        if (Interop.fallocate(
            (int)_handle.DangerousGetHandle(), Interop.FallocPunchHole | Interop.FallocKeepSize, offset, length) != 0)
        {
            throw new MemoryFileException(
                $"{Path}: cannot free {length} bytes at {offset}: {Marshal.GetPInvokeErrorMessage(Marshal.GetLastPInvokeError())}");
        }
    }

    /// <summary>The next part of the file, from <paramref name="offset"/> on, that holds data rather than a hole.</summary>
    /// <returns>False when only holes follow. Reading a hole would make it memory: whoever reads all of it asks here first.</returns>
    public bool NextData(long offset, out long start, out long end)
    {
        int descriptor = (int)_handle.DangerousGetHandle();
        start = Interop.lseek(descriptor, offset, Interop.SeekData);
        end = start < 0 ? -1 : Interop.lseek(descriptor, start, Interop.SeekHole);
        return end > start;
    }

    /// <summary>
    /// The first offset from <paramref name="offset"/> on that holds data; <see cref="Length"/> when only a hole follows. Does not look
    /// for the end of the data, which takes the longer the more there is of it.
    /// </summary>
    public long FirstData(long offset)
    {
        long start = Interop.lseek((int)_handle.DangerousGetHandle(), offset, Interop.SeekData);
        return start < 0 ? Length : start;
    }

    /// <summary>
    /// Forgets what this process has mapped of the memory; what is in it stays. A process that dies closes its sockets only when all it mapped
    /// is taken down, 80 ms for a GiB: one that has read all of a large memory once would be missed late.
    /// </summary>
    public void Unmap()
    {
        // Safety: the range is the whole mapping, which stays: of shared memory, only the way to it is dropped.
        _ = Interop.madvise((nint)Pointer, (nuint)Length, Interop.MadvDontNeed);
    }

    /// <summary>Has the kernel allocate and map a range beforehand, where it can.</summary>
    public void Populate(long offset, long length)
    {
        _ = Span(offset, 0);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Length - offset);

        // Safety: the range is inside the mapping. A kernel that cannot do it (before 5.14) says so, and nothing is lost.
        _ = Interop.madvise((nint)(Pointer + offset), (nuint)length, Interop.MadvPopulateWrite);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_pointer != null)
        {
            // Safety: unmaps exactly what the constructor mapped, once.
            _ = Interop.munmap((nint)_pointer, (nuint)Length);
            _pointer = null;
            _handle.Dispose();
        }
    }

    private static void CheckRoom(string path, long bytes)
    {
        string directory = System.IO.Path.GetDirectoryName(System.IO.Path.GetFullPath(path))!;
        long free;
        try
        {
            free = new DriveInfo(directory).AvailableFreeSpace;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new MemoryFileException($"{directory}: cannot tell how much room it has: {e.Message}", e);
        }

        if (free < bytes)
        {
            throw new MemoryFileException(
                $"no room in {directory}: guest memory needs {bytes >> 20} MiB, it has {free >> 20} MiB; free some, or give the"
                + " memory filesystem a larger size (mount -o remount,size=…)");
        }
    }
}
