using System.Text.Json;
using Curling.Hosting.Control;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>
/// What travels when a replica is there already. The disk holds 32 MiB of what is there from the beginning; the guest writes to 4 MiB behind it,
/// also while nobody hears its sender.
/// </summary>
public sealed class DiskReturnTests(ITestOutputHelper output)
{
    private const int Old = 32 << 20;
    private const int At = 60 << 20;
    private const int Region = 4 << 20;
    private const string Program = "curling.disk=raw diskraw.rate=512 diskraw.region=4 diskraw.at=";

    [SkippableTheory]
    [InlineData("incremental")]
    [LongFormData("full")]
    public async Task Only_what_changed_travels_after_the_link_was_broken(string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        DiskPair pair = new(lab);
        Receiver receiver = await pair.StartReceiverAsync("tcp:127.0.0.1:0");
        await using CuttableLink link = new(receiver.Port);
        Sender sender = await StartWithOldContentAsync(pair, link.Endpoint, rounds);
        link.Cut();
        await sender.UntilAsync(s => s.State is not "protected", "the sender notices");
        await Task.Delay(TimeSpan.FromSeconds(10));
        link.Mend();
        await sender.UntilProtectedAsync();
        await ExpectFewBytesAsync(pair, sender);

        await EndAsync(pair, sender, receiver, At);
        await pair.EndAsync();
    }

    /// <summary>
    /// The sender and its QEMU are killed while its guest writes and nobody hears it; the standby is not wanted. The next run of the sender, on the
    /// same image, knows from the map beside it what the replica lacks.
    /// </summary>
    [SkippableTheory]
    [InlineData("incremental")]
    [LongFormData("full")]
    public async Task Only_what_changed_travels_after_the_sender_was_killed(string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        DiskPair pair = new(lab);
        Receiver receiver = await pair.StartReceiverAsync("tcp:127.0.0.1:0");
        await using CuttableLink link = new(receiver.Port);
        Sender killed = await StartWithOldContentAsync(pair, link.Endpoint, rounds);
        link.Cut();
        await killed.UntilAsync(s => s.State is not "protected", "the sender notices");
        SerialText serial = new((await killed.StatusAsync()).Serial!);
        long known = RawPatternCheck.Check(pair.Replica, At, Region);
        await serial.UntilWrittenAsync(known + 256);
        await DiskPair.KillAsync(killed);
        await receiver.UntilAsync("disk", s => s.Held, "is held");
        long here = RawPatternCheck.Check(pair.Image, At, Region);
        Assert.True(here > known, $"the image ends at write {here}, the replica at {known}");
        await receiver.DiscardAsync("disk");
        await receiver.StopAsync();

        pair.Digests = new DiskDigests(Path.Combine(lab.Directory, "replicas"));
        Receiver next = await pair.StartReceiverAsync("tcp:127.0.0.1:0");

        // It writes elsewhere: its numbers begin anew.
        Sender sender = await pair.StartSenderAsync(next.Endpoint, Program + "52", "--rounds", rounds);
        Assert.Contains(sender.Log, l => l.Contains("only what changed travels to the standby", StringComparison.Ordinal));
        await ExpectFewBytesAsync(pair, sender);
        await EndAsync(pair, sender, next, At - (8 << 20));
        await pair.EndAsync();
    }

    private static async Task<Sender> StartWithOldContentAsync(DiskPair pair, string target, string rounds)
    {
        byte[] old = new byte[Old];
        new Random(1).NextBytes(old);
        Ext4Image.CreateEmpty(pair.Image, DiskPair.ImageBytes);
        using (FileStream stream = File.OpenWrite(pair.Image))
        {
            stream.Position = Region;
            stream.Write(old);
        }

        Sender sender = await pair.StartSenderAsync(target, Program + "60", "--rounds", rounds);
        JsonElement first = await pair.StatusAsync(sender);
        Assert.True(first.GetProperty("bytesTotal").GetInt64() >= Old, $"the first copy: {first}");
        Assert.True(first.GetProperty("bytesSent").GetInt64() >= Old, $"the first copy: {first}");
        await sender.UntilFreshRoundAsync();
        return sender;
    }

    /// <summary>What was outstanding is no more than the guest writes to, before and after it was started anew, and the old content did not travel.</summary>
    private async Task ExpectFewBytesAsync(DiskPair pair, Sender sender)
    {
        JsonElement disk = await pair.StatusAsync(sender);
        output.WriteLine($"after the return: {disk}");
        Assert.InRange(disk.GetProperty("bytesTotal").GetInt64(), 1, 2 * Region);

        // The rounds since carry what the guest writes to again.
        Assert.InRange(disk.GetProperty("bytesSent").GetInt64(), 1, Old / 2);
        Assert.True(disk.GetProperty("complete").GetBoolean());
    }

    /// <summary>The replica is the disk all the same: its old content, and all writes up to one.</summary>
    private static async Task EndAsync(DiskPair pair, Sender sender, Receiver receiver, int at)
    {
        await sender.UntilFreshRoundAsync();
        await DiskPair.KillAsync(sender);
        SessionStatus held = await receiver.UntilAsync("disk", s => s.Held, "is held");
        long here = RawPatternCheck.Check(pair.Image, at, Region);
        Assert.InRange(RawPatternCheck.Check(pair.Replica, at, Region), 1, here);
        Assert.True(File.ReadAllBytes(pair.Replica).AsSpan(0, at).SequenceEqual(File.ReadAllBytes(pair.Image).AsSpan(0, at)));
        Assert.True((await receiver.PromoteAsync("disk")).Ok);
        await receiver.UntilPromotedAsync("disk");
        pair.Digests.MustAgree(held.CommittedRound);
        await receiver.StopAsync();
    }
}
