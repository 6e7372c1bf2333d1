using Curling.Storage.Images;

namespace Curling.Storage.Tests;

public sealed class DiskDigestLogTests
{
    [Fact]
    public async Task Digest_is_of_what_a_disk_reads_as_and_not_of_its_holes()
    {
        using TestDirectory directory = new();
        using DiskDigestLog log = DiskDigestLog.Open(directory.File("digests"));
        byte[] content = new byte[(3 << 20) + 512];
        new Random(1).NextBytes(content.AsSpan(1_000_000, 50_000));
        content[^1] = 7;
        string path = directory.File("disk.img");
        await File.WriteAllBytesAsync(path, content);
        await using RawImage whole = RawImage.Open(path, readOnly: false);
        string digest = log.Digest(whole);

        // Its extents are others than those of the file.
        MemoryBackend sparse = new(content.Length);
        await sparse.WriteAsync(1_000_000, content.AsMemory(1_000_000, 50_000), default);
        await sparse.WriteAsync(content.Length - 1, new byte[] { 7 }, default);
        Assert.Equal(digest, log.Digest(sparse));

        await sparse.WriteAsync(1_000_000, new byte[] { (byte)(content[1_000_000] ^ 1) }, default);
        Assert.NotEqual(digest, log.Digest(sparse));
        await sparse.WriteAsync(1_000_000, content.AsMemory(1_000_000, 1), default);
        Assert.Equal(digest, log.Digest(sparse));

        // The same block elsewhere is another disk.
        await sparse.ZeroAsync(content.Length - 512, 512, mayDeallocate: true, default);
        await sparse.WriteAsync(2 << 20, new byte[] { 7 }, default);
        Assert.NotEqual(digest, log.Digest(sparse));
    }

    [Fact]
    public async Task Lines_are_added_to_what_is_there()
    {
        using TestDirectory directory = new();
        MemoryBackend disk = new(1 << 20);
        string path = directory.File("digests");
        using (DiskDigestLog log = DiskDigestLog.Open(path))
        {
            log.Add("cut", 1, 0, disk);
        }

        await disk.WriteAsync(0, new byte[] { 1 }, default);
        using (DiskDigestLog log = DiskDigestLog.Open(path))
        {
            log.Add("cut", 2, 0, disk);
        }

        string[] lines = await File.ReadAllLinesAsync(path);
        Assert.StartsWith("cut 1 0 ", lines[0], StringComparison.Ordinal);
        Assert.StartsWith("cut 2 0 ", lines[1], StringComparison.Ordinal);
        Assert.NotEqual(lines[0][8..], lines[1][8..]);
    }
}
