using System.Diagnostics;
using System.Globalization;
using Curling.Linux.Processes;

namespace Curling.Linux.Tests.Processes;

public sealed class ProcessInfoTests
{
    [Fact]
    public void This_process_is_known()
    {
        int own = Environment.ProcessId;
        Assert.True(ProcessInfo.Exists(own));
        Assert.Contains("dotnet", ProcessInfo.CommandLine(own), StringComparison.Ordinal);
        Assert.NotNull(ProcessInfo.State(own));

        // The start time is in clock ticks (100 a second) since boot; the runtime computes the same from the same place.
        double uptime = double.Parse(File.ReadAllText("/proc/uptime").Split(' ')[0], CultureInfo.InvariantCulture);
        double started = uptime - (DateTime.Now - Process.GetCurrentProcess().StartTime).TotalSeconds;
        Assert.InRange(ProcessInfo.StartTime(own)!.Value / 100.0, started - 30, started + 30);
    }

    [Fact]
    public void A_number_nobody_has_is_nobody()
    {
        foreach (int pid in (int[])[int.MaxValue, -1])
        {
            Assert.False(ProcessInfo.Exists(pid));
            Assert.Null(ProcessInfo.StartTime(pid));
            Assert.Null(ProcessInfo.CommandLine(pid));
            Assert.Null(ProcessInfo.State(pid));
        }
    }

    [Fact]
    public async Task Two_processes_differ_in_number_or_start()
    {
        await using ChildProcess one = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
        Wait.Until(() => ProcessInfo.CommandLine(one.Pid)?.EndsWith("sleep 600", StringComparison.Ordinal) == true, "sleep to run");
        ulong? start = ProcessInfo.StartTime(one.Pid);
        Assert.Equal(start, ProcessInfo.StartTime(one.Pid));
        Assert.True(start >= ProcessInfo.StartTime(Environment.ProcessId));
        one.Kill();
        await one.WaitAsync(Wait.Limit, CancellationToken.None);
        Assert.False(ProcessInfo.Exists(one.Pid));
    }

    [Fact]
    public async Task A_name_with_spaces_and_brackets_confuses_nobody()
    {
        using TemporaryDirectory directory = new(Path.GetTempPath());
        string program = directory.File("a) R 1 (b c");
        File.Copy(ChildProcess.Find("sleep")!, program);
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions(program, ["600"]));
        Wait.Until(() => ProcessInfo.CommandLine(child.Pid)?.StartsWith(program, StringComparison.Ordinal) == true, "the program to run");
        Wait.Until(() => ProcessInfo.State(child.Pid) == "S", "the program to sleep");
        Assert.True(ProcessInfo.Exists(child.Pid));
        Assert.True(ProcessInfo.StartTime(child.Pid) >= ProcessInfo.StartTime(Environment.ProcessId));
    }

    [Fact]
    public void Resident_memory_counts_what_is_touched()
    {
        long before = ProcessInfo.ResidentMemory(Environment.ProcessId).AnonymousBytes;
        byte[] touched = GC.AllocateUninitializedArray<byte>(64 << 20, pinned: true);
        Array.Fill(touched, (byte)1);
        long after = ProcessInfo.ResidentMemory(Environment.ProcessId).AnonymousBytes;
        Assert.True(before > 0);
        Assert.True(after - before > 32 << 20, $"{before} became {after}");
        GC.KeepAlive(touched);
    }

    [Fact]
    public void Resident_memory_of_a_process_that_is_gone_is_nothing() =>
        Assert.Equal((0L, 0L), ProcessInfo.ResidentMemory(int.MaxValue));
}
