using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Curling.Linux.Tracking;

/// <summary>
/// Says which pages of another process were written since it was asked last, without stopping it: userfaultfd's asynchronous
/// write protection, set up inside the process, and PAGEMAP_SCAN on its pagemap.
/// </summary>
/// <remarks>
/// Several threads may scan, each a range of its own. The process is stopped only for the moment in which the userfaultfd is made. When
/// the tracker is disposed or its process dies, the kernel lifts the protection and the tracked process runs on unharmed. Writes by the kernel
/// on behalf of the process through pages pinned before they were protected (direct I/O, VFIO) are not seen.
/// </remarks>
public sealed unsafe class DirtyTracker : IDisposable
{
    // Above the descriptors that a daemon opens in its life, below the usual limit of 1,024.
    private const int HighDescriptor = 900;

    private const ulong PageSize = 4096;
    private const int MaxAttempts = 1000; // a second in all
    private readonly int _pid;
    private readonly SafeFileHandle _pagemap;
    private int _userfault;

    private DirtyTracker(int pid, int userfault, SafeFileHandle pagemap)
    {
        _pid = pid;
        _userfault = userfault;
        _pagemap = pagemap;
    }

    /// <summary>Whether this kernel can do it.</summary>
    /// <exception cref="TrackingUnavailableException">It cannot; the message says what is missing.</exception>
    public static void CheckSupport()
    {
        using SafeFileHandle pagemap = OpenPagemap(Environment.ProcessId);

        // Safety: an empty range: the kernel only checks the argument.
        Interop.PagemapScanArgument argument = new() { Size = (ulong)sizeof(Interop.PagemapScanArgument) };
        if (Interop.ioctl((int)pagemap.DangerousGetHandle(), Interop.PagemapScan, &argument) < 0)
        {
            throw new TrackingUnavailableException(
                $"this kernel ({Environment.OSVersion.Version}) has no PAGEMAP_SCAN ({Interop.Error()}); incremental rounds need Linux"
                + " 6.7 or newer");
        }
    }

    /// <summary>Attaches to a process.</summary>
    /// <exception cref="TrackingUnavailableException">The kernel cannot do it or does not allow it.</exception>
    public static DirtyTracker Attach(int pid)
    {
        CheckSupport();
        int userfault = SyscallInjection.CreateUserfaultfd(pid, remote => Fetch(pid, remote));

        // Safety: the argument is a local of the layout that the call expects.
        Interop.UffdioApiArgument api = new()
        {
            Api = Interop.UffdApi,
            Features = Interop.UffdFeaturePagefaultFlagWp | Interop.UffdFeatureWpHugetlbfsShmem
                | Interop.UffdFeatureWpUnpopulated | Interop.UffdFeatureWpAsync,
        };
        if (Interop.ioctl(userfault, Interop.UffdioApi, &api) < 0)
        {
            string error = Interop.Error();
            _ = Interop.close(userfault);
            throw new TrackingUnavailableException(
                $"this kernel has no asynchronous write protection ({error}); incremental rounds need Linux 6.7 or newer");
        }

        try
        {
            return new DirtyTracker(pid, userfault, OpenPagemap(pid));
        }
        catch
        {
            _ = Interop.close(userfault);
            throw;
        }
    }

    /// <summary>Tracks a range of the process's memory; all of its pages count as written until the first scan.</summary>
    /// <exception cref="TrackingUnavailableException">The kernel does not track this kind of memory.</exception>
    public void Register(ulong start, ulong length)
    {
        Interop.UffdioRegisterArgument argument = new() { Start = start, Length = length, Mode = Interop.UffdRegisterModeWp };

        // Safety: the argument is a local of the layout that the call expects.
        if (Interop.ioctl(_userfault, Interop.UffdioRegister, &argument) < 0)
        {
            throw new TrackingUnavailableException(
                $"memory at 0x{start:X} ({length >> 10} KiB) of process {_pid} cannot be tracked: {Interop.Error()}; it must be anonymous"
                + " or in a memory filesystem, and nobody else may track it");
        }
    }

    /// <summary>
    /// Protects a registered range: all of its pages count as unwritten from now on. Memory that the process had mapped in large pages is
    /// mapped page by page afterwards, so that a scan finds what was written page by page; <see cref="Scan"/> alone would protect a
    /// large page as one and find all of it written after one write.
    /// </summary>
    /// <exception cref="IOException">The process is gone, or the range is not registered.</exception>
    public void Protect(ulong start, ulong length)
    {
        ObjectDisposedException.ThrowIf(_userfault < 0, this);
        Interop.UffdioWriteProtectArgument argument = new() { Start = start, Length = length, Mode = Interop.UffdWriteProtectModeWp };

        // The kernel asks to be called again while the process changes its mappings.
        for (int left = MaxAttempts; ; left--)
        {
            // Safety: the argument is a local of the layout that the call expects.
            if (Interop.ioctl(_userfault, Interop.UffdioWriteProtect, &argument) >= 0)
            {
                return;
            }

            if (Marshal.GetLastPInvokeError() != Interop.TryAgain || left == 0)
            {
                throw new IOException($"memory at 0x{start:X} ({length >> 10} KiB) of process {_pid} cannot be protected: {Interop.Error()}");
            }

            Thread.Sleep(1);
        }
    }

    /// <summary>Lists pages that were written and, if asked, protects them again in the same step.</summary>
    /// <param name="start">The first address.</param>
    /// <param name="end">The address behind the last.</param>
    /// <param name="regions">Where to put the runs of pages.</param>
    /// <param name="protect">Whether the pages listed count as unwritten from now on.</param>
    /// <param name="walkEnd">How far the scan came; less than <paramref name="end"/> when <paramref name="regions"/> was full.</param>
    /// <returns>How many regions were filled.</returns>
    /// <exception cref="ArgumentException"><paramref name="regions"/> has no room at all.</exception>
    /// <exception cref="IOException">The process is gone, or the range holds memory that is not tracked.</exception>
    public int Scan(ulong start, ulong end, Span<PageRegion> regions, bool protect, out ulong walkEnd)
    {
        ObjectDisposedException.ThrowIf(_userfault < 0, this);
        if (regions.IsEmpty)
        {
            // The kernel would take it for a wish to protect everything and to be told nothing: pages lost without a word.
            throw new ArgumentException("there must be room for at least one region", nameof(regions));
        }

        fixed (PageRegion* vector = regions)
        {
            Interop.PagemapScanArgument argument = new()
            {
                Size = (ulong)sizeof(Interop.PagemapScanArgument),
                Flags = protect ? Interop.PmScanWpMatching | Interop.PmScanCheckWpAsync : 0,
                Start = start,
                End = end,
                Vector = (ulong)vector,
                VectorLength = (ulong)regions.Length,
                CategoryMask = Interop.PageIsWritten,
                ReturnMask = Interop.PageIsWritten,
            };

            // Safety: the kernel fills at most regions.Length elements of the pinned span.
            int got = Interop.ioctl((int)_pagemap.DangerousGetHandle(), Interop.PagemapScan, &argument);
            if (got < 0)
            {
                throw new IOException($"the dirty pages of process {_pid} cannot be listed: {Interop.Error()}");
            }

            // An address space that has ended is scanned without complaint and found to hold nothing; only a read tells.
            ulong entry = 0;
            if (RandomAccess.Read(_pagemap, new Span<byte>(&entry, sizeof(ulong)), (long)(start / PageSize * sizeof(ulong))) == 0)
            {
                throw new IOException($"the dirty pages of process {_pid} cannot be listed: the process has ended");
            }

            walkEnd = argument.WalkEnd;
            return got;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        int userfault = Interlocked.Exchange(ref _userfault, -1);
        if (userfault >= 0)
        {
            _pagemap.Dispose();
            _ = Interop.close(userfault);
        }
    }

    private static SafeFileHandle OpenPagemap(int pid)
    {
        try
        {
            return File.OpenHandle($"/proc/{pid}/pagemap", FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new TrackingUnavailableException($"the pagemap of process {pid} cannot be opened: {e.Message}");
        }
    }

    private static int Fetch(int pid, int remote)
    {
        long pidfd = Interop.syscall(Interop.SysPidfdOpen, pid, 0, 0);
        if (pidfd < 0)
        {
            throw new TrackingUnavailableException($"process {pid} cannot be opened (pidfd_open): {Interop.Error()}");
        }

        long local = Interop.syscall(Interop.SysPidfdGetfd, pidfd, remote, 0);
        int error = Marshal.GetLastPInvokeError();
        _ = Interop.close((int)pidfd);
        if (local < 0)
        {
            throw new TrackingUnavailableException(
                $"the userfaultfd of process {pid} cannot be fetched (pidfd_getfd): {Marshal.GetPInvokeErrorMessage(error)}");
        }

        // A process that is killed closes its descriptors from the lowest up, and this one takes milliseconds per GiB: sockets
        // must close before it, for their closing is how the peer learns of the death.
        int high = Interop.fcntl((int)local, Interop.DuplicateCloexec, HighDescriptor);
        if (high < 0)
        {
            return (int)local;
        }

        _ = Interop.close((int)local);
        return high;
    }
}
