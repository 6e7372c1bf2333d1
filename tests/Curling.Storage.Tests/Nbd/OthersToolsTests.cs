namespace Curling.Storage.Tests.Nbd;

/// <summary>The export as others' programs see it.</summary>
public sealed class OthersToolsTests
{
    private const int Size = 64 << 20;

    [SkippableFact]
    public async Task Nbdinfo_sees_what_the_export_can_do()
    {
        Tool.Require("nbdinfo");
        await using Served served = Served.Start(Size);
        string info = await Tool.RunAsync("nbdinfo", "--json", served.Uri);
        foreach (string expected in (string[])
        [
            "\"protocol\": \"newstyle-fixed\"", "\"structured\": true", "\"export-name\": \"disk0\"", "\"base:allocation\"", "\"can_fua\": true",
            "\"can_flush\": true", "\"can_trim\": true", "\"can_zero\": true", "\"can_multi_conn\": true", "\"can_fast_zero\": false",
            "\"can_cache\": false", "\"can_df\": true", "\"is_read_only\": false", "\"block_size_maximum\": 33554432", $"\"export-size\": {Size}",
        ])
        {
            Assert.Contains(expected, info, StringComparison.Ordinal);
        }

        Assert.Contains($"\"export-name\": \"{Served.Name}\"", await Tool.RunAsync("nbdinfo", "--json", "--list", served.Uri), StringComparison.Ordinal);
        Assert.Equal(Size.ToString(System.Globalization.CultureInfo.InvariantCulture),
            await Tool.RunAsync("nbdinfo", "--size", $"nbd+unix:///{Served.Name}?socket={served.Socket}"));
        (int code, string output) = await Tool.TryRunAsync("nbdinfo", $"nbd+unix:///other?socket={served.Socket}");
        Assert.NotEqual(0, code);
        Assert.Contains("nbd_opt_go", output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task Nbdcopy_brings_a_disk_in_and_out_and_holes_stay_holes()
    {
        Tool.Require("nbdcopy", "qemu-img", "nbdinfo");
        await using Served served = Served.Start(Size);
        string there = served.Directory.File("there");
        string back = served.Directory.File("back");
        MakeSparse(there, Size);
        await Tool.RunAsync("nbdcopy", there, served.Uri);
        await Tool.RunAsync("qemu-img", "compare", "-f", "raw", "-F", "raw", there, served.Uri);
        await Tool.RunAsync("nbdcopy", served.Uri, back);
        Assert.Equal(File.ReadAllBytes(there), File.ReadAllBytes(back));

        // Four stretches of 1 MiB were written; the rest of the image takes no room.
        string map = await Tool.RunAsync("nbdinfo", "--map", "--totals", served.Uri);
        Assert.Matches($@"(^|\s){4 << 20}\s.*data", map);
        Assert.Matches($@"\s{Size - (4 << 20)}\s.*hole", map);
    }

    [SkippableFact]
    public async Task Qemu_img_converts_in_and_out()
    {
        Tool.Require("qemu-img");
        await using Served served = Served.Start(Size);
        string there = served.Directory.File("there");
        string qcow = served.Directory.File("out.qcow2");
        MakeSparse(there, Size);
        await Tool.RunAsync("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", there, served.Uri);
        await Tool.RunAsync("qemu-img", "convert", "-f", "raw", "-O", "qcow2", served.Uri, qcow);
        await Tool.RunAsync("qemu-img", "compare", "-f", "raw", "-F", "qcow2", there, qcow);
        Assert.Equal(
            await Tool.RunAsync("qemu-img", "map", "-f", "raw", "--output=json", there).ContinueWith(t => Shape(t.Result)),
            await Tool.RunAsync("qemu-img", "map", "-f", "raw", "--output=json", served.Uri).ContinueWith(t => Shape(t.Result)));
        foreach (string[] bench in (string[][])[["-d", "16", "-s", "4096", "-S", "69632"], ["-w", "-d", "32", "-s", "65536"], ["-w", "--flush-interval=8", "-d", "8"]])
        {
            await Tool.RunAsync("qemu-img", ["bench", "-f", "raw", "-c", "2000", .. bench, served.Uri]);
        }
    }

    [SkippableFact]
    public async Task Qemu_io_verifies_patterns()
    {
        Tool.Require("qemu-io");
        await using Served served = Served.Start(Size);
        string output = await QemuIoAsync(
            served,
            "write -P 7 0 1M", "write -z 4k 8k", "read -P 0 4k 8k", "read -P 7 12k 4k", "write -z -u 1M 1M", "read -P 0 1M 1M",
            "write -P 9 2M 64k", "discard 2M 64k", "read -P 0 2M 64k", "write -f -P 3 777 1000", "flush", "read -P 3 777 1000", "read -P 7 0 777",
            "aio_write -P 11 8M 1M", "aio_write -P 12 10M 32M", "aio_flush", "read -P 11 8M 1M", "read -P 12 10M 32M",
            $"write -P 5 {Size - 1} 1", $"read -P 5 {Size - 1} 1");
        Assert.DoesNotContain("failed", output, StringComparison.OrdinalIgnoreCase);
        Assert.Contains("Pattern verification failed", await QemuIoAsync(served, "read -P 2 0 777"), StringComparison.Ordinal);
        using FileStream file = new(served.Image, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        file.Position = 777;
        Assert.Equal(3, file.ReadByte());
    }

    [SkippableFact]
    public async Task A_read_only_disk_refuses_writes()
    {
        Tool.Require("qemu-io", "nbdinfo");
        await using Served served = Served.Start(Size, readOnly: true);
        Assert.Contains("\"is_read_only\": true", await Tool.RunAsync("nbdinfo", "--json", served.Uri), StringComparison.Ordinal);
        (_, string output) = await Tool.TryRunAsync("qemu-io", "-f", "raw", "-c", "write 0 4k", served.Uri);
        Assert.Matches("read.only|Permission denied", output);
        await Tool.RunAsync("qemu-io", "-r", "-f", "raw", "-c", "read -P 0 0 4k", served.Uri);
    }

    [SkippableFact]
    public async Task Fio_verifies_what_it_wrote_over_several_connections()
    {
        Tool.Require("fio");
        Skip.IfNot((await Tool.RunAsync("fio", "--enghelp")).Contains("nbd", StringComparison.Ordinal), "SKIPPED: fio has no nbd engine here");
        await using Served served = Served.Start(Size);
        await Tool.RunAsync(
            "fio", "--name=verify", "--ioengine=nbd", $"--uri={served.Uri}", "--rw=randwrite", "--bsrange=512-64k", "--iodepth=16", "--size=16M",
            "--numjobs=3", "--offset_increment=16M", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=5");
        Assert.Equal(0, served.Server.Counters.Errors);
        Assert.True(served.Server.Counters.BytesRead >= 48 << 20);
    }

    private static async Task<string> QemuIoAsync(Served served, params string[] commands) =>
        (await Tool.TryRunAsync("qemu-io", ["-f", "raw", .. commands.SelectMany(c => (string[])["-c", c]), served.Uri])).Output;

    private static void MakeSparse(string path, int size)
    {
        Random random = new(1);
        byte[] part = new byte[1 << 20];
        using FileStream file = File.Create(path);
        file.SetLength(size);
        foreach (int at in (int[])[0, 5, 40, 63])
        {
            random.NextBytes(part);
            file.Position = (long)at << 20;
            file.Write(part);
        }
    }

    /// <summary>Where data and zeros are; offsets into a host's file are not the export's business.</summary>
    private static string Shape(string map) => System.Text.RegularExpressions.Regex.Replace(map, ", \"(offset|depth|present|compressed)\": [a-z0-9]+", "");
}
