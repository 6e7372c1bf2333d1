using System.Diagnostics;
using System.Globalization;
using Curling.Linux.Processes;
using Curling.Linux.Tests.Tracking;
using Curling.Linux.Tracking;
using TrackInterop = Curling.Linux.Tracking.Interop;

namespace Curling.Linux.Tests.Processes;

public sealed class ChildProcessTests : IDisposable
{
    private readonly TemporaryDirectory _directory = new();

    public void Dispose() => _directory.Dispose();

    [Theory]
    [InlineData("exit 0", 0)]
    [InlineData("exit 7", 7)]
    [InlineData("kill -TERM $$", 143)]
    [InlineData("kill -KILL $$", 137)]
    public async Task Its_end_is_told_as_a_shell_tells_it(string script, int expected)
    {
        await using ChildProcess child = Shell(script);
        Assert.Equal(expected, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.True(child.HasExited);
        Assert.False(ProcessInfo.Exists(child.Pid));
    }

    [Fact]
    public async Task Its_number_is_the_programs_own_and_its_arguments_arrive_as_they_are()
    {
        string[] arguments = ["-c", "echo $$; for a; do echo \"<$a>\"; done", "name", "", "two words", "--", "-x", "quo\"te\\", "*"];
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sh", arguments) { LogPath = _directory.File("log") });
        Assert.Equal(0, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.Equal(
            [child.Pid.ToString(CultureInfo.InvariantCulture), "<>", "<two words>", "<-->", "<-x>", "<quo\"te\\>", "<*>"],
            await File.ReadAllLinesAsync(_directory.File("log")));
    }

    [Fact]
    public async Task Its_environment_is_ours_and_what_was_added()
    {
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sh", ["-c", "echo \"$ADDED\" >&2; test -n \"$PATH\""])
        {
            Environment = new Dictionary<string, string> { ["ADDED"] = "a b" },
        });
        Assert.Equal(0, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.Equal("a b", child.ErrorTail);
    }

    [Fact]
    public async Task The_log_is_appended_to_and_the_tail_is_the_last_4_KiB()
    {
        string log = _directory.File("log");
        File.WriteAllText(log, "before\n");
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions(
            "sh", ["-c", "i=0; while [ $i -lt 2000 ]; do echo \"line $i\" >&2; i=$((i+1)); done; echo last words >&2; exit 3"])
        {
            LogPath = log,
        });
        Assert.Equal(3, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.EndsWith("line 1999\nlast words", child.ErrorTail, StringComparison.Ordinal);
        Assert.InRange(child.ErrorTail.Length, 4000, 4096);
        string[] lines = File.ReadAllLines(log);
        Assert.Equal(["before", .. Enumerable.Range(0, 2000).Select(i => $"line {i}"), "last words"], lines);
    }

    [Fact]
    public async Task Its_standard_input_is_at_its_end()
    {
        await using ChildProcess child = Shell("cat; exit 5");
        Assert.Equal(5, await child.WaitAsync(Wait.Limit, CancellationToken.None));
    }

    [Fact]
    public async Task Killing_ends_it_and_killing_again_does_nothing()
    {
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
        Assert.False(child.HasExited);
        child.Kill();
        Assert.Equal(137, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        child.Kill();
        Assert.Equal(137, await child.Exited);
    }

    [Fact]
    public async Task Disposing_kills_and_reaps()
    {
        ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
        await child.DisposeAsync();
        Assert.True(child.HasExited);
        Assert.False(Directory.Exists($"/proc/{child.Pid}"));
        await child.DisposeAsync();
    }

    [Fact]
    public async Task Waiting_ends_at_its_limit_and_when_cancelled_and_the_program_runs_on()
    {
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
        await Assert.ThrowsAsync<TimeoutException>(() => child.WaitAsync(TimeSpan.FromMilliseconds(1), CancellationToken.None));
        using CancellationTokenSource cancel = new();
        Task<int> wait = child.WaitAsync(Wait.Limit, cancel.Token);
        cancel.Cancel();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => wait);
        Assert.False(child.HasExited);
    }

    [Theory]
    [InlineData("no-such-program-anywhere")]
    [InlineData("/no/such/program")]
    public void A_missing_program_is_named(string program)
    {
        FileNotFoundException e = Assert.Throws<FileNotFoundException>(() => ChildProcess.Start(new ChildProcessOptions(program, [])));
        Assert.Contains(program, e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_file_that_is_no_program_ends_with_the_reason()
    {
        File.WriteAllText(_directory.File("text"), "no program");
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions(_directory.File("text"), []));
        Assert.NotEqual(0, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.Contains(_directory.File("text"), child.ErrorTail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_log_that_cannot_be_written_does_not_hide_the_programs_end_or_block_it()
    {
        // More than a pipe holds: a pump that gave up would leave the program hanging in a write.
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions(
            "sh", ["-c", "head -c 300000 /dev/zero | tr '\\0' x; echo; echo the reason; exit 9"])
        {
            LogPath = "/dev/full",
        });
        Assert.Equal(9, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.EndsWith("the reason", child.ErrorTail, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Whoever_inherits_its_output_does_not_hold_up_the_news_of_its_end()
    {
        await using ChildProcess child = Shell("sleep 600 & echo $!; exit 4");
        try
        {
            Assert.Equal(4, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        }
        finally
        {
            using Process sleep = Process.GetProcessById(int.Parse(child.ErrorTail, CultureInfo.InvariantCulture));
            sleep.Kill();
        }
    }

    [Fact]
    public async Task It_outlives_the_thread_that_asked_for_it()
    {
        // The kernel's death signal belongs to a thread: had this one started the child, the child would end with it.
        ChildProcess? child = null;
        long thread = 0;
        Thread starter = new(() =>
        {
            thread = TrackInterop.syscall(186 /* gettid */, 0, 0, 0);
            child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));
            Wait.Until(() => ProcessInfo.CommandLine(child.Pid)?.EndsWith("sleep 600", StringComparison.Ordinal) == true, "sleep to run");
        });
        starter.Start();
        starter.Join();
        Wait.Until(() => !Directory.Exists($"/proc/self/task/{thread}"), "the thread to end");
        await using ChildProcess after = Shell("exit 0");
        await after.WaitAsync(Wait.Limit, CancellationToken.None);

        Assert.False(child!.HasExited);
        Assert.True(ProcessInfo.Exists(child.Pid));
        await child.DisposeAsync();
    }

    [Fact]
    public void It_dies_with_the_process_that_started_it()
    {
        using Process parent = Process.Start(new ProcessStartInfo(
            Environment.ProcessPath!, ["exec", typeof(HelperProgram).Assembly.Location, "parent"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!;
        int child = int.Parse(parent.StandardOutput.ReadLine()!, CultureInfo.InvariantCulture);
        Wait.Until(() => ProcessInfo.CommandLine(child)?.EndsWith("sleep 600", StringComparison.Ordinal) == true, "the child to run");
        ulong? start = ProcessInfo.StartTime(child);

        parent.Kill();
        parent.WaitForExit();

        Wait.Until(() => !ProcessInfo.Exists(child) || ProcessInfo.StartTime(child) != start, "the child to die with its parent");
    }

    [SkippableFact]
    public async Task Being_traced_is_not_taken_for_its_end()
    {
        // Every attachment stops the child for a moment; the runtime is told, and may take that for the child's end.
        TrackedProcess.SkipUnlessSupported();
        await using ChildProcess child = ChildProcess.Start(new ChildProcessOptions("sleep", ["600"]));

        // Until it sleeps its libc may not be there yet, and with it no place for a system call.
        Wait.Until(
            () => ProcessInfo.CommandLine(child.Pid) is { } line && line.EndsWith("sleep 600", StringComparison.Ordinal)
                && !line.Contains("setpriv", StringComparison.Ordinal) && ProcessInfo.State(child.Pid) == "S"
                && File.ReadAllText($"/proc/{child.Pid}/maps").Contains("libc", StringComparison.Ordinal),
            "sleep to sleep");
        for (int i = 0; i < 50; i++)
        {
            DirtyTracker.Attach(child.Pid).Dispose();
            await using ChildProcess other = Shell("exit 0");
            await other.WaitAsync(Wait.Limit, CancellationToken.None);
        }

        Assert.True(ProcessInfo.Exists(child.Pid));
        Assert.False(child.HasExited);
        child.Kill();
        Assert.Equal(137, await child.WaitAsync(Wait.Limit, CancellationToken.None));
        Assert.False(Directory.Exists($"/proc/{child.Pid}"));
    }

    private static ChildProcess Shell(string script) => ChildProcess.Start(new ChildProcessOptions("sh", ["-c", script]));
}
