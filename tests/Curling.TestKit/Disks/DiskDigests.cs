using System.Globalization;

namespace Curling.TestKit.Disks;

/// <summary>
/// What a pair of daemons wrote of its disks with <c>--test-disk-digests</c>: the sender at each cut, with the guest standing still, the
/// receiver at each commit of a round that a guest can be started from, and before a promoted guest runs.
/// </summary>
/// <param name="directory">Where the files are.</param>
public sealed class DiskDigests(string directory)
{
    private const string Option = "--test-disk-digests";
    private readonly string _primary = Path.Combine(directory, "cut-digests");
    private readonly string _standby = Path.Combine(directory, "replica-digests");

    /// <summary>For the sender.</summary>
    public IReadOnlyList<string> SenderOptions => [Option, _primary];

    /// <summary>For the receiver.</summary>
    public IReadOnlyList<string> ReceiverOptions => [Option, _standby];

    /// <summary>Fails unless each replica was, at each commit and at the promotion, what the primary's disk was at the cut of that round.</summary>
    /// <param name="promoted">The round that the guest was promoted from; null when it was not.</param>
    /// <returns>How many rounds were compared.</returns>
    /// <exception cref="DiskDamageException">One was not, or there is nothing to compare.</exception>
    public int MustAgree(long? promoted)
    {
        Dictionary<(long Round, int Disk), string> cuts = [];
        foreach ((_, long round, int disk, string digest) in Read(_primary))
        {
            // A round that came to nothing may be cut again: what travels is the last.
            cuts[(round, disk)] = digest;
        }

        HashSet<long> rounds = [];
        bool isPromoted = false;
        foreach ((string when, long round, int disk, string digest) in Read(_standby))
        {
            if (!cuts.TryGetValue((round, disk), out string? cut) || cut != digest)
            {
                string other = cuts.Where(c => c.Key.Disk == disk && c.Value == digest).Select(c => $"; that was the disk at round {c.Key.Round}").LastOrDefault() ?? "";
                throw new DiskDamageException($"at the {when} of round {round} replica {disk} was {digest}, the disk at its cut {cut}{other}");
            }

            rounds.Add(round);
            isPromoted |= when == "promote" && round == promoted;
        }

        return rounds.Count == 0 || (promoted is not null && !isPromoted)
            ? throw new DiskDamageException($"nothing was noted of the replica at round {promoted}")
            : rounds.Count;
    }

    private static IEnumerable<(string When, long Round, int Disk, string Digest)> Read(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(stream);
        while (reader.ReadLine() is { } line)
        {
            string[] words = line.Split(' ');
            yield return (words[0], long.Parse(words[1], CultureInfo.InvariantCulture), int.Parse(words[2], CultureInfo.InvariantCulture), words[3]);
        }
    }
}
