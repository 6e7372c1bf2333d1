using System.Globalization;

namespace Curling.TestKit.Disks;

/// <summary>
/// Checks what the guest's log writer (<c>curling.disk=log</c>, <c>Guests/disklog.c</c>) left on its filesystem: no record of the log is
/// torn or missing, and all that belongs to a record that is in the log is there, and of the same moment.
/// </summary>
public static class DiskLogCheck
{
    // As in disklog.c.
    private const int Slots = 256;
    private const int SlotBytes = 1024;
    private const int DirectSlots = 64;
    private const int DirectBytes = 4096;
    private const int Files = 200;
    private const int MaxSegments = 8;

    // The records of one batch: what belongs to them may be there before they are in the log.
    private const int Batch = 16;

    /// <summary>Checks the files of the filesystem, taken out of it by <see cref="Ext4Image.ExtractAsync"/>.</summary>
    /// <exception cref="DiskDamageException">Something is not as it must be.</exception>
    public static DiskContent Check(string directory)
    {
        string runPath = Path.Combine(directory, "run");
        if (!File.Exists(runPath))
        {
            throw new DiskDamageException("there is no log on this filesystem: the file run is missing");
        }

        ulong run = BitConverter.ToUInt64(File.ReadAllBytes(runPath));
        DiskContent content = CheckSegments(Path.Combine(directory, "log"), run);
        long last = content.Last;
        CheckSlots(Path.Combine(directory, "inplace"), run, last, every: 2, Slots, SlotBytes);
        CheckSlots(Path.Combine(directory, "direct"), run, last, every: 3, DirectSlots, DirectBytes);
        CheckFiles(Path.Combine(directory, "files"), run, last);
        string replaced = Path.Combine(directory, "replaced");
        if (last >= 25 || File.Exists(replaced))
        {
            long found = Whole(replaced, run).Sequence;
            if (found < last / 25 * 25 || found > last + Batch || found % 25 != 0)
            {
                throw new DiskDamageException($"the file replaced is of record {found}, the log ends at {last}");
            }
        }

        return content;
    }

    private static DiskContent CheckSegments(string directory, ulong run)
    {
        string[] segments = [.. Directory.GetFiles(directory, "*.log").Order(StringComparer.Ordinal)];
        if (segments.Length is 0 or > MaxSegments + 1)
        {
            throw new DiskDamageException($"the log has {segments.Length} segments");
        }

        long first = long.Parse(Path.GetFileNameWithoutExtension(segments[0]), CultureInfo.InvariantCulture);
        long next = first;
        Dictionary<long, string> notes = [];
        foreach (string segment in segments)
        {
            string name = Path.GetFileName(segment);
            if (long.Parse(Path.GetFileNameWithoutExtension(segment), CultureInfo.InvariantCulture) != next)
            {
                throw new DiskDamageException($"segment {name} follows record {next - 1}");
            }

            byte[] bytes = File.ReadAllBytes(segment);
            int at = 0;
            while (at < bytes.Length && DiskRecord.Read(bytes.AsSpan(at)) is { } record && record.Run == run)
            {
                if (record.Sequence != next)
                {
                    throw new DiskDamageException($"segment {name} has record {record.Sequence} at byte {at}, where {next} belongs");
                }

                notes[next++] = record.Note;
                at += record.Bytes;
            }

            if (at < bytes.Length)
            {
                ExpectNothingWhole(bytes, at, name, next, isLast: segment == segments[^1]);
            }
        }

        if (first > 1 && segments.Length < MaxSegments)
        {
            throw new DiskDamageException($"the log begins at record {first}, although only {segments.Length} segments are there");
        }

        return new DiskContent(first, next - 1, notes);
    }

    /// <summary>The end of the last segment may be what was being written; anything else that cannot be read is damage.</summary>
    private static void ExpectNothingWhole(byte[] bytes, int from, string name, long next, bool isLast)
    {
        if (!isLast)
        {
            throw new DiskDamageException($"segment {name} is torn at byte {from}, where record {next} belongs, and others follow it");
        }

        for (int at = from + 8; at < bytes.Length; at += 8)
        {
            if (DiskRecord.Read(bytes.AsSpan(at)) is { } record)
            {
                throw new DiskDamageException(
                    $"segment {name} is torn at byte {from}, where record {next} belongs, and record {record.Sequence} follows it whole");
            }
        }
    }

    private static void CheckSlots(string path, ulong run, long last, int every, int slots, int size)
    {
        string name = Path.GetFileName(path);
        byte[] bytes = File.Exists(path) ? File.ReadAllBytes(path) : [];
        if (bytes.Length != slots * size)
        {
            throw new DiskDamageException($"{name} has {bytes.Length} bytes instead of {slots * size}");
        }

        Dictionary<long, long> wanted = [];
        Dictionary<long, long> early = [];
        for (long n = every; n <= last + Batch; n += every)
        {
            (n <= last ? wanted : early)[n / every % slots] = n;
        }

        for (int slot = 0; slot < slots; slot++)
        {
            // One that belongs to the next batch may be the old one, the new one or half of each.
            if (wanted.TryGetValue(slot, out long sequence) && !early.ContainsKey(slot))
            {
                DiskRecord? found = DiskRecord.Read(bytes.AsSpan(slot * size, size));
                if (found is null || found.Sequence != sequence || found.Run != run)
                {
                    throw new DiskDamageException(
                        $"slot {slot} of {name} holds {(found is null ? "nothing whole" : $"record {found.Sequence}")}, the log ends at {last},"
                        + $" so that it must hold {sequence}");
                }
            }
        }
    }

    private static void CheckFiles(string directory, ulong run, long last)
    {
        HashSet<long> found = [];
        foreach (string path in Directory.GetFiles(directory))
        {
            if (long.TryParse(Path.GetFileName(path), CultureInfo.InvariantCulture, out long n))
            {
                found.Add(n);
                if (n <= last - (last % 10) - Files || n > last + Batch || n % 10 != 0)
                {
                    throw new DiskDamageException($"files/{n} is there, the log ends at {last}");
                }

                if (Whole(path, run).Sequence != n)
                {
                    throw new DiskDamageException($"files/{n} holds another record");
                }
            }
        }

        for (long n = last - (last % 10); n > 0 && n > last - (last % 10) - Files; n -= 10)
        {
            // The next batch may have deleted its own already.
            bool mayBeGone = (n + Files) > last && n + Files <= last + Batch;
            if (!found.Contains(n) && !mayBeGone)
            {
                throw new DiskDamageException($"files/{n} is missing, the log ends at {last}");
            }
        }
    }

    private static DiskRecord Whole(string path, ulong run)
    {
        byte[] bytes = File.Exists(path) ? File.ReadAllBytes(path) : [];
        return DiskRecord.Read(bytes) is { } record && record.Run == run && record.Bytes == bytes.Length
            ? record
            : throw new DiskDamageException($"the file {Path.GetFileName(path)} of {bytes.Length} bytes holds no whole record");
    }
}
