using Curling.Hosting.Control;
using Curling.Linux.Processes;
using Curling.Qemu.BuiltinGuest;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>What a pair of daemons does beside surviving a kill: every way of ending, holding, moving and coming back.</summary>
public sealed class PairTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task The_two_lines_of_the_readme_protect_the_built_in_guest()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, null, "--bandwidth", "max");
        SenderStatus status = await sender.UntilProtectedAsync();
        Assert.Equal("builtin", status.Guest);
        await sender.UntilLogAsync("built-in guest");
        SessionStatus session = await receiver.UntilAsync("builtin", s => s.State == "protected", "is protected");
        Assert.True(session.CommittedRound > 0);
        Assert.NotNull(session.LastRound);
        (int code, string json, _) = await lab.RunAsync("curling-recv", "status", "--json", "--control", receiver.Control);
        Assert.Equal(0, code);
        Assert.Contains("\"role\":\"receiver\"", json);
        Assert.Contains("\"state\":\"protected\"", json);
        (code, string text, _) = await lab.RunAsync("curling-send", "status", "--control", sender.Control);
        Assert.Equal(0, code);
        Assert.Contains("protected", text);
    }

    [SkippableFact]
    public async Task Sender_may_be_started_first()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver first = await lab.StartReceiverAsync();
        int port = first.Port;
        await first.StopAsync();
        Sender sender = lab.StartSender($"tcp:127.0.0.1:{port}", null);
        await sender.UntilLogAsync("nobody listens there");
        Receiver receiver = await lab.StartReceiverAsync("--listen", $"tcp:127.0.0.1:{port}");
        await sender.UntilProtectedAsync();
        await receiver.UntilAsync("builtin", s => s.State == "protected", "is protected");
    }

    [SkippableTheory]
    [InlineData("full")]
    [InlineData("incremental")]
    public async Task Guest_that_shuts_itself_down_is_not_promoted(string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteLinux(lab.Directory, "linux"), "--rounds", rounds);
        SenderStatus status = await sender.UntilProtectedAsync();
        await new SerialLog(status.Serial!).UntilAsync(2);
        await Serial.SayAsync(status.Serial!, "poweroff");
        Assert.Equal(0, await sender.ExitAsync());
        await sender.UntilLogAsync("the guest shut itself down");
        SessionStatus session = await receiver.UntilAsync("linux", s => s.State == "ended", "has ended");
        Assert.Contains("shut itself down", session.Reason);
    }

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Sender_that_is_asked_to_stop_ends_the_protection(bool interrupt)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, null);
        int guest = (await sender.UntilProtectedAsync()).GuestPid!.Value;
        sender.Terminate(interrupt);
        Assert.Equal(0, await sender.ExitAsync());
        Assert.False(ProcessInfo.Exists(guest));
        await sender.UntilLogAsync("stopped by the operator");
        await receiver.UntilAsync("builtin", s => s.State == "ended", "has ended, not been promoted");
    }

    [SkippableTheory]
    [InlineData("full")]
    [InlineData("incremental")]
    public async Task Qemu_that_crashes_under_a_living_sender_is_replaced_by_the_standby(string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, null, "--rounds", rounds);
        Daemon.Signal((await sender.UntilFreshRoundAsync()).GuestPid!.Value, 9);
        SessionStatus session = await receiver.UntilPromotedAsync("builtin");
        Assert.Equal(3, await sender.ExitAsync());
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        Assert.Contains(receiver.Log, l => l.Contains("primary's QEMU ended"));
    }

    [SkippableTheory]
    [InlineData("7.2", "full")]
    [InlineData("7.2", "incremental")]
    [InlineData("10.0", "incremental")]
    public async Task Switchover_moves_the_guest_and_loses_nothing(string qemu, string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu(qemu));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(
            receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "mover"), "--rounds", rounds);
        SerialLog primary = new((await sender.UntilProtectedAsync()).Serial!);
        await primary.UntilAsync(4);
        ControlReply reply = await sender.SwitchoverAsync();
        Assert.True(reply.Ok, reply.Error);
        Assert.Equal(0, await sender.ExitAsync());
        SessionStatus session = await receiver.UntilPromotedAsync("mover");
        IReadOnlyList<GuestLine> after = await new SerialLog(session.Serial!).UntilAsync(4);
        SerialLog.AssertOneLife(after);
        Assert.True(after[0].Count >= 4);
        Assert.Contains(receiver.Log, l => l.Contains("switchover"));
    }

    [SkippableFact]
    public async Task Silence_is_a_loss_after_the_failure_timeout()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync("--failure-timeout", "1s");
        Sender sender = lab.StartSender(receiver.Endpoint, null, "--failure-timeout", "1s");
        await sender.UntilFreshRoundAsync();
        sender.Signal(19);
        SessionStatus session = await receiver.UntilPromotedAsync("builtin");
        Assert.Contains(receiver.Log, l => l.Contains("nothing was heard from the sender"));
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));

        // The old primary comes back to life, meets the newer generation and stops its guest.
        sender.Signal(18);
        Assert.Equal(4, await sender.ExitAsync());
        Assert.Contains(sender.Log, l => l.Contains("generation 2"));
    }

    [SkippableFact]
    public async Task Held_standby_waits_for_the_operator()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync("--on-failure", "hold");
        Sender sender = lab.StartSender(receiver.Endpoint, null);
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        SessionStatus held = await receiver.UntilAsync("builtin", s => s.Held, "is held");
        Assert.Equal("protected", held.State);
        await receiver.UntilLogAsync("curling-recv promote builtin");
        (int code, string said, string error) = await lab.RunAsync("curling-recv", "promote", "builtin", "--control", receiver.Control);
        Assert.True(code == 0, error);
        Assert.Contains("runs here from round", said);
        SerialLog.AssertOneLife(await new SerialLog(held.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Receiver_that_dies_leaves_the_guest_running_and_a_new_one_protects_it_again()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver first = await lab.StartReceiverAsync();
        int port = first.Port;
        Sender sender = lab.StartSender(first.Endpoint, null);
        SenderStatus status = await sender.UntilFreshRoundAsync();
        first.Kill();
        await first.ExitAsync();
        await sender.UntilAsync(s => s.State == "unprotected", "it runs unprotected");
        Receiver second = await lab.StartReceiverAsync("--listen", $"tcp:127.0.0.1:{port}");
        await sender.UntilAsync(s => s.State == "protected" && s.CommittedRound > status.CommittedRound, "it is protected again");
        SerialLog.AssertOneLife(new SerialLog(status.Serial!).Lines());
        Assert.NotNull(await second.SessionAsync("builtin"));
        Assert.Contains(second.Log, l => l.Contains("Removed "));
    }

    [SkippableFact]
    public async Task Two_guests_on_one_receiver_are_two_lives()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender one = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "one"));
        Sender two = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "two"), "--rounds", "full");
        await one.UntilFreshRoundAsync();
        await two.UntilFreshRoundAsync();
        one.Kill();
        SessionStatus promoted = await receiver.UntilPromotedAsync("one");
        SerialLog.AssertOneLife(await new SerialLog(promoted.Serial!).UntilAsync(3));
        await two.UntilFreshRoundAsync();
        Assert.Equal("protected", (await receiver.SessionAsync("two"))!.State);
        await lab.ClearAwayAsync();
    }

    [SkippableTheory]
    [InlineData("7.2", "incremental")]
    [InlineData("10.0", "full")]
    public async Task Picture_of_the_promoted_guest_is_there_for_a_vnc_client(string qemu, string rounds)
    {
        await using Lab lab = new(output, TestGuests.Qemu(qemu));
        string guest = TestGuests.WriteLinux(lab.Directory, "screen", " , \"display\": { \"type\": \"vnc\" }");
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, guest, "--rounds", rounds);
        SenderStatus status = await sender.UntilProtectedAsync();
        await new SerialLog(status.Serial!).UntilAsync(3);
        await sender.UntilFreshRoundAsync();
        VncPicture before = await VncProbe.LookAsync(status.Display!);
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        SessionStatus session = await receiver.UntilPromotedAsync("screen");
        VncPicture after = await VncProbe.LookAsync(session.Display!);
        Assert.Equal((before.Width, before.Height), (after.Width, after.Height));
        Assert.True(before.Colours > 1, "the primary shows an empty screen");

        // A cursor may blink; a screen that was not carried over would be another picture altogether.
        Assert.True(before.SameAs(after) > 0.98, $"only {before.SameAs(after):P1} of the picture is the same");
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Guest_that_resets_itself_stays_protected()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteLinux(lab.Directory, "linux"));
        SenderStatus status = await sender.UntilProtectedAsync();
        SerialLog primary = new(status.Serial!);
        await primary.UntilAsync(3);
        await Serial.SayAsync(status.Serial!, "reboot");
        await sender.UntilAsync(() => primary.Lines().Count(l => l.Count == 1) == 2, "it counts anew");
        await sender.UntilFreshRoundAsync();
        sender.Kill();
        SessionStatus session = await receiver.UntilPromotedAsync("linux");
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(3));
        await lab.ClearAwayAsync();
    }
}
