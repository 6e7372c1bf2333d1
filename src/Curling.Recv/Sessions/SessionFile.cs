using System.Globalization;
using System.Text;
using Curling.Hosting.Instances;
using Curling.Hosting.Options;
using Curling.Protocol;

namespace Curling.Recv.Sessions;

/// <summary>
/// What a later receiver has to know of a session to take it up again: one line (version, address listened on, prefetch limit),
/// then the sender's greeting as it came.
/// </summary>
internal sealed record SessionFile(string Listen, long MaxRoundBytes, Hello Hello)
{
    private const string Version = "curling-session-1";

    /// <summary>Writes the file, whole or not at all.</summary>
    public void Write(string directory)
    {
        string path = Path.Combine(directory, InstanceDirectory.KeepFile);
        using (FileStream stream = File.Create(path + ".new"))
        {
            stream.Write(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{Version} {Listen} {MaxRoundBytes}\n")));
            stream.Write(Handshake.Write(Hello));
        }

        File.Move(path + ".new", path, overwrite: true);
    }

    /// <summary>From now on nobody takes the session up any more.</summary>
    public static void Delete(string directory) => File.Delete(Path.Combine(directory, InstanceDirectory.KeepFile));

    /// <summary>Reads the file.</summary>
    /// <exception cref="IOException">It cannot be read, or is not such a file.</exception>
    public static SessionFile Read(string directory)
    {
        string path = Path.Combine(directory, InstanceDirectory.KeepFile);
        if (new FileInfo(path).Length > ProtocolLimits.MaxHandshakePayload + 1024)
        {
            throw new IOException($"{path} is too long to be a session");
        }

        byte[] bytes = File.ReadAllBytes(path);
        int end = Array.IndexOf(bytes, (byte)'\n');
        string[] words = end < 0 ? [] : Encoding.UTF8.GetString(bytes, 0, end).Split(' ');
        if (words.Length != 3 || words[0] != Version
            || !long.TryParse(words[2], NumberStyles.None, CultureInfo.InvariantCulture, out long max) || max is < 1 or > 1L << 44)
        {
            throw new IOException($"{path} is not a session of this version");
        }

        try
        {
            return new SessionFile(words[1], max, Handshake.ReadHello(bytes.AsSpan(end + 1)));
        }
        catch (ProtocolException e)
        {
            throw new IOException($"{path} is damaged: {e.Message}", e);
        }
    }
}
