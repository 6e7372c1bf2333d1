using Curling.Hosting.Control;
using Curling.Linux.Processes;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Monitor;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>What dirty tracking must not do to a guest, and what a guest must not do to it.</summary>
public sealed class TrackingTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData("7.2", "tcg")]
    [InlineData("10.0", "kvm")]
    public async Task Sender_killed_without_its_guest_leaves_its_memory_usable(string qemu, string accelerator)
    {
        if (accelerator == "kvm")
        {
            TestGuests.NeedsKvm();
        }

        await using Lab lab = new(output, TestGuests.Qemu(qemu));

        // A QEMU that outlives its sender, which no QEMU of Curling's does: the signal at the parent's death is cleared.
        string survivor = Path.Combine(lab.Directory, "qemu-that-survives");
        await File.WriteAllTextAsync(survivor, $"#!/bin/sh\nexec setpriv --pdeathsig clear {lab.Qemu} \"$@\"\n");
        File.SetUnixFileMode(survivor, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        Receiver receiver = await lab.StartReceiverAsync("--on-failure", "hold");
        Sender sender = lab.StartSender(
            receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "orphan", accelerator, append: "ws=8M rate=2000"),
            "--qemu", survivor, "--rounds", "incremental", "--interval", "0");
        SenderStatus status = await sender.UntilProtectedAsync();
        SerialLog serial = new(status.Serial!);
        await sender.UntilFreshRoundAsync();
        int pid = status.GuestPid!.Value;
        try
        {
            sender.Kill();
            await sender.ExitAsync();
            Assert.True(ProcessInfo.Exists(pid), "the guest should have outlived its sender in this test");
            await using (QmpClient qmp = await QmpClient.ConnectAsync(
                Path.Combine(Path.GetDirectoryName(status.Serial!)!, "qmp.sock"), TimeSpan.FromSeconds(30)))
            {
                // The sender may have died in the middle of a cut, and then nobody else lets the guest run.
                await qmp.ExecuteAsync("cont");
            }

            int before = serial.Lines().Count;

            // It verifies its whole working set for each line: a fault that is stuck would stop it, a lost page would tear it.
            SerialLog.AssertOneLife(await serial.UntilAsync(before + 10));
        }
        finally
        {
            using System.Diagnostics.Process guest = System.Diagnostics.Process.GetProcessById(pid);
            guest.Kill();
        }

        await receiver.UntilAsync(() => !ProcessInfo.Exists(pid), "the guest is gone");
        await lab.ClearAwayAsync();
    }

    [SkippableFact]
    public async Task Guest_that_writes_in_bursts_stays_protected()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();

        // From 500 to 50,000 pages a second and back, every 0.8 s of the guest's time.
        Sender sender = lab.StartSender(
            receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "bursts", memory: "128MiB", append: "ws=64M rate=500 burst=100"),
            "--rounds", "incremental");
        SerialLog serial = new((await sender.UntilProtectedAsync()).Serial!);
        await serial.UntilAsync(serial.Lines().Count + 34);
        SenderStatus status = await sender.UntilFreshRoundAsync();
        Assert.Equal("protected", status.State);
        Assert.DoesNotContain(sender.Log, l => l.Contains("UNPROTECTED"));
        long[] pages = [.. serial.Lines().Select(l => l.Pages)];
        long[] steps = [.. pages.Zip(pages.Skip(1), (a, b) => b - a)];
        Assert.True(steps.Max() > 10 * Math.Max(1, steps.Min()), $"there were no bursts: {string.Join(' ', steps)}");
        sender.Kill();
        SessionStatus session = await receiver.UntilPromotedAsync("bursts");
        SerialLog.AssertOneLife(await new SerialLog(session.Serial!).UntilAsync(12));
        await lab.ClearAwayAsync();
    }
}
