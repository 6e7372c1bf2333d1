using System.Globalization;
using System.Text;
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
    private const int OwnerLength = 40; // two numbers of at most 10 and 20 digits

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

    /// <summary>Creates both directories.</summary>
    /// <exception cref="OperatorException">One cannot be created.</exception>
    public static InstanceDirectory Create(string role)
    {
        string name = NewName(role);
        string runtime = Make(ControlPaths.RuntimeDirectory(), name);
        try
        {
            return new InstanceDirectory(runtime, MemoryPlace.In(place => Make(place, name)));
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
        foreach (string directory in MemoryPlace.All.Where(Directory.Exists).SelectMany(p => Directory.GetDirectories(p, Prefix + "*")))
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

        return kept;
    }

    /// <summary>Takes over a memory directory that <see cref="Kept"/> named, under a name of this process's.</summary>
    /// <returns>Null when another daemon was faster.</returns>
    public static InstanceDirectory? Adopt(string kept, string role)
    {
        string name = NewName(role);
        string memory = Path.Combine(Path.GetDirectoryName(kept)!, name);
        try
        {
            // The lock is the directory's own: who cannot have it is late for this one, never for another. It ends with its process.
            using (FileStream owner = LockOwner(kept))
            {
                if (!IsDead(ReadOwner(owner)))
                {
                    return null;
                }

                // One write of a fixed length: a death at any moment leaves an owner that can be read.
                owner.Position = 0;
                owner.Write(Encoding.ASCII.GetBytes(Owner().PadRight(OwnerLength)));
            }

            Directory.Move(kept, memory);
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

        foreach (string place in (ReadOnlySpan<string>)[ControlPaths.RuntimeDirectory(), .. MemoryPlace.All])
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

        MemoryPlace.UnmountIfEmpty();
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

    private static void WriteOwner(string directory) => File.WriteAllText(Path.Combine(directory, OwnerFile), Owner().PadRight(OwnerLength));

    private static string Owner() => string.Create(
        CultureInfo.InvariantCulture, $"{Environment.ProcessId} {ProcessInfo.StartTime(Environment.ProcessId) ?? 0}");

    private static bool IsAbandoned(string directory)
    {
        try
        {
            using FileStream owner = new(Path.Combine(directory, OwnerFile), FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
            return IsDead(ReadOwner(owner));
        }
        catch (FileNotFoundException)
        {
            return false;
        }
    }

    private static FileStream LockOwner(string directory)
    {
        // Others only look at it for a moment, or adopt it: the latter shows in what it says afterwards.
        for (int left = 200; ; left--)
        {
            try
            {
                return new FileStream(
                    Path.Combine(directory, OwnerFile), FileMode.Open, FileAccess.ReadWrite, FileShare.None, bufferSize: 0);
            }
            catch (IOException e) when (e is not (FileNotFoundException or DirectoryNotFoundException) && left > 0)
            {
                Thread.Sleep(5);
            }
        }
    }

    private static string ReadOwner(FileStream file)
    {
        byte[] bytes = new byte[OwnerLength];
        return Encoding.ASCII.GetString(bytes, 0, file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false));
    }

    private static bool IsDead(string text)
    {
        string[] owner = text.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return owner.Length == 2
            && int.TryParse(owner[0], CultureInfo.InvariantCulture, out int pid)
            && ulong.TryParse(owner[1], CultureInfo.InvariantCulture, out ulong start)
            && (!ProcessInfo.Exists(pid) || ProcessInfo.StartTime(pid) != start);
    }
}
