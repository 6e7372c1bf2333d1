using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Curling.Hosting.Control;
using Curling.Qemu.BuiltinGuest;
using Curling.TestKit.Arbiter;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>The receiver is killed: the next one on its address finds the committed round, whole.</summary>
/// <remarks><c>CURLING_KILLS</c> sets the kills of each case; the default keeps the whole run short.</remarks>
public sealed class ReceiverRestartTests(ITestOutputHelper output)
{
    private static int Kills => int.TryParse(
        Environment.GetEnvironmentVariable("CURLING_KILLS"), CultureInfo.InvariantCulture, out int kills) ? kills : 2;

    [SkippableTheory]
    [InlineData("7.2", "incremental", "0", "", false)]
    [InlineData("10.0", "incremental", "0", ", \"display\": { \"type\": \"vnc\" }", true)]
    [InlineData("7.2", "full", "0", "", true)]
    public async Task Both_sides_die_and_the_operator_promotes_what_the_next_receiver_finds(
        string qemu, string rounds, string interval, string more, bool large)
    {
        using LargePages? pages = large ? LargePages.MountOrSkip() : null;
        Random random = new(qemu.Length + rounds.Length + more.Length);
        for (int i = 0; i < Kills; i++)
        {
            await using Lab lab = new(output, TestGuests.Qemu(qemu), pages?.Path);
            string endpoint = FreeEndpoint();
            Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint, "--log-level", "debug");
            Sender sender = lab.StartSender(
                endpoint, TestGuests.WriteBuiltin(lab.Directory, "kept", append: "ws=8M rate=4000", more: more),
                "--rounds", rounds, "--interval", interval);
            SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
            await primary.UntilAsync(3);
            long safe = primary.Lines()[^1].Count;
            long committed = (await sender.UntilFreshRoundAsync()).CommittedRound;
            await Task.Delay(random.Next(0, 60));
            receiver.Kill();
            sender.Kill();
            await receiver.ExitAsync();
            await sender.ExitAsync();
            IReadOnlyList<GuestLine> before = primary.Lines();

            Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
            SessionStatus found = await next.UntilAsync("kept", s => s is { Held: true, StandbyPid: not null }, "is found and held");
            Assert.True(found.CommittedRound >= committed, $"round {found.CommittedRound} was found, {committed} was committed");
            Assert.Contains(next.Log, l => l.Contains($"found at round {found.CommittedRound}"));
            Assert.True((await next.PromoteAsync("kept")).Ok);
            SessionStatus promoted = await next.UntilPromotedAsync("kept");
            IReadOnlyList<GuestLine> after = await new SerialLog(promoted.Serial!).UntilAsync(6);
            SerialLog.AssertOneLife(after);
            Assert.True(after[0].Count > safe, $"promoted at {after[0]}, but {safe} was committed");
            Assert.True(after[0].Count <= before[^1].Count + 2, $"promoted at {after[0]}, the primary only came to {before[^1]}");
        }
    }

    [SkippableTheory]
    [InlineData("incremental")]
    [InlineData("full")]
    public async Task Sender_that_lives_goes_on_with_the_next_receiver(string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        Sender sender = lab.StartSender(
            endpoint, TestGuests.WriteBuiltin(lab.Directory, "alive", append: "ws=8M rate=2000"), "--rounds", rounds, "--interval", "0");
        SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
        long committed = (await sender.UntilFreshRoundAsync()).CommittedRound;
        receiver.Kill();
        await receiver.ExitAsync();
        await sender.UntilAsync(s => s.State == "unprotected", "the guest runs alone");
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        await sender.UntilAsync(s => s.State == "protected" && s.CommittedRound > committed, "the guest is protected again");
        Assert.Contains(next.Log, l => l.Contains("found at round "));
        await sender.UntilFreshRoundAsync();
        await primary.UntilAsync(primary.Lines().Count + 3);
        sender.Kill();
        SessionStatus promoted = await next.UntilPromotedAsync("alive");
        Assert.True(promoted.CommittedRound > committed);
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(5));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Sender_that_is_lost_before_its_new_first_round_is_committed_is_not_replaced_by_an_old_one()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        Sender sender = lab.StartSender(
            endpoint, TestGuests.WriteBuiltin(lab.Directory, "slow", memory: "128MiB", append: "ws=32M rate=2000"),
            "--rounds", "incremental", "--bandwidth", "16MiB/s", "--compress", "none");
        await sender.UntilProtectedAsync();
        await sender.UntilFreshRoundAsync();
        receiver.Kill();
        await receiver.ExitAsync();
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        await next.UntilAsync("slow", s => s.Sender is not null, "its sender is back");
        await sender.UntilAsync(s => s.State == "base", "the first round is on its way");
        sender.Kill();
        SessionStatus held = await next.UntilAsync("slow", s => s is { Held: true, Sender: null }, "is held");
        Assert.Equal("protected", held.State);
        Assert.DoesNotContain(next.Log, l => l.Contains("PROMOTED:"));
        await next.StopAsync();

        // Stopped in order, with nobody to begin anew: the round is still there for the next.
        Receiver third = await lab.StartReceiverAsync("--listen", endpoint);
        SessionStatus found = await third.UntilAsync("slow", s => s is { Held: true, StandbyPid: not null }, "is found again");
        Assert.Equal(held.CommittedRound, found.CommittedRound);
        await third.DiscardAsync("slow");
        await third.StopAsync();
    }

    /// <summary>The primary is lost, and the standby does not start: its round is all there is of the guest.</summary>
    [SkippableFact]
    public async Task Round_whose_promotion_failed_is_kept_for_the_next_receiver()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint, "--fault", "promote-half-loaded:error");
        Sender sender = lab.StartSender(endpoint, TestGuests.WriteBuiltin(lab.Directory, "unlucky"));
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        await sender.ExitAsync();
        SessionStatus failed = await receiver.UntilAsync("unlucky", s => s.State == "failed", "its promotion fails");
        await receiver.UntilLogAsync("is kept");
        await receiver.StopAsync();
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        SessionStatus found = await next.UntilAsync("unlucky", s => s is { Held: true, StandbyPid: not null }, "is found");
        Assert.Equal(failed.CommittedRound, found.CommittedRound);
        ControlReply reply = await next.PromoteAsync("unlucky");
        Assert.True(reply.Ok, reply.Error);
        SessionStatus session = await next.UntilPromotedAsync("unlucky");
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
    }

    /// <summary>The guest was handed over and could not be started: the sender, whose copy stands still, runs it on.</summary>
    [SkippableTheory]
    [InlineData("promote-fenced:error")]
    [InlineData("promote-half-loaded:error")]
    public async Task Switchover_that_fails_at_the_other_side_ends_where_it_began(string fault)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync("--fault", fault);
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "stays"));
        SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
        ControlReply reply = await sender.SwitchoverAsync();
        Assert.False(reply.Ok, reply.Done);
        await receiver.UntilLogAsync("the promotion failed");
        await sender.UntilAsync(s => s.State == "protected", "it is protected again");
        await primary.UntilAsync(primary.Lines().Count + 5);
        SerialLog.AssertOneLife(primary.Lines());
        Assert.True((await sender.SwitchoverAsync()).Ok);
        await receiver.UntilPromotedAsync("stays");
    }

    /// <summary>The round was handed over, and its receiver dies before the guest runs: it is in the sender's hands again, or in the next receiver's.</summary>
    [SkippableTheory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Receiver_that_dies_while_it_takes_the_guest_over_loses_nothing(bool arbiter)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string[] more = arbiter ? ["--arbiter", (await EtcdServer.StartAsync(lab)).Arbiter] : [];
        string endpoint = FreeEndpoint();
        Receiver receiver = await lab.StartReceiverAsync(["--listen", endpoint, "--fault", "promote-half-loaded:exit", .. more]);
        Sender sender = lab.StartSender(endpoint, TestGuests.WriteBuiltin(lab.Directory, "between"), more);
        SerialLog primary = new((await sender.UntilFreshRoundAsync()).Serial!);
        Task<ControlReply> moving = sender.SwitchoverAsync();
        await receiver.ExitAsync();
        Receiver next = await lab.StartReceiverAsync(["--listen", endpoint, .. more]);
        if (arbiter)
        {
            // The arbiter has it as the generation that the receiver took: the sender may not run it any more.
            await sender.ExitAsync();
            await next.UntilAsync("between", s => s is { Held: true, StandbyPid: not null }, "is found");
            ControlReply reply = await next.PromoteAsync("between");
            Assert.True(reply.Ok, reply.Error);
            SessionStatus session = await next.UntilPromotedAsync("between");
            SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        }
        else
        {
            await sender.UntilAsync(s => s.State == "protected", "it is protected again");
            await primary.UntilAsync(primary.Lines().Count + 3);
            SerialLog.AssertOneLife(primary.Lines());
        }

        await moving;
    }

    [SkippableFact]
    public async Task What_another_address_left_is_told_about_and_left_alone()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        Sender sender = lab.StartSender(endpoint, TestGuests.WriteBuiltin(lab.Directory, "other"));
        await sender.UntilProtectedAsync();
        receiver.Kill();
        sender.Kill();
        await receiver.ExitAsync();
        await sender.ExitAsync();
        string kept = Directory.GetDirectories(lab.Memory, "curling-recv*").Single(d => File.Exists(Path.Combine(d, "session")));
        Receiver elsewhere = await lab.StartReceiverAsync();
        Assert.Contains(elsewhere.Log, l => l.Contains(kept) && l.Contains(endpoint));
        Assert.Null(await elsewhere.SessionAsync("other"));
        await elsewhere.StopAsync();

        // And a record that is damaged is named and harms nobody.
        await File.WriteAllTextAsync(Path.Combine(kept, "session"), "curling-session-1 " + endpoint + " 1000000\n{ not json");
        Receiver here = await lab.StartReceiverAsync("--listen", endpoint);
        Assert.Contains(here.Log, l => l.Contains("cannot be taken up") && l.Contains("damaged"));
        Directory.Delete(kept, recursive: true);
        await here.StopAsync();
    }

    /// <summary>The log says "type promote" before the standby's QEMU waits: who types at once must get the guest.</summary>
    [SkippableFact]
    public async Task Operator_may_promote_before_the_standby_waits()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, endpoint, "hasty", "incremental");
        await KillBothAsync(receiver, sender);
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        ControlReply reply = await next.PromoteAsync("hasty");
        Assert.True(reply.Ok, reply.Error);
        SessionStatus promoted = await next.UntilPromotedAsync("hasty");
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(3));
    }

    [SkippableFact]
    public async Task Streams_that_no_record_names_are_cleared_away()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, endpoint, "streams", "full");
        await KillBothAsync(receiver, sender);
        string kept = Directory.GetDirectories(lab.Memory, "curling-recv*").Single(d => File.Exists(Path.Combine(d, "session")));
        await File.WriteAllTextAsync(Path.Combine(kept, "round-999-half"), "what had arrived of a round");
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        await next.UntilAsync("streams", s => s is { Held: true, StandbyPid: not null }, "is found and held");
        Assert.Single(Directory.GetFiles(lab.Memory, "round-*", SearchOption.AllDirectories));
        await next.DiscardAsync("streams");
    }

    [SkippableFact]
    public async Task Of_two_that_are_left_of_one_guest_the_newer_one_counts()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string endpoint = FreeEndpoint();
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, endpoint, "twice", "incremental");
        await KillBothAsync(receiver, sender);
        string kept = Directory.GetDirectories(lab.Memory, "curling-recv*").Single(d => File.Exists(Path.Combine(d, "session")));
        string older = Directory.CreateDirectory(Path.Combine(lab.Memory, "curling-recv-1-older")).FullName;
        foreach (string file in Directory.GetFiles(kept).Where(f => Path.GetFileName(f) != "prefetch"))
        {
            File.Copy(file, Path.Combine(older, Path.GetFileName(file)));
        }

        File.SetLastWriteTimeUtc(Path.Combine(older, "journal"), DateTime.UtcNow.AddHours(-1));
        Receiver next = await lab.StartReceiverAsync("--listen", endpoint);
        await next.UntilAsync("twice", s => s is { Held: true, StandbyPid: not null }, "is found and held");
        Assert.Single(next.Log, l => l.Contains("twice: found at round"));
        Assert.Contains(next.Log, l => l.Contains("a newer round of guest twice"));
        Assert.Single(Directory.GetDirectories(lab.Memory, "curling-recv*"), d => File.Exists(Path.Combine(d, "prefetch")));
        await next.DiscardAsync("twice");
        await next.StopAsync();
        foreach (string left in Directory.GetDirectories(lab.Memory, "curling-recv*"))
        {
            Directory.Delete(left, recursive: true);
        }
    }

    private static async Task<(Receiver Receiver, Sender Sender)> ProtectAsync(Lab lab, string endpoint, string name, string rounds)
    {
        Receiver receiver = await lab.StartReceiverAsync("--listen", endpoint);
        Sender sender = lab.StartSender(endpoint, TestGuests.WriteBuiltin(lab.Directory, name), "--rounds", rounds);
        await sender.UntilFreshRoundAsync();
        return (receiver, sender);
    }

    private static async Task KillBothAsync(Receiver receiver, Sender sender)
    {
        receiver.Kill();
        sender.Kill();
        await receiver.ExitAsync();
        await sender.ExitAsync();
    }

    private static string FreeEndpoint()
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return $"tcp:127.0.0.1:{((IPEndPoint)socket.LocalEndPoint!).Port}";
    }
}
