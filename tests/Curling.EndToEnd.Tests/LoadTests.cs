using System.Globalization;
using Curling.Linux.Processes;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>A host that is busy is not a host that is dead.</summary>
/// <remarks><c>CURLING_LOAD_SECONDS</c> sets how long the load lasts; the default keeps the whole run short.</remarks>
public sealed class LoadTests(ITestOutputHelper output)
{
    [SkippableFact]
    public async Task Busy_host_is_not_taken_for_a_dead_one()
    {
        int seconds = int.TryParse(
            Environment.GetEnvironmentVariable("CURLING_LOAD_SECONDS"), CultureInfo.InvariantCulture, out int given) ? given : 8;
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "busy", append: "ws=8M rate=5000"));
        await sender.UntilProtectedAsync();
        List<ChildProcess> load = [];
        try
        {
            for (int i = 0; i < 2 * Environment.ProcessorCount; i++)
            {
                load.Add(ChildProcess.Start(new ChildProcessOptions("/bin/sh", ["-c", "while :; do :; done"])));
            }

            long before = (await sender.StatusAsync()).CommittedRound;
            await Task.Delay(TimeSpan.FromSeconds(seconds));
            await sender.UntilAsync(s => s.CommittedRound > before, "rounds went on under load");
        }
        finally
        {
            foreach (ChildProcess process in load)
            {
                await process.DisposeAsync();
            }
        }

        await sender.UntilFreshRoundAsync();
        Assert.DoesNotContain(sender.Log, l => l.Contains("UNPROTECTED"));
        Assert.DoesNotContain(receiver.Log, l => l.Contains("PROMOTING") || l.Contains("nothing was heard"));
        Assert.Equal(1, (await receiver.SessionAsync("busy"))!.Generation);
    }
}
