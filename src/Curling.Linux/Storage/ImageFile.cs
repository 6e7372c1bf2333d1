using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Storage;

/// <summary>A file or block device that holds a disk: reads, writes and holes at positions.</summary>
/// <remarks>Safe from any thread. Every call may block on the device, <see cref="TryRead"/> excepted. Failures are a <see cref="StorageException"/>.</remarks>
public sealed unsafe class ImageFile : IDisposable
{
    private readonly SafeFileHandle _handle;
    private volatile bool _noWaitRefused;

    private ImageFile(SafeFileHandle handle, string path, long length, bool isBlockDevice)
    {
        _handle = handle;
        Path = path;
        Length = length;
        IsBlockDevice = isBlockDevice;
    }

    /// <summary>Where it is.</summary>
    public string Path { get; }

    /// <summary>Its size in bytes when it was opened.</summary>
    public long Length { get; }

    /// <summary>Whether it is a block device rather than a file.</summary>
    public bool IsBlockDevice { get; }

    private int Descriptor => (int)_handle.DangerousGetHandle();

    /// <summary>Opens a file or block device that exists.</summary>
    public static ImageFile Open(string path, bool readOnly)
    {
        // Without O_NONBLOCK a FIFO would be waited for; files and block devices do not mind it.
        int flags = (readOnly ? Interop.ReadOnly : Interop.ReadWrite) | Interop.CloseOnExec | Interop.NonBlocking;
        int descriptor = Interop.open(path, flags);
        if (descriptor < 0)
        {
            throw StorageException.FromLast($"{path} cannot be opened");
        }

        SafeFileHandle handle = new(descriptor, ownsHandle: true);
        try
        {
            Interop.FileFacts facts;
            byte empty = 0;

            // Safety: an empty path, ended by its zero, and a structure of the size that the kernel fills.
            if (Interop.statx(descriptor, &empty, Interop.EmptyPath, Interop.StatxType, &facts) < 0)
            {
                throw StorageException.FromLast($"{path} cannot be examined");
            }

            switch (facts.Mode & Interop.TypeMask)
            {
                case Interop.TypeRegular:
                    long length = Interop.lseek(descriptor, 0, Interop.SeekEnd);
                    return length < 0 ? throw StorageException.FromLast($"{path} cannot be measured") : new ImageFile(handle, path, length, false);
                case Interop.TypeBlock:
                    ulong bytes;
                    return Interop.ioctl(descriptor, Interop.BlockDeviceBytes, &bytes) < 0
                        ? throw StorageException.FromLast($"{path} cannot be measured")
                        : new ImageFile(handle, path, (long)bytes, true);
                default:
                    throw new StorageException(
                        StorageErrorKind.WrongKind,
                        (facts.Mode & Interop.TypeMask) == Interop.TypeDirectory ? $"{path} is a directory" : $"{path} is neither a file nor a block device");
            }
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Takes the locks that QEMU takes on an image it uses, and fails where another program has them (qemu: block/file-posix.c,
    /// raw_apply_lock_bytes): a shared lock on byte 100 + n for each permission used, on byte 200 + n for each one not shared.
    /// </summary>
    /// <exception cref="StorageException">Another program uses it.</exception>
    public void Lock(bool forWriting)
    {
        const int ConsistentRead = 0;
        const int Write = 1;
        const int Resize = 3;
        const int Used = 100;
        const int NotShared = 200;
        ReadOnlySpan<int> used = forWriting ? [ConsistentRead, Write] : [ConsistentRead];
        ReadOnlySpan<int> refused = [Write, Resize];
        foreach (int permission in used)
        {
            TakeLock(Used + permission);
        }

        foreach (int permission in refused)
        {
            TakeLock(NotShared + permission);
        }

        foreach (int permission in used)
        {
            CheckLock(NotShared + permission);
        }

        foreach (int permission in refused)
        {
            CheckLock(Used + permission);
        }
    }

    /// <summary>Reads what is in the page cache, without waiting for the device.</summary>
    /// <returns>How many bytes were read from the beginning of <paramref name="into"/>; 0 when none is there, or the filesystem cannot tell.</returns>
    public int TryRead(long offset, Span<byte> into)
    {
        if (_noWaitRefused)
        {
            return 0;
        }

        using Held held = new(_handle);
        fixed (byte* start = into)
        {
            Interop.IoVector vector = new() { Base = start, Length = (nuint)into.Length };

            // Safety: the kernel writes at most into.Length bytes.
            nint got = Interop.preadv2(held.Descriptor, &vector, 1, offset, Interop.NoWait);
            if (got >= 0)
            {
                return (int)got;
            }

            if (Marshal.GetLastPInvokeError() is Interop.NotSupported or Interop.Invalid)
            {
                _noWaitRefused = true;
            }

            return 0;
        }
    }

    /// <summary>Fills a buffer.</summary>
    public void Read(long offset, Span<byte> into)
    {
        using Held held = new(_handle);
        fixed (byte* start = into)
        {
            int done = 0;
            while (done < into.Length)
            {
                // Safety: the kernel writes at most what is left of the buffer.
                nint got = Interop.pread(held.Descriptor, start + done, (nuint)(into.Length - done), offset + done);
                if (got > 0)
                {
                    done += (int)got;
                }
                else if (got == 0)
                {
                    throw new StorageException(StorageErrorKind.Io, $"{Path} ends at {offset + done}; it was {Length} bytes long when it was opened");
                }
                else if (Marshal.GetLastPInvokeError() != Interop.Interrupted)
                {
                    throw StorageException.FromLast($"{Path} cannot be read at {offset + done}");
                }
            }
        }
    }

    /// <summary>Writes all of a buffer.</summary>
    public void Write(long offset, ReadOnlySpan<byte> data)
    {
        using Held held = new(_handle);
        fixed (byte* start = data)
        {
            int done = 0;
            while (done < data.Length)
            {
                // Safety: the kernel reads at most what is left of the buffer.
                nint put = Interop.pwrite(held.Descriptor, start + done, (nuint)(data.Length - done), offset + done);
                if (put > 0)
                {
                    done += (int)put;
                }
                else if (put == 0 || Marshal.GetLastPInvokeError() != Interop.Interrupted)
                {
                    throw StorageException.FromLast($"{Path} cannot be written at {offset + done}");
                }
            }
        }
    }

    /// <summary>Makes a range a hole: it reads as zeros and takes no room. On a block device the range must be aligned to its blocks.</summary>
    /// <returns>Whether the filesystem or device can do that.</returns>
    public bool TryPunchHole(long offset, long length) =>
        TryAllocate(Interop.FallocPunchHole | Interop.FallocKeepSize, offset, length, "cannot be given back");

    /// <summary>Makes a range read as zeros and keeps its room.</summary>
    /// <returns>Whether the filesystem or device can do that.</returns>
    public bool TryZeroRange(long offset, long length) =>
        TryAllocate(Interop.FallocZeroRange | Interop.FallocKeepSize, offset, length, "cannot be zeroed");

    /// <summary>Takes room for a range that has none yet; it reads as zeros.</summary>
    /// <returns>Whether the filesystem or device can do that.</returns>
    public bool TryReserve(long offset, long length) => TryAllocate(0, offset, length, "cannot be reserved");

    /// <summary>Makes what was written safe from a loss of power.</summary>
    public void Sync()
    {
        using Held held = new(_handle);
        while (Interop.fdatasync(held.Descriptor) < 0)
        {
            if (Marshal.GetLastPInvokeError() != Interop.Interrupted)
            {
                throw StorageException.FromLast($"{Path} cannot be flushed");
            }
        }
    }

    /// <summary>Looks where the stretch ends that begins at an offset.</summary>
    /// <returns>Its end, at most <see cref="Length"/>, and whether it is a hole.</returns>
    public (long End, bool IsHole) Stretch(long offset)
    {
        if (IsBlockDevice)
        {
            return (Length, false);
        }

        long data = Interop.lseek(Descriptor, offset, Interop.SeekData);
        if (data < 0)
        {
            // No data from here to the end, or a filesystem that does not know its holes.
            return (Length, Marshal.GetLastPInvokeError() == Interop.NoSuchAddress);
        }

        if (data > offset)
        {
            return (Math.Min(data, Length), true);
        }

        long hole = Interop.lseek(Descriptor, offset, Interop.SeekHole);
        return (hole <= offset ? Length : Math.Min(hole, Length), false);
    }

    /// <inheritdoc/>
    public void Dispose() => _handle.Dispose();

    private bool TryAllocate(int mode, long offset, long length, string what)
    {
        using Held held = new(_handle);
        while (Interop.fallocate(held.Descriptor, mode, offset, length) < 0)
        {
            switch (Marshal.GetLastPInvokeError())
            {
                case Interop.Interrupted:
                    continue;
                case Interop.NotSupported or Interop.NoDevice or Interop.Invalid:
                    return false;
                default:
                    throw StorageException.FromLast($"{Path}: {length} bytes at {offset} {what}");
            }
        }

        return true;
    }

    private void TakeLock(long at)
    {
        Interop.FileLock request = new() { Type = Interop.ReadLock, Start = at, Length = 1 };
        if (Interop.fcntl(Descriptor, Interop.SetOpenFileLock, &request) < 0 && !IsUnlockable())
        {
            throw InUse();
        }
    }

    private void CheckLock(long at)
    {
        Interop.FileLock request = new() { Type = Interop.WriteLock, Start = at, Length = 1 };
        if (Interop.fcntl(Descriptor, Interop.GetOpenFileLock, &request) < 0 ? !IsUnlockable() : request.Type != Interop.Unlocked)
        {
            throw InUse();
        }
    }

    /// <summary>Some network filesystems have no locks; QEMU goes on without them too.</summary>
    private static bool IsUnlockable() => Marshal.GetLastPInvokeError() is Interop.NotSupported or Interop.Invalid or Interop.NoLocks;

    private StorageException InUse() => new(
        StorageErrorKind.InUse, $"{Path} is in use by another program (a QEMU, qemu-nbd or another Curling has locked it); end that one first");

    /// <summary>Keeps the descriptor from being closed, and another file from getting its number, while a call uses it that may be told to end.</summary>
    private readonly ref struct Held
    {
        private readonly SafeFileHandle _handle;

        public Held(SafeFileHandle handle)
        {
            bool added = false;
            handle.DangerousAddRef(ref added);
            _handle = handle;
        }

        public int Descriptor => (int)_handle.DangerousGetHandle();

        public void Dispose() => _handle.DangerousRelease();
    }
}
