using System.Numerics;
using System.Runtime.InteropServices;
using Curling.Linux.Memory;
using Curling.Linux.Storage;

namespace Curling.Storage.Tracking;

/// <summary>
/// The file beside an image that says which regions are not known to be at the replica, so that a sender that was killed and started again
/// sends only those.
/// </summary>
/// <remarks>
/// <para>The file is mapped: marking a region is a store to memory that outlives the process. It does not outlive the host: after a reboot
/// the map is not trusted, and <see cref="Distrust"/> says so.</para>
/// <para>Two records (<see cref="ChangeMapRecord"/>), written in turn so that one is always whole, then a bit for each region: 64 KiB, or
/// as much more as keeps the bits within 2 MiB (from 1 TiB on). All of the file is allocated when it is made, so that no store meets a full
/// filesystem.</para>
/// <para>Not thread-safe: the tracker uses it under its lock.</para>
/// </remarks>
public sealed class ChangeMap : IDisposable
{
    private const int HeaderBytes = 2 * ChangeMapRecord.Bytes;
    private const long MaxBitmapBytes = 2 << 20;
    private const int SmallestRegion = 64 << 10;

    // The sender looks at the image every second; its clock and that of a filesystem may be this far apart.
    private static readonly long SeenSlack = (long)TimeSpan.FromSeconds(5).TotalNanoseconds;
    private readonly SharedMapping _mapping;
    private readonly ImageFile _lockedFile;
    private readonly int _regionShift;
    private readonly int _bitmapBytes;
    private long _sequence;

    private ChangeMap(
        string path, ImageFile lockedFile, SharedMapping mapping, ChangeMapRecord record, long sequence, string? distrust)
    {
        Path = path;
        _lockedFile = lockedFile;
        _mapping = mapping;
        _sequence = sequence;
        Record = record;
        Distrust = distrust;
        _regionShift = BitOperations.Log2((uint)record.RegionBytes);
        _bitmapBytes = BitmapBytes(record.DiskLength, record.RegionBytes);
    }

    /// <summary>What the map says about itself.</summary>
    public ChangeMapRecord Record { get; private set; }

    /// <summary>Why the map cannot say what the replica has, for people; null when it can.</summary>
    public string? Distrust { get; private set; }

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>Blocks in a region.</summary>
    internal int RegionBlocks => 1 << (_regionShift - 12);

    /// <summary>Regions of the disk.</summary>
    internal long Regions => ((Record.DiskLength - 1) >> _regionShift) + 1;

    private Span<ulong> Bits => MemoryMarshal.Cast<byte, ulong>(_mapping.Span(HeaderBytes, _bitmapBytes));

    /// <summary>Opens the map of a disk; where there is none, or it cannot be trusted, a new one takes its place that says why.</summary>
    /// <param name="path">The file, by custom the image's path and <c>.curling-map</c>.</param>
    /// <param name="diskLength">The disk's size in bytes.</param>
    /// <param name="historyId">The disk's history.</param>
    /// <param name="bootId">This start of the kernel (<see cref="DurableFiles.BootId"/>).</param>
    /// <param name="image">The image as it was before it was opened; null where nobody else can change it.</param>
    /// <exception cref="DiskException">The file can neither be used nor made.</exception>
    public static ChangeMap Open(string path, long diskLength, Guid historyId, Guid bootId, FileStamp? image = null)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(diskLength);
        SharedMapping? mapping = null;
        ImageFile? locked = null;
        try
        {
            string distrust = "there is no map of its changes yet";
            if (File.Exists(path))
            {
                locked = Lock(path);
                string? problem = TryOpen(path, diskLength, historyId, bootId, out mapping, out ChangeMapRecord? record, out long sequence)
                    ?? WhyChanged(record!, image);
                if (problem is null)
                {
                    ChangeMap map = new(path, locked, mapping!, record!, sequence, record!.ReplicaId == Guid.Empty ? "no copy was begun" : null);
                    map.See(image);
                    return map;
                }

                mapping?.Dispose();
                mapping = null;
                distrust = $"the map of its changes, {path}, cannot be used: {problem}";
            }

            using (locked)
            {
                return Create(path, diskLength, historyId, bootId, distrust, image);
            }
        }
        catch (Exception e) when (e is MemoryFileException or IOException or UnauthorizedAccessException)
        {
            mapping?.Dispose();
            locked?.Dispose();
            throw new DiskException(DiskError.Io, $"{path}: cannot use or make the map of a disk's changes: {e.Message}", e);
        }
    }

    /// <summary>The history that a map follows, also one that is not to be trusted otherwise; null when there is no map.</summary>
    public static Guid? ReadHistory(string path)
    {
        if (!File.Exists(path))
        {
            return null;
        }

        byte[] header = new byte[HeaderBytes];
        using (FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0))
        {
            _ = file.ReadAtLeast(header, header.Length, throwOnEndOfStream: false);
        }

        ChangeMapRecord? one = ChangeMapRecord.Read(header.AsSpan(0, ChangeMapRecord.Bytes), out long first, out _);
        ChangeMapRecord? two = ChangeMapRecord.Read(header.AsSpan(ChangeMapRecord.Bytes), out long second, out _);
        return (two is not null && (one is null || second > first) ? two : one)?.HistoryId;
    }

    /// <summary>Notes how the image looks while its changes are followed here; what it looked like before counts where it cannot be seen.</summary>
    internal void See(FileStamp? image)
    {
        if ((image ?? Record.Image) is { } stamp)
        {
            Set(Record with { Image = stamp, SeenAt = (DateTime.UtcNow - DateTime.UnixEpoch).Ticks * 100 }, Distrust);
        }
    }

    /// <summary>Notes how the image was left: from now on nobody changes it.</summary>
    internal void SeeLast(FileStamp? image) => Set(Record with { Image = image, SeenAt = 0 }, Distrust);

    /// <summary>What a disk of a size gets as its region, in bytes.</summary>
    internal static int RegionFor(long diskLength)
    {
        int region = SmallestRegion;
        while (((diskLength - 1) / region) + 1 > MaxBitmapBytes * 8 && region < 1 << 30)
        {
            region <<= 1;
        }

        return region;
    }

    /// <summary>Marks the regions of a range of blocks; costs a look where they are marked already.</summary>
    internal void Mark(long firstBlock, long endBlock)
    {
        Span<ulong> bits = Bits;
        int shift = _regionShift - 12;
        long last = (endBlock - 1) >> shift;
        for (long region = firstBlock >> shift; region <= last; region = (region | 63) + 1)
        {
            ulong mask = ulong.MaxValue << (int)(region & 63);
            if ((region | 63) > last)
            {
                mask &= ulong.MaxValue >> (63 - (int)(last & 63));
            }

            ref ulong word = ref bits[(int)(region >> 6)];
            if ((word & mask) != mask)
            {
                word |= mask;
            }
        }
    }

    /// <summary>A region is at the replica as it is here.</summary>
    internal void Clear(long region) => Bits[(int)(region >> 6)] &= ~(1UL << (int)(region & 63));

    /// <summary>No region is marked any more.</summary>
    internal void ClearAll() => Bits.Clear();

    /// <summary>Whether a region is marked.</summary>
    internal bool IsMarked(long region) => (Bits[(int)(region >> 6)] & (1UL << (int)(region & 63))) != 0;

    /// <summary>The first marked region from one on; -1 when there is none.</summary>
    internal long NextMarked(long region)
    {
        Span<ulong> bits = Bits;
        for (; region < Regions; region = (region | 63) + 1)
        {
            ulong rest = bits[(int)(region >> 6)] >> (int)(region & 63);
            if (rest != 0)
            {
                region += BitOperations.TrailingZeroCount(rest);
                return region < Regions ? region : -1;
            }
        }

        return -1;
    }

    /// <summary>Writes another record. A crash in between leaves the one before.</summary>
    internal void Set(ChangeMapRecord record, string? distrust)
    {
        record.Write(_mapping.Span(++_sequence % 2 * ChangeMapRecord.Bytes, ChangeMapRecord.Bytes), _sequence);
        Record = record;
        Distrust = distrust;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _mapping.Dispose();
        _lockedFile.Dispose();
    }

    /// <summary>Keeps the map from a second process, as an image that is only read has as many users as want it.</summary>
    private static ImageFile Lock(string path)
    {
        ImageFile file = ImageFile.Open(path, readOnly: false);
        try
        {
            file.Lock(forWriting: true);
            return file;
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>Why an image is not, or need not be, as the sender before this one left it; null when it is.</summary>
    private static string? WhyChanged(ChangeMapRecord record, FileStamp? found)
    {
        if (found is not { } now)
        {
            return null;
        }

        return record.Image switch
        {
            null => "it does not say what the image looked like",
            { } seen when seen.Device != now.Device || seen.Inode != now.Inode || seen.IsBlockDevice != now.IsBlockDevice =>
                "the image is another file than it was",
            { IsBlockDevice: true } when record.SeenAt == 0 => "nobody can tell whether a block device was written to while no sender had it open",
            { } seen when record.SeenAt == 0 && seen != now => "the image was changed while no sender had it open",
            _ when record.SeenAt != 0 && now.ChangedAt > record.SeenAt + SeenSlack => "the image was changed after its sender had ended",
            _ => null,
        };
    }

    private static int BitmapBytes(long diskLength, int regionBytes) =>
        (int)(((((diskLength - 1) / regionBytes) >> 15) + 1) * 4096); // whole pages

    private static string? TryOpen(
        string path, long diskLength, Guid historyId, Guid bootId, out SharedMapping? mapping, out ChangeMapRecord? record, out long sequence)
    {
        mapping = null;
        record = null;
        sequence = 0;
        int region = RegionFor(diskLength);
        long expected = HeaderBytes + BitmapBytes(diskLength, region);
        if (new FileInfo(path).Length is long length && length < HeaderBytes)
        {
            return $"it has {length} bytes, which is less than its header";
        }

        mapping = SharedMapping.Open(path, writable: true);
        ChangeMapRecord? one = ChangeMapRecord.Read(mapping.Span(0, ChangeMapRecord.Bytes), out long first, out string? problem);
        ChangeMapRecord? two = ChangeMapRecord.Read(
            mapping.Span(ChangeMapRecord.Bytes, ChangeMapRecord.Bytes), out long second, out string? otherProblem);
        bool useSecond = two is not null && (one is null || second > first);
        record = useSecond ? two : one;
        sequence = useSecond ? second : first;
        return record switch
        {
            null => first == 0 && otherProblem == "its checksum is wrong" ? otherProblem : problem,
            _ when record.DiskLength != diskLength => $"it is of a disk of {record.DiskLength} bytes, this one has {diskLength}",
            _ when record.RegionBytes != region || mapping.Length != expected => $"it has {mapping.Length} bytes instead of {expected}",
            _ when record.HistoryId != historyId => "it belongs to another history of the disk",
            _ when record.BootId != bootId => "the host was started anew since, and it need not have reached the disk before",
            _ => null,
        };
    }

    private static ChangeMap Create(string path, long diskLength, Guid historyId, Guid bootId, string distrust, FileStamp? image)
    {
        int region = RegionFor(diskLength);
        string made = path + ".new";
        File.Delete(made);
        SharedMapping mapping = SharedMapping.CreateSparse(made, HeaderBytes + BitmapBytes(diskLength, region));
        ImageFile? locked = null;
        try
        {
            mapping.Reserve(0, mapping.Length);
            locked = Lock(made);
            ChangeMap map = new(
                path, locked, mapping, new ChangeMapRecord(diskLength, region, historyId, default, default, 0, default, bootId), 0, distrust);
            map.Set(map.Record, distrust);
            map.See(image);
            File.Move(made, path, overwrite: true);
            return map;
        }
        catch
        {
            locked?.Dispose();
            mapping.Dispose();
            File.Delete(made);
            throw;
        }
    }
}
