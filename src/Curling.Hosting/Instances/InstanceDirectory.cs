using System.Globalization;
using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.Linux.Processes;

namespace Curling.Hosting.Instances;

/// <summary>
/// The files of one guest on one host: sockets and logs in the runtime directory, guest memory and rounds in the memory
/// filesystem. Disposing deletes both; what a killed daemon left, the next one's <see cref="RemoveAbandoned"/> deletes.
/// </summary>
/// <remarks>Each of the two directories names its owner (process and start time), so that only dead owners' are deleted.</remarks>
public sealed class InstanceDirectory : IDisposable
{
    private const string Prefix = "curling-";
    private const string OwnerFile = "owner";
    private const string AdoptionLock = ".curling-adoption";

    /// <summary>A file of this name in a memory directory says that a later daemon may want it: it is not cleared away.</summary>
    public const string KeepFile = "session";

    private InstanceDirectory(string runtime, string memory)
    {
        RuntimePath = runtime;
        MemoryPath = memory;
    }

    /// <summary>For sockets and logs; short enough for a socket's path.</summary>
    public string RuntimePath { get; }

    /// <summary>For guest memory and rounds.</summary>
    public string MemoryPath { get; }

    /// <summary>The memory filesystem: <c>/dev/shm</c>, or what <c>CURLING_SHM</c> says.</summary>
    public static string MemoryBase =>
        Environment.GetEnvironmentVariable("CURLING_SHM") is { Length: > 0 } given ? given : "/dev/shm";

    /// <summary>Creates both directories.</summary>
    /// <exception cref="OperatorException">One cannot be created.</exception>
    public static InstanceDirectory Create(string role)
    {
        string name = NewName(role);
        string runtime = Make(ControlPaths.RuntimeDirectory(), name);
        try
        {
            return new InstanceDirectory(runtime, Make(MemoryBase, name));
        }
        catch
        {
            Directory.Delete(runtime, recursive: true);
            throw;
        }
    }

    /// <summary>
    /// Memory directories that dead daemons left for a later one (<see cref="KeepFile"/>); <see cref="Adopt"/> takes one over.
    /// </summary>
    public static IReadOnlyList<string> Kept()
    {
        List<string> kept = [];
        if (Directory.Exists(MemoryBase))
        {
            foreach (string directory in Directory.GetDirectories(MemoryBase, Prefix + "*"))
            {
                try
                {
                    if (File.Exists(Path.Combine(directory, KeepFile)) && IsAbandoned(directory))
                    {
                        kept.Add(directory);
                    }
                }
                catch (Exception e) when (e is IOException or UnauthorizedAccessException)
                {
                    // Somebody else's.
                }
            }
        }

        return kept;
    }

    /// <summary>Takes over a memory directory that <see cref="Kept"/> named, under a name of this process's.</summary>
    /// <returns>Null when another daemon was faster.</returns>
    public static InstanceDirectory? Adopt(string kept, string role)
    {
        string name = NewName(role);
        string memory = Path.Combine(MemoryBase, name);
        try
        {
            // One at a time: between the move and the new owner's mark the directory still looks like a dead one's.
            using FileStream turn = new(
                Path.Combine(MemoryBase, AdoptionLock), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None, 1, FileOptions.DeleteOnClose);
            if (!Directory.Exists(kept) || !IsAbandoned(kept))
            {
                return null;
            }

            Directory.Move(kept, memory);
            WriteOwner(memory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }

        return new InstanceDirectory(Make(ControlPaths.RuntimeDirectory(), name), memory);
    }

    /// <summary>Deletes the runtime directory and leaves the memory directory to a later daemon.</summary>
    public void Leave()
    {
        try
        {
            Directory.Delete(RuntimePath, recursive: true);
        }
        catch (DirectoryNotFoundException)
        {
            // Gone already.
        }
    }

    /// <summary>The path of a socket.</summary>
    public string Socket(string name) => Path.Combine(RuntimePath, name + ".sock");

    /// <summary>Deletes what dead daemons of this user left behind.</summary>
    /// <returns>How many directories and control sockets were deleted.</returns>
    public static int RemoveAbandoned()
    {
        int removed = 0;
        foreach (string socket in Directory.GetFiles(ControlPaths.RuntimeDirectory(), "*.sock").Where(s => !ControlServer.Answers(s)))
        {
            File.Delete(socket);
            removed++;
        }

        foreach (string place in (ReadOnlySpan<string>)[ControlPaths.RuntimeDirectory(), MemoryBase])
        {
            if (!Directory.Exists(place))
            {
                continue;
            }

            foreach (string directory in Directory.GetDirectories(place, Prefix + "*"))
            {
                try
                {
                    if (IsAbandoned(directory) && !File.Exists(Path.Combine(directory, KeepFile)))
                    {
                        Directory.Delete(directory, recursive: true);
                        removed++;
                    }
                }
                catch (Exception e) when (e is IOException or UnauthorizedAccessException)
                {
                    // Somebody else's, or another daemon was faster.
                }
            }
        }

        return removed;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (string path in (ReadOnlySpan<string>)[RuntimePath, MemoryPath])
        {
            try
            {
                Directory.Delete(path, recursive: true);
            }
            catch (DirectoryNotFoundException)
            {
                // Gone already.
            }
        }
    }

    private static string Make(string place, string name)
    {
        // The owner is written under a name that nobody clears away, so that a directory never stands without one.
        string hidden = Path.Combine(place, "." + name);
        string path = Path.Combine(place, name);
        try
        {
            Directory.CreateDirectory(hidden, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            WriteOwner(hidden);
            Directory.Move(hidden, path);
            return path;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new OperatorException($"{path} cannot be created: {e.Message}");
        }
    }

    private static string NewName(string role) => $"{Prefix}{role}-{Environment.ProcessId}-{Guid.NewGuid().ToString("N")[..8]}";

    private static void WriteOwner(string directory)
    {
        ulong start = ProcessInfo.StartTime(Environment.ProcessId) ?? 0;
        File.WriteAllText(
            Path.Combine(directory, OwnerFile), string.Create(CultureInfo.InvariantCulture, $"{Environment.ProcessId} {start}"));
    }

    private static bool IsAbandoned(string directory)
    {
        string[] owner = File.Exists(Path.Combine(directory, OwnerFile))
            ? File.ReadAllText(Path.Combine(directory, OwnerFile)).Split(' ')
            : [];
        return owner.Length == 2
            && int.TryParse(owner[0], CultureInfo.InvariantCulture, out int pid)
            && ulong.TryParse(owner[1], CultureInfo.InvariantCulture, out ulong start)
            && (!ProcessInfo.Exists(pid) || ProcessInfo.StartTime(pid) != start);
    }
}
