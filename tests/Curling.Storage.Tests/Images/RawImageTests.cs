using System.Diagnostics;
using System.Globalization;
using Curling.Storage.Images;
using Curling.Storage.Nbd;

namespace Curling.Storage.Tests.Images;

public sealed class RawImageTests
{
    [Fact]
    public void What_cannot_be_a_disk_is_refused_with_the_reason()
    {
        using TestDirectory directory = new();
        Refused(directory.File("none"), "No such file");
        Refused(directory.Path, "is a directory");
        Refused("/dev/null", "neither a file nor a block device");
        string odd = directory.File("odd");
        File.WriteAllBytes(odd, new byte[1000]);
        Refused(odd, "1000 bytes long; a disk's size is a multiple of 512");
        File.WriteAllBytes(odd, []);
        Refused(odd, "0 bytes long");

        static void Refused(string path, string why)
        {
            DiskException e = Assert.Throws<DiskException>(() => RawImage.Open(path, readOnly: false));
            Assert.Contains(why, e.Message, StringComparison.Ordinal);
            Assert.Contains(path, e.Message, StringComparison.Ordinal);
        }
    }

    [SkippableFact]
    public async Task An_image_has_one_user_of_ours_or_of_QEMUs()
    {
        Tool.Require("qemu-io");
        using TestDirectory directory = new();
        string path = Make(directory, 1 << 20);
        RawImage image = RawImage.Open(path, readOnly: false);
        Assert.Contains("in use by another program", Assert.Throws<DiskException>(() => RawImage.Open(path, readOnly: false)).Message, StringComparison.Ordinal);
        Assert.Contains("in use by another program", Assert.Throws<DiskException>(() => RawImage.Open(path, readOnly: true)).Message, StringComparison.Ordinal);
        (int code, string output) = await Tool.TryRunAsync("qemu-io", "-f", "raw", "-c", "read 0 4k", path);
        Assert.NotEqual(0, code);
        Assert.Contains("lock", output, StringComparison.Ordinal);
        await image.DisposeAsync();
        await Tool.RunAsync("qemu-io", "-f", "raw", "-c", "read 0 4k", path);

        await using RawImage reader = RawImage.Open(path, readOnly: true);
        await using RawImage another = RawImage.Open(path, readOnly: true);
        Assert.Contains("in use", Assert.Throws<DiskException>(() => RawImage.Open(path, readOnly: false)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Holes_stay_and_come_back()
    {
        using TestDirectory directory = new();
        string path = Make(directory, 16 << 20);
        await using RawImage image = RawImage.Open(path, readOnly: false);
        await image.WriteAsync(4 << 20, new byte[2 << 20], default);
        await image.WriteAsync(8 << 20, new byte[4096], default);
        await image.FlushAsync(default);
        Assert.Equal("hole 4194304, data 2097152, hole 2097152, data 4096, hole 8384512", await MapAsync(image));
        await image.TrimAsync(4 << 20, 1 << 20, default);
        await image.ZeroAsync(5 << 20, 512 << 10, mayDeallocate: true, default);
        await image.ZeroAsync(8 << 20, 4096, mayDeallocate: false, default);
        long allocated = Blocks(path) * 512;
        Assert.InRange(allocated, (512 << 10) + 4096, (512 << 10) + (64 << 10));
    }

    [Fact]
    public async Task Requests_outside_of_the_disk_and_writes_to_one_that_is_read_only_are_refused()
    {
        using TestDirectory directory = new();
        string path = Make(directory, 1 << 20);
        await using RawImage image = RawImage.Open(path, readOnly: true);
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(async () => await image.ReadAsync((1 << 20) - 1, new byte[2], default));
        await Assert.ThrowsAsync<ArgumentOutOfRangeException>(async () => await image.ReadAsync(-1, new byte[2], default));
        DiskException e = await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(0, new byte[2], default));
        Assert.Equal(DiskError.ReadOnly, e.Error);
    }

    [SkippableFact]
    public async Task A_full_filesystem_reaches_the_client_as_such()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "SKIPPED: only root can mount a small filesystem");
        using TestDirectory directory = new();
        string mount = directory.File("small");
        Directory.CreateDirectory(mount);
        (int code, string output) = await Tool.TryRunAsync("mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", mount);
        Skip.If(code != 0, $"SKIPPED: no filesystem can be mounted here: {output}");
        try
        {
            string path = Path.Combine(mount, "disk.img");
            using (FileStream file = File.Create(path))
            {
                file.SetLength(8 << 20);
            }

            await using RawImage image = RawImage.Open(path, readOnly: false);
            Recorded log = new();
            await using NbdServer server = NbdServer.Start(directory.File("sock"), "full", image, log);
            await using NbdClientBackend client = NbdClientBackend.Connect(directory.File("sock"), "", "client");
            DiskException e = await Assert.ThrowsAsync<DiskException>(async () => await client.WriteAsync(0, new byte[4 << 20], default));
            Assert.Equal(DiskError.NoSpace, e.Error);
            Assert.Equal(DiskError.NoSpace, (await Assert.ThrowsAsync<DiskException>(async () => await client.WriteAsync(4 << 20, new byte[4096], default))).Error);
            Assert.Single(log.Lines, l => l.StartsWith("Warning DiskRequestFailed ", StringComparison.Ordinal));

            // Room again: the disk works again.
            await client.TrimAsync(0, 4 << 20, default);
            await client.WriteAsync(4 << 20, new byte[4096], default);
            Assert.Equal(2, server.Counters.Errors);
        }
        finally
        {
            await Tool.RunAsync("umount", mount);
        }
    }

    [SkippableFact]
    public async Task A_block_device_is_a_disk()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "SKIPPED: only root can make a loop device");
        using TestDirectory directory = new();
        string path = Make(directory, 8 << 20);
        (int code, string device) = await Tool.TryRunAsync("losetup", "--find", "--show", path);
        Skip.If(code != 0, $"SKIPPED: no loop device can be made here: {device}");
        try
        {
            await using RawImage image = RawImage.Open(device, readOnly: false);
            Assert.Equal(8 << 20, image.Length);
            byte[] data = new byte[100_000];
            new Random(1).NextBytes(data);
            await image.WriteAsync(12_345, data, default);
            await image.TrimAsync(20_000, 30_000, default);
            data.AsSpan(20_000 - 12_345, 30_000).Clear();
            await image.FlushAsync(default);
            byte[] read = new byte[data.Length];
            await image.ReadAsync(12_345, read, default);
            Assert.Equal(data, read);
        }
        finally
        {
            await Tool.RunAsync("losetup", "--detach", device);
        }
    }

    internal static string Make(TestDirectory directory, long size)
    {
        string path = directory.File("disk.img");
        using FileStream file = File.Create(path);
        file.SetLength(size);
        return path;
    }

    internal static async Task<string> MapAsync(IDiskBackend disk)
    {
        List<string> parts = [];
        DiskExtent[] extents = new DiskExtent[2];
        for (long at = 0; at < disk.Length;)
        {
            int count = await disk.GetExtentsAsync(at, disk.Length - at, extents, default);
            foreach (DiskExtent extent in extents.AsSpan(0, count))
            {
                parts.Add($"{(extent.IsHole ? "hole" : "data")} {extent.Length}");
                at += extent.Length;
            }
        }

        return string.Join(", ", parts);
    }

    private static long Blocks(string path)
    {
        using Process process = Process.Start(new ProcessStartInfo("stat", ["-c", "%b", path]) { RedirectStandardOutput = true })!;
        return long.Parse(process.StandardOutput.ReadToEnd(), CultureInfo.InvariantCulture);
    }
}
