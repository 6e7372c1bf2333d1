using System.Globalization;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>
/// The disk programs of the Linux guest and what checks their disks, on plain QEMU: a guest that was killed leaves a disk that is
/// accepted, and a disk that was tampered with is not. Whether Curling keeps such a disk is then asked with tools that can say no.
/// </summary>
/// <remarks><c>CURLING_KILLS</c> sets the kills of each case; the default keeps the whole run short.</remarks>
public sealed class DiskToolsTests(ITestOutputHelper output) : IDisposable
{
    private const long ImageBytes = 64 << 20;
    private readonly string _directory = Directory.CreateTempSubdirectory("cd").FullName;

    private static int Kills => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_KILLS"), CultureInfo.InvariantCulture, out int kills) ? kills : 1;

    /// <inheritdoc/>
    public void Dispose() => Directory.Delete(_directory, recursive: true);

    /// <summary>Killed, started again on the same disk, killed again: everything that was acknowledged in both lives is there.</summary>
    [SkippableTheory]
    [InlineData("7.2", "curling.disk=log disklog.check=500", DiskClient.LogPort)]
    [LongFormData("10.0", "curling.disk=sqlite disksql.check=500", DiskClient.SqlPort)]
    [LongFormData("7.2", "curling.disk=sqlite disksql.check=500 disksql.wal=0", DiskClient.SqlPort)]
    public async Task Disk_of_a_killed_guest_holds_all_that_was_acknowledged(string qemu, string program, int service)
    {
        Random random = new(program.Length);
        for (int i = 0; i < Kills; i++)
        {
            string image = Path.Combine(_directory, string.Create(CultureInfo.InvariantCulture, $"disk{i}.img"));
            await Ext4Image.CreateAsync(image, ImageBytes);
            List<Acknowledged> acknowledged = [];
            for (int life = 1; life <= 2; life++)
            {
                (IReadOnlyList<Acknowledged> told, string serial) = await LiveAsync(qemu, image, program, service, random.Next(0, 300));
                acknowledged.AddRange(told);
                DiskContent content = await CheckAsync(image, service);
                content.MustHold(acknowledged);
                output.WriteLine($"life {life}: {content.First} to {content.Last}, {told.Count} acknowledged, {DiskSerial.Checks(serial).Count} checks");
            }
        }
    }

    [SkippableFact]
    public async Task Raw_disk_of_a_killed_guest_is_all_writes_up_to_one()
    {
        string image = Path.Combine(_directory, "disk.img");
        Ext4Image.CreateEmpty(image, ImageBytes);
        (IReadOnlyList<Acknowledged> told, _) = await LiveAsync(
            "7.2", image, "curling.disk=raw diskraw.rate=4096 diskraw.at=8 diskraw.region=4", DiskClient.RawPort, 100);
        long last = RawPatternCheck.Check(image, 8 << 20, 4 << 20);
        Assert.True(last >= told[^1].Number, $"write {told[^1].Number} was acknowledged, the disk ends at {last}");

        // A block that is older than the rest, and one that nobody wrote.
        long block = RawPatternCheck.BlockOf(last - 1, 1024);
        byte[] bytes = new byte[4096];
        Write(image, (8 << 20) + (block * 4096), bytes);
        Assert.Contains("must be of", Assert.Throws<DiskDamageException>(() => RawPatternCheck.Check(image, 8 << 20, 4 << 20)).Message);
        bytes[600] = 1;
        Write(image, (8 << 20) + (block * 4096), bytes);
        Assert.Contains("no write made", Assert.Throws<DiskDamageException>(() => RawPatternCheck.Check(image, 8 << 20, 4 << 20)).Message);
    }

    [SkippableFact]
    public async Task Log_that_was_tampered_with_is_refused()
    {
        string image = Path.Combine(_directory, "disk.img");
        const string Program = "curling.disk=log disklog.check=500";
        await Ext4Image.CreateAsync(image, ImageBytes);
        (IReadOnlyList<Acknowledged> first, _) = await LiveAsync("7.2", image, Program, DiskClient.LogPort, 0);
        string older = Path.Combine(_directory, "older.img");
        await Ext4Image.CopyAsync(image, older);
        (IReadOnlyList<Acknowledged> second, _) = await LiveAsync("7.2", image, Program, DiskClient.LogPort, 0);
        DiskContent whole = await CheckAsync(image, DiskClient.LogPort);
        whole.MustHold([.. first, .. second]);

        // The whole disk at an earlier moment, and one promise more than the disk holds.
        DiskContent early = await CheckAsync(older, DiskClient.LogPort);
        early.MustHold(first);
        Assert.Throws<DiskDamageException>(() => early.MustHold(second));
        Assert.Throws<DiskDamageException>(() => whole.MustHold([new Acknowledged(whole.Last + 1, "a lie")]));
        Assert.Throws<DiskDamageException>(() => whole.MustHold([second[^1] with { Text = "something else" }]));

        // Some blocks are older than the rest.
        byte[] then = File.ReadAllBytes(older);
        byte[] now = File.ReadAllBytes(image);
        byte[] mixed = [.. now];
        int rolled = 0;
        for (int at = 0; at < now.Length; at += 4096)
        {
            if (DiskRecord.Read(now.AsSpan(at, 4096)) is { Bytes: 4096 } && !now.AsSpan(at, 4096).SequenceEqual(then.AsSpan(at, 4096)))
            {
                then.AsSpan(at, 4096).CopyTo(mixed.AsSpan(at));
                rolled++;
            }
        }

        Assert.NotEqual(0, rolled);
        Assert.Contains("of direct holds", (await RefusedAsync(mixed)).Message);

        // A record in the middle of the log is damaged by one bit, and the log's end is lost.
        long middle = (first[^1].Number + second[^1].Number) / 2;
        mixed = [.. now];
        mixed[Find(now, middle, middle + 20)[0] + DiskRecord.HeadBytes] ^= 1;

        Assert.Contains("is torn", (await RefusedAsync(mixed)).Message);
        mixed = [.. now];
        foreach (int at in Find(now, second[^1].Number, long.MaxValue))
        {
            mixed.AsSpan(at, DiskRecord.HeadBytes).Clear();
        }

        string cut = Path.Combine(_directory, "cut.img");
        File.WriteAllBytes(cut, mixed);
        await Assert.ThrowsAsync<DiskDamageException>(async () => (await CheckAsync(cut, DiskClient.LogPort)).MustHold(second));

        // The filesystem itself: a file's inode is lost. Not the newest one's, which the kill may have come before.
        string copy = Directory.GetFiles(_directory, "copy.img", SearchOption.AllDirectories)[0];
        await DiskTool.MustAsync("debugfs", "-w", "-R", $"clri /files/{((whole.Last / 10) - 1) * 10}", copy);
        Assert.Contains("it is damaged", (await RefusedAsync(File.ReadAllBytes(copy))).Message);
    }

    [SkippableFact]
    public async Task Database_that_was_tampered_with_is_refused()
    {
        string image = Path.Combine(_directory, "disk.img");
        await Ext4Image.CreateAsync(image, ImageBytes);
        (IReadOnlyList<Acknowledged> told, _) = await LiveAsync("7.2", image, "curling.disk=sqlite", DiskClient.SqlPort, 0);
        string files = await Ext4Image.ExtractAsync(image, Path.Combine(_directory, "whole"));
        (await DiskSqlCheck.CheckAsync(files)).MustHold(told);

        // What the log beside it holds is lost; a row is taken away; there is more money than before.
        string again = await Ext4Image.ExtractAsync(image, Path.Combine(_directory, "again"));
        await File.WriteAllBytesAsync(Path.Combine(again, "bank.db-wal"), []);
        await Assert.ThrowsAsync<DiskDamageException>(async () => (await DiskSqlCheck.CheckAsync(again)).MustHold(told));
        string database = Path.Combine(files, "bank.db");
        await DiskTool.MustAsync("sqlite3", "-batch", database, "delete from ledger where n = (select max(n) / 2 from ledger)");
        Assert.Contains("agree with the ledger", (await Assert.ThrowsAsync<DiskDamageException>(() => DiskSqlCheck.CheckAsync(files))).Message);
        await DiskTool.MustAsync("sqlite3", "-batch", database, "update account set balance = balance + 1 where id = 1");
        Assert.Contains("accounts and money", (await Assert.ThrowsAsync<DiskDamageException>(() => DiskSqlCheck.CheckAsync(files))).Message);
        byte[] bytes = File.ReadAllBytes(database);
        bytes.AsSpan(2 * 4096, 4096).Fill(0xAA);
        await File.WriteAllBytesAsync(database, bytes);
        await Assert.ThrowsAsync<DiskDamageException>(() => DiskSqlCheck.CheckAsync(files));
    }

    /// <summary>What a guest finds when its disk is changed behind its back is said on its serial port.</summary>
    [SkippableFact]
    public async Task Guest_whose_disk_is_older_than_its_memory_notices()
    {
        string image = Path.Combine(_directory, "disk.img");
        await Ext4Image.CreateAsync(image, ImageBytes);
        await using PlainGuest guest = PlainGuest.Start(TestGuests.Qemu("7.2"), image, "curling.disk=log disklog.check=500", DiskClient.LogPort);
        await guest.UntilSaysAsync("check=4 ");
        string older = Path.Combine(_directory, "older.img");
        await Ext4Image.CopyAsync(image, older);
        Assert.NotEmpty(DiskSerial.Checks(guest.Serial));
        await guest.UntilSaysAsync("check=6 ");

        // In place: QEMU has the file open.
        byte[] then = File.ReadAllBytes(older);
        Write(image, 0, then);
        await guest.UntilSaysAsync("FAILED");
        Assert.Contains("the guest says", Assert.Throws<DiskDamageException>(() => DiskSerial.Checks(guest.Serial)).Message);
    }

    [SkippableFact]
    public async Task Load_does_what_it_is_asked_for()
    {
        string image = Path.Combine(_directory, "disk.img");
        Ext4Image.CreateEmpty(image, ImageBytes);
        await using PlainGuest guest = PlainGuest.Start(TestGuests.Qemu("10.0"), image, "curling.disk=bench", DiskClient.BenchPort);
        await guest.UntilSaysAsync("disk-bench: ready");
        using var socket = await DiskClient.ConnectAsync(guest.Port);
        string[] orders = ["write sequential 1024 1 32", "read sequential 1024 1 32", "write random 4 16 500", "read random 4 16 500"];
        foreach (string what in orders)
        {
            using CancellationTokenSource limit = new(TimeSpan.FromSeconds(30));
            Assert.Equal(long.Parse(what[(what.LastIndexOf(' ') + 1)..], CultureInfo.InvariantCulture), await DiskClient.AskAsync(socket, what, limit.Token));
        }

        await guest.UntilSaysAsync("end read random 4 16 500");
        Assert.DoesNotContain("FAILED", guest.Serial);
    }

    /// <summary>Lets a guest run on a disk and answer a client, and kills it at some moment.</summary>
    private static async Task<(IReadOnlyList<Acknowledged> Told, string Serial)> LiveAsync(
        string qemu, string image, string program, int service, int delay)
    {
        await using PlainGuest guest = PlainGuest.Start(TestGuests.Qemu(qemu), image, program, service);
        await guest.UntilSaysAsync(": ready ");
        using DiskClient client = new(await DiskClient.ConnectAsync(guest.Port));
        await client.UntilAnsweredAsync(60);
        if (program.Contains("check="))
        {
            await guest.UntilSaysAsync("check=2 ");
        }

        await Task.Delay(delay);
        await guest.KillAsync();
        await client.LostAsync();
        _ = DiskSerial.Checks(guest.Serial);
        return (client.Acknowledged, guest.Serial);
    }

    private async Task<DiskContent> CheckAsync(string image, int service)
    {
        string files = await Ext4Image.ExtractAsync(image, Path.Combine(_directory, Guid.NewGuid().ToString("N")));
        return service == DiskClient.LogPort ? DiskLogCheck.Check(files) : await DiskSqlCheck.CheckAsync(files);
    }

    private async Task<DiskDamageException> RefusedAsync(byte[] image)
    {
        string path = Path.Combine(_directory, Guid.NewGuid().ToString("N") + ".img");
        await File.WriteAllBytesAsync(path, image);
        return await Assert.ThrowsAsync<DiskDamageException>(() => CheckAsync(path, DiskClient.LogPort));
    }

    /// <summary>Where records of the log stand that are between two numbers. What begins where a block does may be a file or a slot.</summary>
    private static List<int> Find(byte[] image, long from, long to)
    {
        List<int> found = [];
        for (int at = 0; at < image.Length - DiskRecord.HeadBytes; at += 8)
        {
            if (DiskRecord.Read(image.AsSpan(at, Math.Min(64 * 1024, image.Length - at))) is { } record
                && record.Sequence >= from && record.Sequence <= to && at % 4096 != 0
                && !(record.Bytes == 1024 && at % 1024 == 0))
            {
                found.Add(at);
            }
        }

        return found;
    }

    private static void Write(string path, long at, byte[] bytes)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
        stream.Seek(at, SeekOrigin.Begin);
        stream.Write(bytes);
    }
}
