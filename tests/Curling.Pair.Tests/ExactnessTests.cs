using System.Globalization;
using Curling.Hosting.Options;
using Curling.Linux.Tracking;
using Curling.Protocol;
using Curling.Recv;
using Curling.Recv.Sessions;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;
using Curling.Send;
using Curling.Send.Capture;
using Curling.Send.Links;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>
/// The test that matters most: with a guest that writes as fast as it can, the standby's whole memory equals the guest's at
/// the cut, byte for byte, at random rounds of many. And with a tracker that is broken on purpose, this is found out.
/// </summary>
/// <remarks><c>CURLING_EXACT_ROUNDS</c> sets the rounds of each case.</remarks>
public sealed class ExactnessTests(ITestOutputHelper output)
{
    private static int Rounds => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_EXACT_ROUNDS"), CultureInfo.InvariantCulture, out int rounds) ? rounds : 500;

    [SkippableTheory]
    [InlineData("7.2", "tcg", "", "None", true)]
    [InlineData("7.2", "kvm", ", \"display\": { \"type\": \"vnc\" }", "Lz4", false)]
    [InlineData("10.0", "tcg", ", \"display\": { \"type\": \"vnc\" }", "Zstd", false)]
    [InlineData("10.0", "kvm", "", "Auto", true)]
    public async Task Standby_equals_the_guest_at_the_cut(string qemu, string accelerator, string more, string compress, bool large)
    {
        Comparison comparison = await KeptInAsync(large, () => RunAsync(
            qemu, accelerator, "ws=8M rate=0", more, TimeSpan.Zero, Rounds, held: 25, Enum.Parse<CompressChoice>(compress)));
        Assert.True(comparison.Differences.Count == 0, string.Join("; ", comparison.Differences.Take(5)));
        Assert.True(comparison.Compared >= 20, $"only {comparison.Compared} rounds were compared");
    }

    /// <remarks>
    /// With KVM the guest's first sweep takes long here: of its few regions the second thread looks through all. With TCG half of what is in use
    /// lies behind the first 64 regions, once the guest has come that far.
    /// </remarks>
    [SkippableTheory]
    [InlineData("7.2", "tcg", "ws=240M rate=0", "256MiB", 100)]
    [InlineData("10.0", "kvm", "ws=8M rate=0", "64MiB", 4)]
    public async Task Standby_equals_the_guest_when_two_threads_look_through_its_memory(
        string qemu, string accelerator, string append, string memory, int regions)
    {
        int usual = IncrementalCapture.FromRegions;
        IncrementalCapture.FromRegions = 2;
        try
        {
            Comparison comparison = await RunAsync(
                qemu, accelerator, append, "", TimeSpan.FromMilliseconds(20), 80, held: 25, memory: memory,
                enough: c => c is { Compared: >= 15, Changed: > 5000 } && c.RegionsAtEnd > regions);
            Assert.True(comparison.Differences.Count == 0, string.Join("; ", comparison.Differences.Take(5)));
            Assert.True(comparison.Compared >= 15, $"only {comparison.Compared} rounds were compared");
            Assert.True(comparison.RegionsAtEnd > regions, $"only {comparison.RegionsAtEnd} regions are tracked");
            Assert.True(comparison.Changed > 5000, $"the guest changed only {comparison.Changed} pages between the rounds that were compared");
        }
        finally
        {
            IncrementalCapture.FromRegions = usual;
        }
    }

    [SkippableFact]
    public async Task Block_that_is_left_out_is_found()
    {
        IncrementalCapture.LeaveOut = name => name == "ram";
        try
        {
            Comparison comparison = await RunAsync("7.2", "tcg", "ws=8M rate=0", "", TimeSpan.Zero, 20, held: 18);
            Assert.NotEmpty(comparison.Differences);
        }
        finally
        {
            IncrementalCapture.LeaveOut = null;
        }
    }

    [SkippableFact]
    public async Task Copying_before_protecting_is_found()
    {
        // Fast enough to write during a copy, slow enough not to come by again before the cut.
        IncrementalCapture.CopyBeforeProtect = true;
        try
        {
            Comparison comparison = await RunAsync("7.2", "tcg", "ws=32M rate=200000", "", TimeSpan.FromMilliseconds(40), 60, held: 55);
            Assert.NotEmpty(comparison.Differences);
        }
        finally
        {
            IncrementalCapture.CopyBeforeProtect = false;
        }
    }

    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Memory_that_is_used_for_the_first_time_is_copied(bool large)
    {
        Comparison comparison = await KeptInAsync(large, SpreadingAsync);
        Assert.True(comparison.Differences.Count == 0, string.Join("; ", comparison.Differences.Take(5)));
        Assert.True(comparison.Compared >= 15, $"only {comparison.Compared} rounds were compared");
        Assert.True(
            comparison.RegionsAtEnd >= comparison.RegionsAtStart + 10,
            $"{comparison.RegionsAtStart} regions were tracked at the first comparison, {comparison.RegionsAtEnd} at the last");
    }

    [SkippableFact]
    public async Task Memory_that_is_used_for_the_first_time_and_left_out_is_found()
    {
        IncrementalCapture.LeaveNew = true;
        try
        {
            Assert.NotEmpty((await SpreadingAsync()).Differences);
        }
        finally
        {
            IncrementalCapture.LeaveNew = false;
        }
    }

    /// <summary>Runs with all memory in large pages, or in small ones.</summary>
    private static async Task<Comparison> KeptInAsync(bool large, Func<Task<Comparison>> run)
    {
        using LargePages? pages = large ? LargePages.MountOrSkip() : null;
        Environment.SetEnvironmentVariable("CURLING_SHM", pages?.Path ?? "/dev/shm");
        try
        {
            return await run();
        }
        finally
        {
            Environment.SetEnvironmentVariable("CURLING_SHM", null);
        }
    }

    /// <summary>A Linux guest while it boots: nothing uses memory faster that had none before.</summary>
    private Task<Comparison> SpreadingAsync() =>
        RunAsync("7.2", "tcg", null, "", TimeSpan.FromMilliseconds(5), 300, held: 25);

    private async Task<Comparison> RunAsync(
        string qemu, string accelerator, string? append, string more, TimeSpan interval, int rounds, int held,
        CompressChoice compress = CompressChoice.None, string memory = "64MiB", Func<Comparison, bool>? enough = null)
    {
        try
        {
            DirtyTracker.CheckSupport();
        }
        catch (TrackingUnavailableException e)
        {
            Skip.If(true, e.Message);
        }

        string binary = TestGuests.Qemu(qemu);
        if (accelerator == "kvm")
        {
            TestGuests.NeedsKvm();
        }

        DirectoryInfo directory = Directory.CreateTempSubdirectory("ce");
        try
        {
            string guest = append is null
                ? TestGuests.WriteLinux(directory.FullName, "exact", more)
                : TestGuests.WriteBuiltin(directory.FullName, "exact", accelerator, memory, append, more);
            using ReceiverDaemon receiver = new(
                new ReceiverOptions(
                    new Endpoint("127.0.0.1", 0), FailureAction.Hold, TimeSpan.FromSeconds(10), 1, 1L << 30, 1L << 30, binary,
                    Path.Combine(directory.FullName, "r.sock"), null),
                TimeProvider.System,
                NullLogger<ReceiverDaemon>.Instance);
            await receiver.StartAsync(CancellationToken.None);
            Endpoint target = await receiver.Listening.WaitAsync(TimeSpan.FromSeconds(60));
            using SenderDaemon sender = new(
                new SenderOptions(
                    target, ByteRate.Max, guest, RoundChoice.Incremental, interval, 0.05, 1, TimeSpan.FromSeconds(10), binary,
                    Path.Combine(directory.FullName, "s.sock"))
                {
                    Compress = compress,
                },
                TimeProvider.System,
                NullLogger<SenderDaemon>.Instance);
            await sender.StartAsync(CancellationToken.None);
            int pid = (await sender.Started.WaitAsync(TimeSpan.FromSeconds(60))).Qemu.Pid;
            Comparison comparison = new(sender.Incremental!, () => receiver.Sessions.FirstOrDefault(), pid, rounds, held);
            sender.Incremental!.AtCut = comparison.AtCut;
            using CancellationTokenSource limit = new(TimeSpan.FromMinutes(2));
            while (sender.Incremental is not null && sender.State != SenderState.Ended && !limit.IsCancellationRequested
                && !(enough?.Invoke(comparison) ?? comparison.LastRound >= rounds))
            {
                await Task.Delay(20);
            }

            output.WriteLine($"{comparison.LastRound} rounds, {comparison.Compared} compared, {comparison.Bytes >> 20} MiB held equal");
            await sender.StopAsync(CancellationToken.None);
            await receiver.StopAsync(CancellationToken.None);
            Assert.NotEqual(0, comparison.LastRound);
            return comparison;
        }
        finally
        {
            directory.Delete(recursive: true);
        }
    }

    /// <summary>
    /// Keeps the guest's memory at chosen cuts, and holds the standby's against it in the next cut: with one round in flight
    /// that round is committed by then, and the next has not ended.
    /// </summary>
    private sealed class Comparison(IncrementalCapture capture, Func<GuestSession?> session, int pid, int rounds, int held)
    {
        private readonly Random _random = new(rounds + held);
        private readonly byte[] _page = new byte[ProtocolLimits.PageBytes];
        private List<byte[]>? _kept;
        private List<byte[]>? _before;
        private long _keptRound;

        public List<string> Differences { get; } = [];

        public int Compared { get; private set; }

        public long Bytes { get; private set; }

        /// <summary>Pages that were others in one round that was compared than in the one before.</summary>
        public long Changed { get; private set; }

        public long LastRound { get; private set; }

        /// <summary>Regions of the guest's memory that were tracked at the first comparison, and at the last.</summary>
        public int RegionsAtStart { get; private set; }

        /// <inheritdoc cref="RegionsAtStart"/>
        public int RegionsAtEnd { get; private set; }

        public void AtCut(long round)
        {
            if (_kept is not null)
            {
                Compare();
                _kept = null;
            }

            if (_random.NextDouble() < 1.3 * held / rounds)
            {
                _keptRound = round;
                _kept = [];
                foreach (TrackedBlock block in capture.Tracked)
                {
                    // Holes are left alone: reading one in QEMU would make it memory, and the capture would find it in use.
                    byte[] content = new byte[block.Bytes];
                    for (long page = 0; block.NextData(page, out long start, out long stop); page = stop)
                    {
                        Span<byte> part = content.AsSpan((int)start * ProtocolLimits.PageBytes, (int)(stop - start) * ProtocolLimits.PageBytes);
                        ProcessMemory.Read(pid, block.Address + (ulong)(start * ProtocolLimits.PageBytes), part);
                    }

                    _kept.Add(content);
                }
            }

            LastRound = round;
        }

        private void CountChanges(List<byte[]> kept)
        {
            for (int b = 0; _before is not null && b < kept.Count; b++)
            {
                for (int at = 0; at < kept[b].Length; at += _page.Length)
                {
                    Changed += kept[b].AsSpan(at, _page.Length).SequenceEqual(_before[b].AsSpan(at, _page.Length)) ? 0 : 1;
                }
            }

            _before = kept;
        }

        private int Regions()
        {
            RegionSet tracked = capture.Tracked.Single(b => b.Name == "ram").Tracked;
            int regions = 0;
            for (int region = tracked.Next(0, isIn: true); region < tracked.Regions; region = tracked.Next(region + 1, isIn: true))
            {
                regions++;
            }

            return regions;
        }

        private void Compare()
        {
            GuestSession here = session()!;
            if (here.CommittedRound != _keptRound)
            {
                Differences.Add($"round {here.CommittedRound} is committed at the cut after round {_keptRound}");
                return;
            }

            Compared++;
            RegionsAtEnd = Regions();
            RegionsAtStart = RegionsAtStart == 0 ? RegionsAtEnd : RegionsAtStart;
            CountChanges(_kept!);
            IReadOnlyList<IStandbyBlock> blocks = here.Standby!.Blocks;
            for (int b = 0; b < _kept!.Count; b++)
            {
                for (long page = 0; page < blocks[b].Pages; page++)
                {
                    if (blocks[b].TryRead(page, _page))
                    {
                        Bytes += _page.Length;
                        if (!_kept[b].AsSpan((int)page * _page.Length, _page.Length).SequenceEqual(_page))
                        {
                            Differences.Add($"round {_keptRound}: page {page} of {capture.Tracked[b].Name} differs");
                        }
                    }
                }
            }
        }
    }
}
