using Curling.Linux.Storage;
using Curling.Storage.Tracking;

namespace Curling.Storage.Tests.Tracking;

public sealed class ChangeMapTests : IDisposable
{
    private const long Length = 16 << 20;
    private static readonly Guid Replica = Guid.NewGuid();
    private static readonly Guid Session = Guid.NewGuid();
    private readonly TemporaryDirectory _directory = new();

    private string FilePath => _directory["disk.img.curling-map"];

    public void Dispose() => _directory.Dispose();

    [Fact]
    public async Task What_was_not_committed_is_found_by_the_next_process()
    {
        MemoryBackend image = new(Length);
        TrackedDisk disk = await BegunAsync(image);
        await disk.WriteAsync(0, new byte[4096], default);
        await ReadAsync(disk.Cut(1, 0));
        await disk.WriteAsync(1 << 20, new byte[4096], default);
        await ReadAsync(disk.Cut(2, 0));
        await disk.WriteAsync(2 << 20, new byte[4096], default);
        await disk.WriteAsync(8192, new byte[4096], default); // of the first round's region, and newer
        await disk.WriteAsync(3 << 20, new byte[4096], default);
        disk.Committed(1);
        await disk.DisposeAsync();

        await using TrackedDisk next = Open(image);
        (ChangeMapRecord record, string? distrust) = next.Map;
        Assert.Null(distrust);
        Assert.Equal((Replica, Session, 1L), (record.ReplicaId, record.KnownSession, record.KnownRound));
        Assert.Equal(4 * 65536, next.OutstandingBytes);
    }

    [Fact]
    public async Task A_region_is_clear_when_nothing_newer_touches_it()
    {
        MemoryBackend image = new(Length);
        TrackedDisk disk = await BegunAsync(image);
        for (int round = 1; round <= 5; round++)
        {
            await disk.WriteAsync(round << 20, new byte[4096], default);
            await ReadAsync(disk.Cut(round, 0));
        }

        disk.Committed(5); // and so all before
        await disk.DisposeAsync();
        await using TrackedDisk next = Open(image);
        Assert.Equal(0, next.OutstandingBytes);
    }

    [Fact]
    public async Task A_process_that_dies_while_it_begins_a_copy_leaves_a_map_that_knows_nothing()
    {
        MemoryBackend image = new(Length);
        TrackedDisk disk = Open(image);
        image.Before = (_, _, _) => throw new DiskException(DiskError.Io, "the process ends here");
        await Assert.ThrowsAsync<DiskException>(() => disk.BeginBaseCopyAsync(Replica, Session, true, default));
        image.Before = null;
        await disk.DisposeAsync();
        await using TrackedDisk next = Open(image);
        Assert.Contains("no copy was begun", next.Map.Distrust, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(() => next.BeginResync(Session, default, 0));
    }

    [Theory]
    [InlineData("reboot", "started anew")]
    [InlineData("history", "another history")]
    [InlineData("length", "a disk of")]
    [InlineData("truncated", "bytes")]
    [InlineData("short", "less than its header")]
    [InlineData("foreign", "not a change map")]
    [InlineData("damaged", "checksum")]
    [InlineData("version", "version 9")]
    public async Task A_map_that_cannot_be_trusted_says_why(string what, string why)
    {
        await (await BegunAsync(new MemoryBackend(Length))).DisposeAsync();
        byte[] bytes = File.ReadAllBytes(FilePath);
        switch (what)
        {
            case "truncated":
                File.WriteAllBytes(FilePath, bytes[..^4096]);
                break;
            case "short":
                File.WriteAllBytes(FilePath, bytes[..100]);
                break;
            case "foreign":
                File.WriteAllBytes(FilePath, [.. "a letter"u8, .. new byte[20_000]]);
                break;
            case "damaged":
                bytes[20] ^= 1;
                bytes[4096 + 20] ^= 1;
                File.WriteAllBytes(FilePath, bytes);
                break;
            case "version":
                bytes[8] = bytes[4096 + 8] = 9;
                File.WriteAllBytes(FilePath, bytes);
                break;
        }

        using ChangeMap map = ChangeMap.Open(
            FilePath,
            what == "length" ? Length * 2 : Length,
            what == "history" ? Guid.NewGuid() : DiskModel.History,
            what == "reboot" ? Guid.NewGuid() : DiskModel.Boot);
        Assert.Contains(why, map.Distrust, StringComparison.Ordinal);

        // The new one in its place is whole, and knows of no copy.
        map.Dispose();
        if (what is not ("length" or "history" or "reboot"))
        {
            using ChangeMap again = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot);
            Assert.Equal("no copy was begun", again.Distrust);
        }
    }

    [Theory]
    [InlineData("nothing", true, true)]
    [InlineData("nothing", false, true)]
    [InlineData("put back", true, false)]
    [InlineData("put back", false, false)]
    [InlineData("link", true, false)]
    [InlineData("link", false, false)]
    [InlineData("at once", true, false)]
    [InlineData("later", false, false)]
    public async Task An_image_that_others_changed_is_copied_whole(string what, bool closed, bool trusted)
    {
        string path = _directory["disk.img"];
        string target = what == "link" ? _directory["target.img"] : path;
        File.WriteAllBytes(target, new byte[Length]);
        if (what == "link")
        {
            File.CreateSymbolicLink(path, target);
        }

        string backup = _directory["backup.img"];
        File.WriteAllBytes(backup, new byte[Length]);
        File.SetLastWriteTimeUtc(backup, DateTime.UtcNow.AddDays(-1));
        ChangeMap map = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot, FileStamp.Of(path));
        TrackedDisk disk = new(new MemoryBackend(Length), map, new TrackedDiskOptions { ImagePath = path });
        await disk.BeginBaseCopyAsync(Replica, Session, true, default);
        File.WriteAllBytes(target, new byte[Length]); // the guest
        disk.See();
        if (closed)
        {
            await disk.DisposeAsync();
        }
        else
        {
            map.Dispose(); // no more is written than by a kill
        }

        switch (what)
        {
            case "put back" or "link":
                File.Move(backup, target, overwrite: true);
                break;
            case "at once":
                await Task.Delay(20); // more than a tick of the kernel's clock
                using (FileStream file = File.OpenWrite(path))
                {
                    file.WriteByte(1);
                }

                break;
        }

        FileStamp? found = FileStamp.Of(path);
        found = what == "later" ? found!.Value with { ChangedAt = found.Value.ChangedAt + 60_000_000_000 } : found;
        using ChangeMap next = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot, found);
        Assert.Equal(trusted, next.Distrust is null);
        Assert.Equal(DiskModel.History, next.Record.HistoryId);
        if (!trusted)
        {
            Assert.Contains("the image", next.Distrust, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task A_block_device_is_trusted_only_when_its_sender_was_killed(bool closed, bool trusted)
    {
        FileStamp device = new(7 << 8, 0, 0, 0, IsBlockDevice: true);
        ChangeMap map = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot, device);
        TrackedDisk disk = new(new MemoryBackend(Length), map, new TrackedDiskOptions());
        await disk.BeginBaseCopyAsync(Replica, Session, true, default);
        if (closed)
        {
            map.SeeLast(device);
        }

        map.Dispose();
        using ChangeMap next = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot, device);
        Assert.Equal(trusted, next.Distrust is null);
    }

    [Fact]
    public void A_map_has_one_user()
    {
        using (ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot))
        {
            DiskException e = Assert.Throws<DiskException>(() => ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot));
            Assert.Contains("in use", e.Message, StringComparison.Ordinal);
        }

        ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot).Dispose();
    }

    [Fact]
    public async Task One_record_that_was_half_written_leaves_the_one_before()
    {
        await (await BegunAsync(new MemoryBackend(Length))).DisposeAsync();
        byte[] bytes = File.ReadAllBytes(FilePath);
        long first = BitConverter.ToInt64(bytes, 16);
        long second = BitConverter.ToInt64(bytes, 4096 + 16);
        bytes[(first > second ? 0 : 4096) + 60] ^= 0xff;
        File.WriteAllBytes(FilePath, bytes);
        using ChangeMap map = ChangeMap.Open(FilePath, Length, DiskModel.History, DiskModel.Boot);
        Assert.Equal("no copy was begun", map.Distrust); // what stood there before the copy was begun
    }

    [Theory]
    [InlineData(512, 64 << 10)]
    [InlineData(1L << 40, 64 << 10)]
    [InlineData((1L << 40) + 512, 128 << 10)]
    [InlineData(1L << 44, 1 << 20)]
    public void The_file_stays_small(long length, int region)
    {
        Assert.Equal(region, ChangeMap.RegionFor(length));
        using ChangeMap map = ChangeMap.Open(FilePath, length, DiskModel.History, DiskModel.Boot);
        Assert.InRange(new FileInfo(FilePath).Length, 8192, (2 << 20) + 16384);
        map.Mark((length - 1) / 4096, ((length - 1) / 4096) + 1);
        Assert.Equal((length - 1) / region, map.NextMarked(0));
        map.Clear((length - 1) / region);
        Assert.Equal(-1, map.NextMarked(0));
    }

    private async Task<TrackedDisk> BegunAsync(MemoryBackend image)
    {
        TrackedDisk disk = Open(image);
        await disk.BeginBaseCopyAsync(Replica, Session, true, default);
        return disk;
    }

    private TrackedDisk Open(MemoryBackend image) =>
        new(image, ChangeMap.Open(FilePath, image.Length, DiskModel.History, DiskModel.Boot), new TrackedDiskOptions());

    private static async Task ReadAsync(DiskSnapshot snapshot)
    {
        byte[] buffer = new byte[65536];
        while (await snapshot.ReadAsync(buffer, new DiskRun[16], default) is { Runs: > 0 })
        {
        }
    }
}
