using Curling.Linux.Storage;
using Curling.Storage.Replica;

namespace Curling.Storage.Tests.Replica;

public sealed class ReplicaDiskTests : IDisposable
{
    private const long Length = (1 << 20) + 512;
    private static readonly Guid History = Guid.NewGuid();
    private static readonly Guid Boot = Guid.NewGuid();
    private static readonly Guid Session = Guid.NewGuid();
    private readonly TemporaryDirectory _directory = new();

    private string FilePath => _directory["replica.img"];

    public void Dispose() => _directory.Dispose();

    [Fact]
    public void A_new_replica_is_empty_sparse_and_found_again()
    {
        Guid id;
        using (ReplicaDisk disk = Open())
        {
            Assert.Equal(ReplicaState.Empty, disk.Identity.State);
            Assert.Equal((History, Length, 0L), (disk.Identity.HistoryId, disk.Identity.Length, disk.Identity.Round));
            id = disk.Identity.ReplicaId;
            DiskException held = Assert.Throws<DiskException>(() => Open());
            Assert.Contains(FilePath, held.Message, StringComparison.Ordinal);
        }

        Assert.Equal(Length, new FileInfo(FilePath).Length);
        using ReplicaDisk again = Open();
        Assert.Equal(id, again.Identity.ReplicaId);
        Assert.Null(again.Distrust);
    }

    [Theory]
    [InlineData(ReplicaSync.None)]
    [InlineData(ReplicaSync.Commit)]
    public void A_round_is_there_after_its_commit_and_says_how_far_it_is(ReplicaSync sync)
    {
        using (ReplicaDisk disk = Open(sync))
        {
            Round(disk, 1, complete: false, (0, 1), (8192, 2));
            Assert.Equal(ReplicaState.Copying, disk.Identity.State);
            Round(disk, 2, complete: true, (8192, 0), (1 << 20, 3));
            Assert.Null(disk.Interrupted);
        }

        using ReplicaDisk again = Open(sync);
        Assert.Equal((ReplicaState.Consistent, Session, 2L), (again.Identity.State, again.Identity.Session, again.Identity.Round));
        byte[] bytes = ReadAll();
        Assert.Equal((1, 0, 3), (bytes[4095], bytes[8192], bytes[^1]));
    }

    [Fact]
    public void Killed_after_any_part_of_a_round_the_journal_leads_to_the_same_bytes()
    {
        Random random = new(3);
        DiskRun[] runs = [.. Enumerable.Range(0, 40).Select(i => new DiskRun(i * 6 * 4096, 4096 * (1 + (i % 5)), i % 3 == 0))];
        byte[] data = new byte[runs.Where(run => !run.IsZero).Sum(run => run.Length)];
        random.NextBytes(data);
        byte[]? expected = null;
        for (int kill = 0; kill <= runs.Length; kill++)
        {
            using (ReplicaDisk disk = Open(replace: true))
            {
                Round(disk, disk.Identity.Round + 1, complete: true, (0, 9), (4096 * 50, 9));
                disk.BeginRound(Session, disk.Identity.Round + 1);
                long done = runs[..kill].Where(run => !run.IsZero).Sum(run => run.Length);
                disk.Apply(runs.AsSpan(0, kill), data.AsSpan(0, (int)done));
            } // no more is written than by a kill

            using ReplicaDisk next = Open();
            Assert.Equal(ReplicaState.Copying, next.Identity.State);
            (Guid session, long round) = Assert.NotNull(next.Interrupted);
            next.BeginRound(session, round);
            next.Apply(runs, data);
            next.Commit(complete: true);
            Assert.Equal((ReplicaState.Consistent, round), (next.Identity.State, next.Identity.Round));

            // And once more, as after a kill between the replica's record and the journal's.
            next.BeginRound(session, round);
            next.Apply(runs, data);
            next.Commit(complete: true);
            expected ??= ReadAll();
            Assert.True(expected.AsSpan().SequenceEqual(ReadAll()), $"killed after {kill} runs");
        }
    }

    [Fact]
    public void A_round_of_another_session_over_an_interrupted_one_leaves_it_copying()
    {
        using ReplicaDisk disk = Open();
        Round(disk, 1, complete: true, (0, 1));
        disk.BeginRound(Session, 2);
        disk.BeginRound(Guid.NewGuid(), 1);
        disk.Commit(complete: false);
        Assert.Equal(ReplicaState.Copying, disk.Identity.State);
        Assert.Throws<InvalidOperationException>(() => disk.Promote(Guid.NewGuid()));
    }

    [Theory]
    [InlineData("plain", "not a replica of Curling")]
    [InlineData("damaged", "checksum")]
    [InlineData("history", "another guest")]
    [InlineData("size", "replica of a disk of")]
    [InlineData("resized", "changed by others")]
    [InlineData("promoted", "another history")]
    public void What_is_something_else_is_refused_and_left_alone(string what, string why)
    {
        using (ReplicaDisk disk = Open())
        {
            Round(disk, 1, complete: true, (0, 7));
            if (what == "promoted")
            {
                disk.Promote(Guid.NewGuid());
            }
        }

        string record = ReplicaDisk.RecordPath(FilePath);
        switch (what)
        {
            case "plain":
                File.Delete(record);
                break;
            case "damaged":
                byte[] bytes = File.ReadAllBytes(record);
                bytes[30] ^= 1;
                bytes[4096 + 30] ^= 1;
                File.WriteAllBytes(record, bytes);
                break;
            case "resized":
                using (FileStream file = File.OpenWrite(FilePath))
                {
                    file.SetLength(Length + 512);
                }

                break;
        }

        byte[] before = ReadAll();
        ReplicaOptions options = Options() with
        {
            HistoryId = what == "history" ? Guid.NewGuid() : History,
            Length = what == "size" ? Length * 2 : Length,
        };
        ReplicaRefusedException e = Assert.Throws<ReplicaRefusedException>(() => ReplicaDisk.Open(FilePath, options));
        Assert.Contains(why, e.Message, StringComparison.Ordinal);
        Assert.Contains("--replace-replica", e.Message, StringComparison.Ordinal);
        Assert.True(before.AsSpan().SequenceEqual(ReadAll()));

        using ReplicaDisk replaced = ReplicaDisk.Open(FilePath, options with { Replace = true });
        Assert.Equal(ReplicaState.Empty, replaced.Identity.State);
        Assert.Contains("replaced", replaced.Distrust, StringComparison.Ordinal);
        Assert.All(ReadAll(), value => Assert.Equal(0, value));
    }

    [Theory]
    [InlineData("locked")]
    [InlineData("open")]
    [InlineData("replica")]
    public void What_somebody_uses_is_not_replaced(string how)
    {
        byte[] bytes = new byte[4096];
        bytes.AsSpan().Fill(7);
        IDisposable user;
        if (how == "replica")
        {
            ReplicaDisk replica = Open();
            Round(replica, 1, complete: true, (0, 7));
            user = replica;
        }
        else
        {
            File.WriteAllBytes(FilePath, bytes);
            user = how == "open" ? new FileStream(FilePath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite) : LockedImage(FilePath);
        }

        using (user)
        {
            DiskException e = Assert.Throws<DiskException>(
                () => ReplicaDisk.Open(FilePath, Options() with { HistoryId = Guid.NewGuid(), Replace = true }));
            Assert.Contains(FilePath, e.Message, StringComparison.Ordinal);
            Assert.Equal(7, ReadAll()[4095]);
            Assert.Equal(how == "replica", File.Exists(ReplicaDisk.RecordPath(FilePath)));
        }

        using ReplicaDisk replaced = ReplicaDisk.Open(FilePath, Options() with { HistoryId = Guid.NewGuid(), Replace = true });
        Assert.Equal(ReplicaState.Empty, replaced.Identity.State);
        Assert.Equal(["replica.img", "replica.img.curling-replica"], Directory.GetFiles(_directory.Path).Select(Path.GetFileName).Order());
    }

    [Fact]
    public void A_replica_that_begins_anew_keeps_its_records_file_and_so_its_lock()
    {
        using (ReplicaDisk disk = Open())
        {
            Round(disk, 1, complete: true, (0, 7));
        }

        FileStamp? before = FileStamp.Of(ReplicaDisk.RecordPath(FilePath));
        using ReplicaDisk anew = ReplicaDisk.Open(FilePath, Options() with { HistoryId = Guid.NewGuid(), Replace = true });
        Assert.Equal(before?.Inode, FileStamp.Of(ReplicaDisk.RecordPath(FilePath))?.Inode);
    }

    [Fact]
    public void A_round_without_anything_for_the_disk_leaves_it_at_the_round_before_too()
    {
        using ReplicaDisk disk = Open();
        Round(disk, 1, complete: true, (0, 7));
        Round(disk, 2, complete: true, (0, 8));
        Assert.NotNull(disk.WhyNotAt(Session, 1, isApplied: true));
        disk.Pass(Session, 3, complete: true);
        Assert.Equal((ReplicaState.Consistent, 3L), (disk.Identity.State, disk.Identity.Round));
        Assert.Null(disk.Interrupted);
        Assert.NotNull(disk.WhyNotAt(Session, 1, isApplied: true));
        Assert.Null(disk.WhyNotAt(Session, 2, isApplied: true));
        Assert.Null(disk.WhyNotAt(Session, 3, isApplied: true));
        Assert.NotNull(disk.WhyNotAt(Session, 4, isApplied: true));
        Assert.NotNull(disk.WhyNotAt(Guid.NewGuid(), 3, isApplied: true));
        Assert.Null(disk.WhyNotAt(Session, 4, isApplied: false));
        Assert.NotNull(disk.WhyNotAt(Session, 2, isApplied: false));
        disk.BeginRound(Session, 4);
        Assert.Null(disk.WhyNotAt(Session, 4, isApplied: false));
        Assert.NotNull(disk.WhyNotAt(Session, 3, isApplied: true));
    }

    [Fact]
    public void One_that_must_be_there_is_neither_made_nor_begun_anew()
    {
        ReplicaOptions options = Options() with { MustExist = true };
        Assert.Throws<ReplicaRefusedException>(() => ReplicaDisk.Open(FilePath, options));
        Assert.False(File.Exists(FilePath));
        using (ReplicaDisk disk = Open())
        {
            Round(disk, 1, complete: true, (0, 7));
        }

        Assert.Throws<ReplicaRefusedException>(() => ReplicaDisk.Open(FilePath, options with { BootId = Guid.NewGuid() }));
        using ReplicaDisk again = ReplicaDisk.Open(FilePath, options);
        Assert.Equal(1, again.Identity.Round);
    }

    [Fact]
    public void A_promotion_does_not_wait_for_the_device()
    {
        using ReplicaDisk disk = Open();
        Round(disk, 1, complete: true, (0, 7));
        int before = disk.Flushes;
        disk.Promote(Guid.NewGuid());
        Assert.Equal(before, disk.Flushes);
        disk.MakeSafe();
        Assert.Equal(before + 2, disk.Flushes);
    }

    [Fact]
    public void After_a_reboot_only_what_was_synchronized_is_trusted()
    {
        Guid id;
        using (ReplicaDisk disk = Open())
        {
            Round(disk, 1, complete: true, (0, 7));
            id = disk.Identity.ReplicaId;
        }

        using (ReplicaDisk disk = ReplicaDisk.Open(FilePath, Options() with { BootId = Guid.NewGuid() }))
        {
            Assert.Contains("--replica-sync none", disk.Distrust, StringComparison.Ordinal);
            Assert.Equal(ReplicaState.Empty, disk.Identity.State);
            Assert.NotEqual(id, disk.Identity.ReplicaId); // so that no sender takes it for what it was
        }

        File.Delete(FilePath);
        using (ReplicaDisk disk = Open(ReplicaSync.Commit))
        {
            Round(disk, 1, complete: true, (0, 7));
            disk.BeginRound(Session, 2);
            id = disk.Identity.ReplicaId;
        }

        using ReplicaDisk last = ReplicaDisk.Open(FilePath, Options(ReplicaSync.Commit) with { BootId = Guid.NewGuid() });
        Assert.Null(last.Distrust);
        Assert.Equal(id, last.Identity.ReplicaId);
        Assert.Equal((ReplicaState.Copying, 1L), (last.Identity.State, last.Identity.Round));
    }

    [Fact]
    public void Runs_that_do_not_fit_are_refused_before_anything_is_written()
    {
        using ReplicaDisk disk = Open();
        Assert.Throws<InvalidOperationException>(() => disk.Apply([new DiskRun(0, 4096, true)], []));
        disk.BeginRound(Session, 1);
        DiskException e = Assert.Throws<DiskException>(
            () => disk.Apply([new DiskRun(0, 4096, false), new DiskRun(1 << 20, 4096, true)], new byte[4096]));
        Assert.Contains($"{FilePath}: a run of round 1 at 1048576", e.Message, StringComparison.Ordinal);
        Assert.Throws<DiskException>(() => disk.Apply([new DiskRun(0, 4096, false)], new byte[4095]));
        Assert.Throws<DiskException>(() => disk.Apply([new DiskRun(-4096, 4096, true)], []));
        Assert.Throws<DiskException>(() => disk.Apply([new DiskRun(4096, long.MaxValue, true)], []));
        Assert.All(ReadAll(), value => Assert.Equal(0, value));
    }

    [SkippableFact]
    public void A_full_filesystem_is_named_and_the_round_before_stays_what_is_recorded()
    {
        string small = Directory.CreateDirectory(_directory["small"]).FullName;
        Skip.IfNot(Run("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small), "a small filesystem can be mounted only by root");
        try
        {
            string path = Path.Combine(small, "replica.img");
            using ReplicaDisk disk = ReplicaDisk.Open(path, Options());
            Round(disk, 1, complete: true, (0, 1));
            disk.BeginRound(Session, 2);
            DiskException e = Assert.Throws<DiskException>(
                () => disk.Apply([new DiskRun(8192, 4096, true), new DiskRun(65536, 1 << 19, false)], new byte[1 << 19]));
            Assert.Equal(DiskError.NoSpace, e.Error);
            Assert.Contains($"{path}: cannot write 524288 bytes at 65536", e.Message, StringComparison.Ordinal);
            Assert.Equal((ReplicaState.Copying, 1L), (disk.Identity.State, disk.Identity.Round));
        }
        finally
        {
            Assert.True(Run("umount", small));
        }
    }

    private static ImageFile LockedImage(string path)
    {
        ImageFile image = ImageFile.Open(path, readOnly: false);
        image.Lock(forWriting: true);
        return image;
    }

    private static bool Run(string program, params string[] arguments)
    {
        using System.Diagnostics.Process process = System.Diagnostics.Process.Start(
            new System.Diagnostics.ProcessStartInfo(program, arguments) { RedirectStandardError = true })!;
        process.StandardError.ReadToEnd();
        return process.WaitForExit(10_000) && process.ExitCode == 0;
    }

    private static void Round(ReplicaDisk disk, long round, bool complete, params (long Offset, byte Value)[] blocks)
    {
        disk.BeginRound(Session, round);
        foreach ((long offset, byte value) in blocks)
        {
            byte[] data = new byte[Math.Min(4096, Length - offset)];
            data.AsSpan().Fill(value);
            disk.Apply([new DiskRun(offset, data.Length, value == 0)], value == 0 ? [] : data);
        }

        disk.Commit(complete);
    }

    private ReplicaDisk Open(ReplicaSync sync = ReplicaSync.None, bool replace = false) =>
        ReplicaDisk.Open(FilePath, Options(sync) with { Replace = replace });

    private static ReplicaOptions Options(ReplicaSync sync = ReplicaSync.None) => new(Length, History, sync, false, Boot);

    private byte[] ReadAll()
    {
        using FileStream file = new(FilePath, new FileStreamOptions { Mode = FileMode.Open, Share = FileShare.ReadWrite });
        byte[] all = new byte[file.Length];
        file.ReadExactly(all);
        return all;
    }
}
