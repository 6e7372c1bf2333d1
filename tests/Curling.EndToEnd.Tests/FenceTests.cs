using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>What a receiver does before it starts a guest that may still run elsewhere.</summary>
public sealed class FenceTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task Primary_is_fenced_and_then_the_standby_runs()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string told = Path.Combine(lab.Directory, "fenced");
        (Receiver receiver, Sender sender) = await ProtectAsync(
            lab, "--fence-command", $"echo \"$CURLING_GUEST $CURLING_SENDER $CURLING_ROUND\" > {told}");
        sender.Kill();
        long round = (await receiver.UntilPromotedAsync("fenced")).CommittedRound;
        Assert.Equal($"fenced 127.0.0.1 {round}", File.ReadAllText(told).Trim());
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Nothing_is_promoted_when_the_fence_fails_until_the_operator_says_so()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (Receiver receiver, Sender sender) = await ProtectAsync(
            lab, "--fence-command", "echo the switch does not answer; exit 7", "--fence-timeout", "20s");
        sender.Kill();
        await receiver.UntilAsync("fenced", s => s.Held, "is held");
        await receiver.UntilLogAsync("exit code 7: the switch does not answer");
        Assert.DoesNotContain(receiver.Log, l => l.Contains("PROMOTED"));
        (int code, _, string error) = await lab.RunAsync("curling-recv", "promote", "fenced", "--control", receiver.Control);
        Assert.Equal(1, code);
        Assert.Contains("--without-fence", error);
        (code, string said, _) = await lab.RunAsync("curling-recv", "promote", "fenced", "--without-fence", "--control", receiver.Control);
        Assert.Equal((0, true), (code, said.Contains("runs here")));
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Fence_that_hangs_is_ended_and_promotes_nothing()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, "--fence-command", "sleep 100", "--fence-timeout", "300ms");
        sender.Kill();
        await receiver.UntilAsync("fenced", s => s.Held, "is held");
        await receiver.UntilLogAsync("did not end within 0.3 s");
        await receiver.DiscardAsync("fenced");
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Silent_primary_is_held_and_goes_on_when_it_speaks_again()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (Receiver receiver, Sender sender) = await ProtectAsync(lab, "--on-silence", "hold", "--failure-timeout", "500ms");
        sender.Signal(19); // SIGSTOP
        await receiver.UntilAsync("fenced", s => s.Held, "is held");
        await receiver.UntilLogAsync("nothing was heard from the sender");
        sender.Signal(18); // SIGCONT
        await sender.UntilFreshRoundAsync();
        Assert.DoesNotContain(receiver.Log, l => l.Contains("PROMOTING"));
        sender.Kill();
        await receiver.UntilPromotedAsync("fenced");
        await lab.ClearAwayAsync();
    }

    private static async Task<(Receiver Receiver, Sender Sender)> ProtectAsync(Lab lab, params string[] options)
    {
        Receiver receiver = await lab.StartReceiverAsync(options);
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "fenced"));
        await sender.UntilProtectedAsync();
        return (receiver, sender);
    }
}
