using System.Globalization;
using Curling.Qemu.BuiltinGuest;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>
/// The primary is killed with its QEMU, at random moments inside and between rounds: the standby runs, counts on from the
/// last committed round, never from a later and never from an older one, and finds its memory to be one instant.
/// </summary>
/// <remarks><c>CURLING_KILLS</c> sets the kills of each case; the default keeps the whole run short.</remarks>
public sealed class KillTests(ITestOutputHelper output)
{
    private static int Kills(int standard) => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_KILLS"), CultureInfo.InvariantCulture, out int kills) ? kills : standard;

    [SkippableTheory]
    [InlineData("7.2", "incremental", "tcg", "0")]
    [InlineData("7.2", "incremental", "kvm", "auto")]
    [InlineData("7.2", "full", "tcg", "0")]
    [InlineData("7.2", "full", "kvm", "300ms")]
    [InlineData("10.0", "incremental", "tcg", "300ms")]
    [InlineData("10.0", "incremental", "kvm", "0")]
    [InlineData("10.0", "full", "tcg", "auto")]
    public async Task Built_in_guest_counts_on_from_the_last_committed_round(string qemu, string rounds, string accelerator, string interval)
    {
        if (accelerator == "kvm")
        {
            TestGuests.NeedsKvm();
        }

        int kills = Kills(1);
        Random random = new(HashCode(qemu, rounds, accelerator));
        for (int i = 0; i < kills; i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu));
            string guest = TestGuests.WriteBuiltin(lab.Directory, "counter", accelerator, append: "ws=8M rate=2000");
            await KillAndCheckAsync(lab, guest, "counter", rounds, interval, random.Next(0, 250));
        }
    }

    [SkippableTheory]
    [InlineData("7.2", "incremental", "0", true)]
    [InlineData("10.0", "full", "100ms", false)]
    public async Task Linux_guest_counts_on_from_the_last_committed_round(string qemu, string rounds, string interval, bool large)
    {
        using LargePages? pages = large ? LargePages.MountOrSkip() : null;
        int kills = Kills(1);
        Random random = new(HashCode(qemu, rounds, interval));
        for (int i = 0; i < kills; i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu), pages?.Path);
            await KillAndCheckAsync(lab, TestGuests.WriteLinux(lab.Directory, "linux"), "linux", rounds, interval, random.Next(0, 400));
        }
    }

    [SkippableTheory]
    [InlineData("lz4")]
    [InlineData("zstd")]
    public async Task Guest_whose_pages_travel_smaller_counts_on_from_the_last_committed_round(string compress)
    {
        int kills = Kills(1);
        Random random = new(HashCode(compress));
        for (int i = 0; i < kills; i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu("7.2"));
            string guest = TestGuests.WriteBuiltin(lab.Directory, "counter", append: "ws=8M rate=2000");
            await KillAndCheckAsync(lab, guest, "counter", "incremental", "0", random.Next(0, 250), "--compress", compress);
        }
    }

    /// <summary>The exact form: the committed memory itself says how far the guest had counted.</summary>
    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task Promoted_guest_prints_the_line_after_the_one_in_committed_memory(string qemu)
    {
        await using Lab lab = new(output, TestGuests.Qemu(qemu));
        string guest = TestGuests.WriteBuiltin(lab.Directory, "exact", append: "ws=8M rate=2000");
        Receiver receiver = await lab.StartReceiverAsync("--on-failure", "hold");
        Sender sender = lab.StartSender(receiver.Endpoint, guest, "--rounds", "incremental");
        SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
        await primary.UntilAsync(5);
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        var held = await receiver.UntilAsync("exact", s => s.Held, "is held");
        IReadOnlyList<GuestLine> before = primary.Lines();

        string ram = Directory.GetFiles(lab.Memory, "ram", SearchOption.AllDirectories).Single(p => p.Contains("curling-recv"));
        long printed = ReadHeader(ram);
        Assert.True(printed <= before[^1].Count + 1, $"committed memory has printed {printed}, the primary {before[^1]}");
        Assert.True((await receiver.PromoteAsync("exact")).Ok);
        IReadOnlyList<GuestLine> after = await new SerialLog(held.Serial!).UntilAsync(3);

        // A line that was under way at the cut is printed to its end; the next is the one after those printed.
        Assert.InRange(after[0].Count, printed, printed + 1);
        SerialLog.AssertOneLife(after);
        await lab.ClearAwayAsync();
    }

    private static int HashCode(params string[] words) => string.Concat(words).Aggregate(17, (hash, c) => unchecked((hash * 31) + c));

    private static long ReadHeader(string ram)
    {
        using FileStream stream = File.OpenRead(ram);
        stream.Seek(BuiltinGuestImage.HeaderAddress + 8, SeekOrigin.Begin);
        byte[] lines = new byte[8];
        stream.ReadExactly(lines);
        return BitConverter.ToInt64(lines);
    }

    private static async Task KillAndCheckAsync(
        Lab lab, string guest, string name, string rounds, string interval, int delay, params string[] more)
    {
        Receiver receiver = await lab.StartReceiverAsync("--log-level", "debug");
        Sender sender = lab.StartSender(receiver.Endpoint, guest, ["--rounds", rounds, "--interval", interval, .. more]);
        SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
        await primary.UntilAsync(3);

        // What was printed before a round that is committed now must never be lost.
        long safe = primary.Lines()[^1].Count;
        long committed = (await sender.UntilFreshRoundAsync()).CommittedRound;
        await Task.Delay(delay);
        int qemu = (await sender.StatusAsync()).GuestPid!.Value;
        sender.Kill();
        await sender.ExitAsync();
        var status = await receiver.UntilPromotedAsync(name);
        await receiver.UntilAsync(() => !Linux.Processes.ProcessInfo.Exists(qemu), "the primary's QEMU is dead");
        IReadOnlyList<GuestLine> before = primary.Lines();
        IReadOnlyList<GuestLine> after = await new SerialLog(status.Serial!).UntilAsync(6);

        SerialLog.AssertOneLife(before);
        SerialLog.AssertOneLife(after);
        Assert.True(status.CommittedRound >= committed, $"promoted from round {status.CommittedRound}, {committed} was committed");
        Assert.True(after[0].Count > safe, $"promoted at {after[0]}, but {safe} was committed");
        Assert.True(after[0].Count <= before[^1].Count + 2, $"promoted at {after[0]}, the primary only came to {before[^1]}");
        Assert.Equal(2, status.Generation);
        string last = receiver.Log.Last(l => l.Contains("committed: "));
        Assert.Contains($"round {status.CommittedRound} (", last);

        // A killed daemon cannot clear away; the next one on its host does.
        await lab.ClearAwayAsync();
    }
}
