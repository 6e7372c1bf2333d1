using System.Globalization;
using Curling.Hosting.Control;
using Curling.Hosting.Options;

namespace Curling.Recv.Sessions;

/// <summary>
/// Remembers, across restarts of the daemon and of its host, the highest generation of each guest that this receiver has seen: a sender of a lower
/// one is a copy that was left behind, and must stop.
/// </summary>
/// <remarks>Thread-safe. One file for each guest, in the state directory; nothing is kept for a port that the system chose.</remarks>
internal sealed class Generations(Endpoint listen)
{
    private readonly Lock _lock = new();
    private readonly string? _directory = listen.Port == 0 ? null : Path.Combine(StateDirectory(), $"{Clean(listen.Host)}-{listen.Port}");

    /// <summary>Where daemons keep what outlives them: <c>CURLING_STATE</c>, beside <c>CURLING_RUNTIME</c> where that is set, or the system's place.</summary>
    public static string StateDirectory() =>
        Environment.GetEnvironmentVariable("CURLING_STATE") is { Length: > 0 } given ? given
            : Environment.GetEnvironmentVariable("CURLING_RUNTIME") is { Length: > 0 } ? Path.Combine(ControlPaths.RuntimeDirectory(), "state")
            : Environment.IsPrivilegedProcess ? "/var/lib/curling"
            : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData), "curling");

    /// <summary>The highest generation seen; 0 when the guest is not known.</summary>
    /// <exception cref="OperatorException">What was kept cannot be read.</exception>
    public long Of(string guest)
    {
        if (_directory is null)
        {
            return 0;
        }

        string path = PathOf(guest);
        try
        {
            string text = File.ReadAllText(path);
            return long.TryParse(text.AsSpan().TrimEnd(), NumberStyles.None, CultureInfo.InvariantCulture, out long generation)
                ? generation
                : throw new OperatorException($"{path} does not hold a generation; if the guest runs nowhere, delete it");
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            return 0;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new OperatorException($"{path} cannot be read: {e.Message}");
        }
    }

    /// <summary>Notes a generation, whole or not at all, unless a higher one is known.</summary>
    /// <exception cref="OperatorException">It cannot be written.</exception>
    public void Note(string guest, long generation)
    {
        if (_directory is null)
        {
            return;
        }

        lock (_lock)
        {
            if (Of(guest) >= generation)
            {
                return;
            }

            string path = PathOf(guest);
            try
            {
                Directory.CreateDirectory(_directory);
                using (FileStream stream = File.Create(path + ".new"))
                {
                    stream.Write(System.Text.Encoding.ASCII.GetBytes(generation.ToString(CultureInfo.InvariantCulture) + "\n"));
                    stream.Flush(flushToDisk: true);
                }

                File.Move(path + ".new", path, overwrite: true);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new OperatorException(
                    $"the generation of {guest} cannot be kept: {e.Message}; set CURLING_STATE to a directory that can be written");
            }
        }
    }

    /// <summary>Forgets a guest: its next sender may have any generation.</summary>
    /// <returns>Whether anything was known.</returns>
    public bool Forget(string guest)
    {
        if (_directory is null || !File.Exists(PathOf(guest)))
        {
            return false;
        }

        File.Delete(PathOf(guest));
        return true;
    }

    private static string Clean(string text) => string.Concat(text.Select(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '_' ? c : '-'));

    // A guest's name has only characters that a file's may have, and no slash.
    private string PathOf(string guest) => Path.Combine(_directory!, guest + ".generation");
}
