using Curling.Linux.Memory;
using Curling.Linux.Tests.Memory;
using Curling.Linux.Tracking;
using TrackInterop = Curling.Linux.Tracking.Interop;

namespace Curling.Linux.Tests.Tracking;

/// <summary>Tracking of a real process that writes known pages on command.</summary>
public sealed class DirtyTrackerTests
{
    private const ulong Page = TrackedProcess.Page;
    private const int Pages = TrackedProcess.Pages;
    private const ulong Area = Pages * Page;

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void Exactly_the_pages_written_are_reported_once(bool shared)
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = process.Attach();
        ulong area = shared ? process.Shared : process.Own;
        process.Write(area + (3 * Page), 1);
        tracker.Register(area, Area);
        Assert.Contains(3, Scan(tracker, area, protect: true));
        Assert.Empty(Scan(tracker, area, protect: true));

        // A page in use, pages never touched before, both ends, neighbours.
        int[] pages = [0, 3, 17, 18, 19, 512, Pages - 1];
        foreach (int page in pages)
        {
            process.Write(area + ((ulong)page * Page) + 100, 42);
        }

        Assert.Equal(pages, Scan(tracker, area, protect: true));
        Assert.Empty(Scan(tracker, area, protect: true));
        process.Write(area + (18 * Page), 43);
        Assert.Equal([18], Scan(tracker, area, protect: true));
        Assert.Equal(42, process.Read(area + (18 * Page) + 100));
        Assert.Empty(Scan(tracker, area, protect: true));
    }

    [SkippableFact]
    public void Looking_without_protecting_leaves_the_pages_dirty()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Shared);
        process.Write(process.Shared + (5 * Page), 1);
        Assert.Equal([5], Scan(tracker, process.Shared, protect: false));
        Assert.Equal([5], Scan(tracker, process.Shared, protect: false));
        Assert.Equal([5], Scan(tracker, process.Shared, protect: true));
        Assert.Empty(Scan(tracker, process.Shared, protect: false));
    }

    [SkippableFact]
    public void Random_writes_are_all_found_whatever_the_vector_holds()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Own);
        Random random = new(1);
        for (int round = 0; round < 20; round++)
        {
            SortedSet<int> written = [];
            for (int i = random.Next(60); i > 0; i--)
            {
                int page = random.Next(Pages);
                process.Write(process.Own + ((ulong)page * Page) + (ulong)random.Next((int)Page), (byte)random.Next(256));
                written.Add(page);
            }

            Assert.Equal(written, Scan(tracker, process.Own, protect: true, room: 1 + (round % 5)));
        }
    }

    [SkippableFact]
    public void A_full_vector_says_how_far_it_came_and_protects_nothing_behind_that()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Shared);
        foreach (int page in (int[])[2, 4, 6])
        {
            process.Write(process.Shared + ((ulong)page * Page), 1);
        }

        PageRegion[] two = new PageRegion[2];
        Assert.Equal(2, tracker.Scan(process.Shared, process.Shared + Area, two, protect: true, out ulong walkEnd));
        Assert.Equal(process.Shared + (4 * Page), two[1].Start);
        Assert.Equal(process.Shared + (5 * Page), two[1].End);
        Assert.InRange(walkEnd, process.Shared + (5 * Page), process.Shared + (6 * Page));
        Assert.Equal([6], Scan(tracker, process.Shared, protect: true));
    }

    [SkippableFact]
    public void A_scan_with_no_room_for_an_answer_is_refused_and_loses_nothing()
    {
        // The kernel would protect the pages and tell nobody: silently lost memory.
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Shared);
        process.Write(process.Shared, 1);
        Assert.Throws<ArgumentException>(() => tracker.Scan(process.Shared, process.Shared + Area, [], protect: true, out _));
        Assert.Equal([0], Scan(tracker, process.Shared, protect: true));
    }

    [SkippableFact]
    public void What_we_write_into_the_process_counts_as_written()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Own);
        ProcessMemory.Write(process.Pid, process.Own + (9 * Page) + 4000, new byte[200]);
        Assert.Equal([9, 10], Scan(tracker, process.Own, protect: true));
    }

    [SkippableFact]
    public void A_file_in_memory_that_we_map_too_is_tracked_in_the_process_alone()
    {
        using TemporaryDirectory directory = new();
        using SharedMapping ours = SharedMapping.Create(directory.File("ram"), (long)Area);
        using TrackedProcess process = new();
        ulong area = process.Map(directory.File("ram"), (long)Area);
        using DirtyTracker tracker = Tracked(process, area);

        process.Write(area + (7 * Page), 77);
        Assert.Equal([7], Scan(tracker, area, protect: true));
        Assert.Equal(77, ours.Span(7 * (long)Page, 1)[0]);

        // Reading through our mapping is what the capture does; it must not make a page dirty, nor lift its protection.
        _ = MemoryCopy.IsZero(ours.Span(0, (int)Area));
        Assert.Empty(Scan(tracker, area, protect: true));
        process.Write(area + (7 * Page), 78);
        Assert.Equal([7], Scan(tracker, area, protect: true));
    }

    /// <summary>Scanning alone would protect a large page as one, and find all 512 pages written after a write to one of them.</summary>
    [SkippableFact]
    public void Memory_in_large_pages_is_tracked_page_by_page_once_it_is_protected()
    {
        using TemporaryDirectory directory = new();
        MemoryFilesystemTests.MountOrSkip(directory.Path, 16 << 20);
        try
        {
            using SharedMapping ours = SharedMapping.Create(directory.File("ram"), (long)Area);
            using TrackedProcess process = new();
            ulong area = process.Map(directory.File("ram"), (long)Area);
            process.Write(area, 1);
            Skip.If(process.LargeBytes == 0, "SKIPPED: the kernel had no large page for the process");
            using DirtyTracker tracker = process.Attach();
            tracker.Register(area, Area);
            tracker.Protect(area, Area / 2);
            Assert.Empty(Scan(tracker, area, protect: true, length: Area / 2));
            process.Write(area + (3 * Page), 1);
            process.Write(area + (511 * Page), 1);
            Assert.Equal([3, 511], Scan(tracker, area, protect: true, length: Area / 2));

            // The second large page appears only now, in memory that is registered and not protected yet.
            process.Write(area + (700 * Page), 1);
            tracker.Protect(area + (Area / 2), Area / 2);
            Assert.Empty(Scan(tracker, area, protect: true));
            process.Write(area + (701 * Page), 1);
            process.Write(area + (3 * Page), 2);
            Assert.Equal([3, 701], Scan(tracker, area, protect: true));
            Assert.Equal(0, process.LargeBytes);
        }
        finally
        {
            Assert.True(MemoryFilesystem.Unmount(directory.Path));
        }
    }

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public void What_is_protected_counts_as_unwritten_whether_it_was_used_or_not(bool shared)
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = process.Attach();
        ulong area = shared ? process.Shared : process.Own;
        process.Write(area + (3 * Page), 1);
        tracker.Register(area, Area);
        tracker.Protect(area, Area);
        Assert.Empty(Scan(tracker, area, protect: false));
        process.Write(area + (3 * Page), 2);
        process.Write(area + (4 * Page), 2);
        Assert.Equal([3, 4], Scan(tracker, area, protect: false));
        tracker.Protect(area + (4 * Page), Page);
        Assert.Equal([3], Scan(tracker, area, protect: true));
    }

    [SkippableFact]
    public void Protecting_what_is_not_registered_or_not_there_any_more_is_an_error()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = process.Attach();
        Assert.Contains($"{process.Pid}", Assert.Throws<IOException>(() => tracker.Protect(process.Own, Area)).Message, StringComparison.Ordinal);
        tracker.Register(process.Own, Area);
        process.Kill();
        Assert.Contains($"{process.Pid}", Assert.Throws<IOException>(() => tracker.Protect(process.Own, Area)).Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Memory_that_cannot_be_tracked_is_refused()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = process.Attach();
        TrackingUnavailableException e = Assert.Throws<TrackingUnavailableException>(() => tracker.Register(0x10000, Page));
        Assert.Contains("0x10000", e.Message, StringComparison.Ordinal);
        Assert.Contains($"{process.Pid}", e.Message, StringComparison.Ordinal);

        // Not registered: a scan that protects must not pass it over in silence.
        Assert.Throws<IOException>(() => Scan(tracker, process.Own, protect: true));
    }

    [SkippableFact]
    public void The_process_runs_on_after_the_tracker_and_can_be_tracked_again()
    {
        using TrackedProcess process = new();
        for (int i = 0; i < 3; i++)
        {
            using (DirtyTracker tracker = Tracked(process, process.Own))
            {
                process.Write(process.Own + Page, (byte)i);
                Assert.Equal([1], Scan(tracker, process.Own, protect: true));
            }

            // Protected pages, pages never touched: all still work, and nothing of ours is left in the process.
            process.Write(process.Own + Page, 200);
            process.Write(process.Own + ((ulong)(100 + i) * Page), 201);
            Assert.Equal(200, process.Read(process.Own + Page));
            Assert.Equal(201, process.Read(process.Own + ((ulong)(100 + i) * Page)));
            Assert.Equal(0, process.Userfaultfds);
        }

        process.Quit();
    }

    [SkippableFact]
    public void Disposing_twice_closes_nothing_else()
    {
        using TrackedProcess process = new();
        DirtyTracker tracker = process.Attach();
        tracker.Dispose();
        using SharedMapping bystander = SharedMapping.Create($"/dev/shm/curling-test-{Guid.NewGuid():N}"[..32], 4096);
        File.Delete(bystander.Path);
        tracker.Dispose();
        bystander.PunchHole(0, 4096);
    }

    [SkippableFact]
    public void A_process_whose_main_thread_computes_is_attached_to_as_well()
    {
        using TrackedProcess process = new(spinning: true);
        using DirtyTracker tracker = Tracked(process, process.Own);
        process.Write(process.Own + (8 * Page), 1);
        Assert.Equal([8], Scan(tracker, process.Own, protect: true));
        process.Quit();
    }

    [SkippableFact]
    public async Task Attaching_loses_no_signal_and_is_confused_by_none()
    {
        const int Sent = 3000;
        using TrackedProcess process = new();
        TrackedProcess.SkipUnlessSupported();
        Task signals = Task.Run(() =>
        {
            for (int i = 0; i < Sent; i++)
            {
                // A queued signal each: kill(2) with a real-time signal. The queue has a limit; a full one is asked again.
                while (TrackInterop.syscall(62 /* kill */, process.Pid, process.RealTimeSignal, 0) != 0)
                {
                    Thread.Yield();
                }

                if (i % 10 == 0)
                {
                    Thread.Sleep(1);
                }
            }
        });
        int attached = 0;
        while (!signals.IsCompleted || attached < 20)
        {
            using DirtyTracker tracker = Tracked(process, process.Own);
            attached++;
        }

        await signals;
        Wait.Until(() => process.Signals == Sent, $"all {Sent} signals to arrive, the last count was {process.Signals}");
        process.Quit();
    }

    [SkippableFact]
    public void A_process_that_is_gone_is_an_error_not_an_empty_list()
    {
        using TrackedProcess process = new();
        using DirtyTracker tracker = Tracked(process, process.Own);
        process.Write(process.Own, 1);
        process.Kill();
        IOException e = Assert.Throws<IOException>(() => Scan(tracker, process.Own, protect: true));
        Assert.Contains($"{process.Pid}", e.Message, StringComparison.Ordinal);
        Assert.Throws<TrackingUnavailableException>(() => DirtyTracker.Attach(process.Pid));
    }

    [SkippableFact]
    public void Our_descriptors_do_not_pile_up()
    {
        using TrackedProcess process = new();
        process.Attach().Dispose();
        int before = OwnUserfaultfds();
        for (int i = 0; i < 10; i++)
        {
            process.Attach().Dispose();
        }

        Assert.Equal(before, OwnUserfaultfds());
    }

    private static int OwnUserfaultfds() => Directory.GetFiles("/proc/self/fd").Count(
        f => new FileInfo(f).LinkTarget is { } target
            && (target.Contains("userfaultfd", StringComparison.Ordinal) || target.Contains("pagemap", StringComparison.Ordinal)));

    private static DirtyTracker Tracked(TrackedProcess process, ulong area)
    {
        DirtyTracker tracker = process.Attach();
        try
        {
            tracker.Register(area, Area);
            Scan(tracker, area, protect: true);
            return tracker;
        }
        catch
        {
            tracker.Dispose();
            throw;
        }
    }

    /// <summary>The numbers of the pages that are dirty, the whole area, in as many calls as it takes.</summary>
    private static List<int> Scan(DirtyTracker tracker, ulong area, bool protect, int room = 64, ulong length = Area)
    {
        List<int> pages = [];
        PageRegion[] regions = new PageRegion[room];
        for (ulong from = area; from < area + length;)
        {
            int count = tracker.Scan(from, area + length, regions, protect, out ulong walkEnd);
            Assert.InRange(walkEnd, from + Page, area + length);
            foreach (PageRegion region in regions.AsSpan(0, count))
            {
                Assert.InRange(region.Start, from, region.End - Page);
                Assert.InRange(region.End, region.Start + Page, walkEnd);
                Assert.Equal(TrackInterop.PageIsWritten, region.Categories);
                for (ulong at = region.Start; at < region.End; at += Page)
                {
                    pages.Add((int)((at - area) / Page));
                }
            }

            from = walkEnd;
        }

        return pages;
    }
}
