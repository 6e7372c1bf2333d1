using System.Globalization;
using Curling.Linux.Processes;

namespace Curling.Linux.Tests.Processes;

public class ThreadNicenessTests
{
    [SkippableFact]
    public async Task Only_the_wanted_threads_are_raised()
    {
        SkipUnlessAllowed();
        await using ChildProcess process = ChildProcess.Start(new ChildProcessOptions("sleep", ["60"]));
        Assert.Equal(0, ThreadNiceness.Raise(process.Pid, (_, name) => name == "another"));
        Assert.Equal(0, Niceness(process.Pid));
        Assert.Equal(1, ThreadNiceness.Raise(process.Pid, (thread, _) => thread == process.Pid));
        Assert.Equal(-10, Niceness(process.Pid));
    }

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
