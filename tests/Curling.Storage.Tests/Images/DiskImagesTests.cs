using Curling.Storage.Images;
using Curling.Storage.Nbd;

namespace Curling.Storage.Tests.Images;

public sealed class DiskImagesTests
{
    [SkippableTheory]
    [InlineData(ImageFormat.Qcow2, "qcow2")]
    [InlineData(ImageFormat.Vmdk, "vmdk")]
    [InlineData(ImageFormat.Vdi, "vdi")]
    [InlineData(ImageFormat.Vhdx, "vhdx")]
    [InlineData(ImageFormat.Qed, "qed")]
    public async Task A_format_is_told_and_its_content_is_the_disks(ImageFormat format, string name)
    {
        Tool.Require("qemu-img", "qemu-storage-daemon");
        using TestDirectory directory = new();
        string path = directory.File("a,b." + name);
        await Tool.RunAsync("qemu-img", "create", "-q", "-f", name, path, "16M");
        byte[] data = new byte[300_000];
        new Random(1).NextBytes(data);
        int pid;
        IDiskBackend disk = await DiskImages.OpenAsync(path, ImageFormat.Auto, readOnly: false, directory.Path, default);
        await using (disk)
        {
            pid = Assert.IsType<QemuImage>(disk).Pid;
            Assert.Equal(16 << 20, disk.Length);
            await Task.WhenAll(Enumerable.Range(0, 100).Select(i => disk.WriteAsync(1_000_001 + (i * 3000), data.AsMemory(i * 3000, 3000), default).AsTask()));
            await disk.ZeroAsync(1_000_001, 1000, mayDeallocate: true, default);
            data.AsSpan(0, 1000).Clear();
            byte[] read = new byte[data.Length];
            await disk.ReadAsync(1_000_001, read, default);
            Assert.Equal(data, read);
            await disk.FlushAsync(default);
        }

        Assert.False(Directory.Exists($"/proc/{pid}"), "the tool still runs");
        Assert.Equal([path], Directory.GetFileSystemEntries(directory.Path));
        Assert.Contains("No errors", await CheckAsync(name, path), StringComparison.Ordinal);
        IDiskBackend reader = await DiskImages.OpenAsync(path, format, readOnly: true, directory.Path, default);
        await using (reader)
        {
            Assert.True(reader.IsReadOnly);
            byte[] read = new byte[data.Length];
            await reader.ReadAsync(1_000_001, read, default);
            Assert.Equal(data, read);
            await Assert.ThrowsAsync<DiskException>(async () => await reader.WriteAsync(0, new byte[1], default));
        }
    }

    [SkippableFact]
    public async Task A_qcow2_image_can_be_exported_and_its_extents_seen()
    {
        Tool.Require("qemu-img", "qemu-storage-daemon", "nbdcopy");
        using TestDirectory directory = new();
        string path = directory.File("disk.qcow2");
        await Tool.RunAsync("qemu-img", "create", "-q", "-f", "qcow2", path, "64M");
        string raw = directory.File("raw");
        byte[] data = new byte[3 << 20];
        new Random(2).NextBytes(data);
        using (FileStream file = File.Create(raw))
        {
            file.SetLength(64 << 20);
            file.Position = 20 << 20;
            file.Write(data);
        }

        IDiskBackend disk = await DiskImages.OpenAsync(path, ImageFormat.Qcow2, readOnly: false, directory.Path, default);
        await using (disk)
        {
            await using NbdServer server = NbdServer.Start(directory.File("export"), "disk", disk, new Recorded());
            await Tool.RunAsync("nbdcopy", raw, $"nbd+unix:///?socket={directory.File("export")}");
            await Tool.RunAsync("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, $"nbd+unix:///?socket={directory.File("export")}");
            Assert.Equal($"hole {20 << 20}, data {3 << 20}, hole {41 << 20}", await RawImageTests.MapAsync(disk));
        }

        await Tool.RunAsync("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, path);
    }

    /// <summary>Where there is no storage daemon, qemu-nbd serves.</summary>
    [SkippableTheory]
    [InlineData(ImageFormat.Qcow2, "qcow2")]
    [InlineData(ImageFormat.Vmdk, "vmdk")]
    public async Task The_other_tool_does_the_same(ImageFormat format, string name)
    {
        Tool.Require("qemu-img", "qemu-nbd");
        using TestDirectory directory = new();
        string path = directory.File("a,b." + name);
        await Tool.RunAsync("qemu-img", "create", "-q", "-f", name, path, "16M");
        byte[] data = new byte[300_000];
        new Random(1).NextBytes(data);
        byte[] read = new byte[data.Length];
        QemuImage disk = await QemuImage.OpenAsync(daemon: false, path, format, readOnly: false, directory.Path, default);
        await using (disk)
        {
            Assert.Contains("qemu-nbd", Curling.Linux.Processes.ProcessInfo.CommandLine(disk.Pid), StringComparison.Ordinal);
            Assert.Equal(16 << 20, disk.Length);
            await Task.WhenAll(Enumerable.Range(0, 100).Select(i => disk.WriteAsync(1_000_001 + (i * 3000), data.AsMemory(i * 3000, 3000), default).AsTask()));
            await disk.ZeroAsync(1_000_001, 1000, mayDeallocate: true, default);
            await disk.TrimAsync(8 << 20, 1 << 20, default);
            data.AsSpan(0, 1000).Clear();
            await disk.ReadAsync(1_000_001, read, default);
            Assert.Equal(data, read);
            await disk.FlushAsync(default);
        }

        Assert.False(Directory.Exists($"/proc/{disk.Pid}"), "the tool still runs");
        Assert.Equal([path], Directory.GetFileSystemEntries(directory.Path));
        Assert.Contains("No errors", await CheckAsync(name, path), StringComparison.Ordinal);
        await using QemuImage reader = await QemuImage.OpenAsync(daemon: false, path, format, readOnly: true, directory.Path, default);
        Assert.True(reader.IsReadOnly);
        await reader.ReadAsync(1_000_001, read, default);
        Assert.Equal(data, read);
        await Assert.ThrowsAsync<DiskException>(async () => await reader.WriteAsync(0, new byte[1], default));
    }

    [SkippableFact]
    public async Task A_format_is_never_guessed()
    {
        Tool.Require("qemu-img");
        using TestDirectory directory = new();
        string path = directory.File("disk.img");
        await Tool.RunAsync("qemu-img", "create", "-q", "-f", "qcow2", path, "16M");
        DiskException e = await Assert.ThrowsAsync<DiskException>(() => DiskImages.OpenAsync(path, ImageFormat.Auto, false, directory.Path, default));
        Assert.Contains("begins like qcow2, and its name says raw", e.Message, StringComparison.Ordinal);
        string raw = directory.File("disk.qcow2");
        File.WriteAllBytes(raw, new byte[512]);
        e = await Assert.ThrowsAsync<DiskException>(() => DiskImages.OpenAsync(raw, ImageFormat.Auto, false, directory.Path, default));
        Assert.Contains("begins like raw, and its name says qcow2", e.Message, StringComparison.Ordinal);
        await Tool.RunAsync("truncate", "--size=%512", path);
        await using IDiskBackend disk = await DiskImages.OpenAsync(path, ImageFormat.Raw, false, directory.Path, default);
        Assert.IsType<RawImage>(disk);
    }

    [SkippableFact]
    public async Task What_the_tool_says_is_the_error()
    {
        Tool.Require("qemu-storage-daemon");
        using TestDirectory directory = new();
        string path = directory.File("disk.qcow2");
        File.WriteAllBytes(path, new byte[512]);
        DiskException e = await Assert.ThrowsAsync<DiskException>(() => DiskImages.OpenAsync(path, ImageFormat.Qcow2, false, directory.Path, default));
        Assert.Contains("not in qcow2 format", e.Message, StringComparison.Ordinal);
        Assert.Contains(path, e.Message, StringComparison.Ordinal);
        e = await Assert.ThrowsAsync<DiskException>(() => DiskImages.OpenAsync(directory.File("none"), ImageFormat.Qcow2, false, directory.Path, default));
        Assert.Contains("there is no image", e.Message, StringComparison.Ordinal);
        Assert.Equal([path], Directory.GetFileSystemEntries(directory.Path));
    }

    [SkippableFact]
    public async Task Requests_fail_when_the_tool_dies()
    {
        Tool.Require("qemu-img", "qemu-storage-daemon");
        using TestDirectory directory = new();
        string path = directory.File("disk.qcow2");
        await Tool.RunAsync("qemu-img", "create", "-q", "-f", "qcow2", path, "16M");
        await using QemuImage disk = await QemuImage.OpenAsync(path, ImageFormat.Qcow2, false, directory.Path, default);
        System.Diagnostics.Process.GetProcessById(disk.Pid).Kill();
        DiskException e = await Assert.ThrowsAsync<DiskException>(async () =>
        {
            while (true)
            {
                await disk.ReadAsync(0, new byte[512], default);
            }
        });
        Assert.Contains("the connection to QEMU's tool is lost", e.Message, StringComparison.Ordinal);
    }

    private static async Task<string> CheckAsync(string format, string path)
    {
        (int code, string output) = await Tool.TryRunAsync("qemu-img", "check", "-f", format, path);

        // Not every format can be checked (63).
        return code == 63 ? "No errors" : output;
    }
}
