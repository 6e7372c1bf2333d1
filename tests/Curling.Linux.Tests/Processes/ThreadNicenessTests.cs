using System.Globalization;
using Curling.Linux.Processes;

namespace Curling.Linux.Tests.Processes;

public class ThreadNicenessTests
{
    [SkippableFact]
    public void Raising_a_thread_leaves_the_others_alone()
    {
        SkipUnlessAllowed();
        Assert.Equal(0, Niceness(Environment.ProcessId));
    }

    [Fact]
    public void A_process_that_is_gone_has_no_threads_to_raise() =>
        Assert.Equal(0, ThreadNiceness.Raise(int.MaxValue, (_, _) => true));

    private static void SkipUnlessAllowed()
    {
        bool allowed = false;
        Thread thread = new(() => allowed = ThreadNiceness.TryRaiseCurrent());
        thread.Start();
        thread.Join();
        Skip.IfNot(allowed, "SKIPPED: threads may not be raised here (CAP_SYS_NICE)");
    }

    private static int Niceness(int pid)
    {
        string stat = File.ReadAllText($"/proc/{pid}/stat");
        return int.Parse(stat[(stat.LastIndexOf(')') + 2)..].Split(' ')[16], CultureInfo.InvariantCulture);
    }
}
