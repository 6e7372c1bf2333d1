using Curling.Hosting.Options;
using Curling.Linux.Memory;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Instances;

/// <summary>
/// Where guest memory and rounds are kept: what <c>CURLING_SHM</c> says; else a memory filesystem of Curling's own with large
/// pages, which is mounted when a daemon needs it and unmounted by the last one to leave; else, where it cannot be mounted or would gain nothing,
/// <c>/dev/shm</c>.
/// </summary>
/// <remarks>
/// Daemons of one host share the place. Who makes something in it, and who unmounts it, holds a lock that ends with its process. A place
/// that a killed daemon left is used by the next one. <c>/dev/shm</c> is used as well when it was itself mounted with large pages.
/// </remarks>
public static partial class MemoryPlace
{
    private const string Parent = "/run/curling";
    private const string Own = Parent + "/memory";
    private const string Shared = "/dev/shm";
    private const string LockFile = Parent + "/memory.lock";
    private const int LockAttempts = 1000; // of 5 ms

    private static string? Given => Environment.GetEnvironmentVariable("CURLING_SHM") is { Length: > 0 } given ? given : null;

    /// <summary>All places where directories of this host's daemons may be.</summary>
    public static IReadOnlyList<string> All => Given is { } given ? [given] : [Own, Shared];

    /// <summary>What asks whether large pages are in vain here; tests say that they are not.</summary>
    internal static Func<bool> FreeMemoryIsGivenBack { get; set; } = MemoryFilesystem.FreeMemoryIsGivenBack;

    // Decided once: files of one daemon are linked to each other, which they cannot be across filesystems.
    private static volatile string? _chosen;
    private static string? _why; // of the place that was chosen, when it is not Curling's own

    /// <summary>Makes something in the place; nobody unmounts it meanwhile.</summary>
    /// <param name="create">Is given the directory.</param>
    /// <exception cref="OperatorException">The place cannot be used any more.</exception>
    public static T In<T>(Func<string, T> create)
    {
        if (Given is { } given)
        {
            return create(given);
        }

        using FileStream? held = HoldOwn();
        return create(held is null ? Shared : Own);
    }

    /// <summary>
    /// Unmounts Curling's own filesystem when nothing is in it; call it after something was deleted. One that the host's administrator mounted
    /// at its place stays.
    /// </summary>
    public static void UnmountIfEmpty()
    {
        if (Given is not null || !Environment.IsPrivilegedProcess || !File.Exists(LockFile))
        {
            return;
        }

        try
        {
            using FileStream held = Lock();
            if (MemoryFilesystem.IsOurs(Own) && !Directory.EnumerateFileSystemEntries(Own).Any())
            {
                _ = MemoryFilesystem.Unmount(Own);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // An empty filesystem stays; the next daemon uses it.
        }
    }

    /// <summary>Tells the log where memory is kept and why, after something was made in it.</summary>
    public static void Report(ILogger log) =>
        Log.Kept(log, Given ?? _chosen ?? Shared, Given is not null ? "CURLING_SHM says so" : _chosen == Own ? "it makes large pages" : _why ?? "");

    private static FileStream? HoldOwn()
    {
        if (_chosen == Shared)
        {
            return null;
        }

        FileStream? held = null;
        try
        {
            string? against = Against();
            if (against is null)
            {
                Directory.CreateDirectory(Parent, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
                held = Lock();
                against = Mount();
            }

            if (against is null)
            {
                _chosen = Own;
                return held;
            }

            _why = against;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _why = e.Message;
        }

        held?.Dispose();
        if (_chosen == Own)
        {
            throw new OperatorException($"{Own} cannot be used any more: {_why}");
        }

        _chosen = Shared;
        return null;
    }

    private static string? Against() =>
        !Environment.IsPrivilegedProcess ? "only root can mount a memory filesystem with large pages"
        : MemoryFilesystem.HasLargePages(Shared) ? "it was mounted with large pages"
        : FreeMemoryIsGivenBack() ? "this machine gives free memory back to its own host and would fetch each large page from there"
        : null;

    private static string? Mount()
    {
        if (!MemoryFilesystem.HasLargePages(Own))
        {
            if (!MemoryFilesystem.IsInMountsOfHost())
            {
                // It would end with this process, and with it what a receiver keeps for the next one.
                return $"this process has mounts of its own, and {Own} is not among them";
            }

            Directory.CreateDirectory(Own);
            MemoryFilesystem.Mount(Own, new DriveInfo(Shared).TotalSize);
        }

        return null;
    }

    private static FileStream Lock()
    {
        for (int left = LockAttempts; ; left--)
        {
            try
            {
                return new FileStream(LockFile, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, bufferSize: 0);
            }
            catch (IOException e) when (e is not (FileNotFoundException or DirectoryNotFoundException) && left > 0)
            {
                Thread.Sleep(5);
            }
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "MemoryPlace", Level = LogLevel.Debug, Message = "Guest memory and rounds are kept in {Place}: {Why}")]
        public static partial void Kept(ILogger log, string place, string why);
    }
}
