using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using Curling.Hosting.Control;
using Curling.Qemu.BuiltinGuest;
using Xunit;

namespace Curling.TestKit.Daemons;

/// <summary>A daemon that runs as its own process, and what it says.</summary>
public abstract class Daemon
{
    /// <summary>The longest that anything is waited for.</summary>
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly Process _process;
    private readonly List<string> _log = [];

    private protected Daemon(Lab lab, string program, string[] arguments)
    {
        Lab = lab;
        Title = $"{program} {string.Join(' ', arguments)}";
        Control = arguments[Array.IndexOf(arguments, "--control") + 1];
        _process = lab.Start(program, arguments);
        Pid = _process.Id;
        _process.OutputDataReceived += (_, e) => Take(e.Data);
        _process.ErrorDataReceived += (_, e) => Take(e.Data);
        _process.BeginOutputReadLine();
        _process.BeginErrorReadLine();
    }

    /// <summary>The lab it runs in.</summary>
    public Lab Lab { get; }

    /// <summary>Its command line.</summary>
    public string Title { get; }

    /// <summary>Its process.</summary>
    public int Pid { get; }

    /// <summary>Its control socket.</summary>
    public string Control { get; }

    /// <summary>Whether it has ended.</summary>
    public bool HasExited => _process.HasExited;

    /// <summary>Its exit code.</summary>
    public int ExitCode => _process.ExitCode;

    /// <summary>What it printed so far.</summary>
    public IReadOnlyList<string> Log
    {
        get
        {
            lock (_log)
            {
                return [.. _log];
            }
        }
    }

    /// <summary>Waits for a line that holds a text.</summary>
    public async Task<string> UntilLogAsync(string text)
    {
        string? line = null;
        await UntilAsync(() => (line = Log.FirstOrDefault(l => l.Contains(text))) is not null, $"the log says \"{text}\"");
        return line!;
    }

    /// <summary>Ends it at once, as a crash of its host would.</summary>
    public void Kill()
    {
        WasKilled = true;
        Signal(9);
    }

    /// <summary>Whether it was ended with <see cref="Kill"/>.</summary>
    public bool WasKilled { get; private set; }

    /// <summary>Asks it to stop.</summary>
    public void Terminate(bool interrupt = false) => Signal(interrupt ? 2 : 15);

    /// <summary>Waits for its end.</summary>
    public async Task<int> ExitAsync()
    {
        using CancellationTokenSource limit = new(Limit);
        try
        {
            await _process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            throw new TimeoutException($"{Title} does not end:\n{string.Join('\n', Log)}");
        }

        return _process.ExitCode;
    }

    /// <summary>Stops it, with force if it must be.</summary>
    public async Task StopAsync()
    {
        if (!_process.HasExited)
        {
            Terminate();
            try
            {
                await ExitAsync();
            }
            catch (TimeoutException)
            {
                Kill();
                throw;
            }
        }
    }

    /// <summary>Waits until something holds, and says what did not.</summary>
    public async Task UntilAsync(Func<bool> holds, string what)
    {
        long start = Stopwatch.GetTimestamp();
        while (!holds())
        {
            if (Stopwatch.GetElapsedTime(start) > Limit)
            {
                throw new TimeoutException($"{Title}: this did not come about: {what}\n{string.Join('\n', Log)}\n{Where()}");
            }

            await Task.Delay(10);
        }
    }

    /// <summary>Sends a signal.</summary>
    public void Signal(int signal)
    {
        if (!_process.HasExited)
        {
            _ = SendSignal(Pid, signal);
        }
    }

    /// <summary>What the daemon holds now: descriptors, threads, child processes and bytes of memory of its own.</summary>
    public (int Descriptors, int Threads, int Children, long Bytes) Resources()
    {
        int children = Directory.EnumerateDirectories($"/proc/{Pid}/task")
            .Sum(t => File.ReadAllText(Path.Combine(t, "children")).Split(' ', StringSplitOptions.RemoveEmptyEntries).Length);
        return (
            // The runtime opens its libraries when they are needed first, whenever that is.
            Directory.EnumerateFileSystemEntries($"/proc/{Pid}/fd").Count(f => new FileInfo(f).LinkTarget?.EndsWith(".dll", StringComparison.Ordinal) != true),
            Directory.EnumerateDirectories($"/proc/{Pid}/task").Count(), children,
            Linux.Processes.ProcessInfo.ResidentMemory(Pid).AnonymousBytes);
    }

    /// <summary>Sends a signal to any process that a test started.</summary>
    public static void Signal(int pid, int signal) => Assert.Equal(0, SendSignal(pid, signal));

    /// <summary>Asks it something on its control socket.</summary>
    protected Task<ControlReply> AskAsync(string command, string? guest = null, string? target = null) =>
        ControlClient.CallAsync(Control, new ControlRequest(command, guest, target), Limit);

    [DllImport("libc", EntryPoint = "kill")]
    private static extern int SendSignal(int pid, int signal);

    /// <summary>What the process does, for whoever must find out why it says nothing.</summary>
    private string Where()
    {
        if (_process.HasExited)
        {
            return $"it has ended with {_process.ExitCode}";
        }

        try
        {
            IEnumerable<string> threads = Directory.GetDirectories($"/proc/{Pid}/task").Select(t =>
                $"{File.ReadAllText(Path.Combine(t, "comm")).Trim()} {File.ReadAllText(Path.Combine(t, "wchan"))}"
                + $" {File.ReadAllText(Path.Combine(t, "syscall")).Split(' ')[0].Trim()}"
                + $" children {File.ReadAllText(Path.Combine(t, "children"))}");
            return $"its control socket {(ControlServer.Answers(Control) ? "answers" : "does not answer")}; its threads, where each waits, in which system call:\n{string.Join('\n', threads)}";
        }
        catch (IOException e)
        {
            return e.Message;
        }
    }

    private void Take(string? line)
    {
        if (line is not null)
        {
            lock (_log)
            {
                _log.Add(line);
            }
        }
    }
}

/// <summary>A running <c>curling-recv</c>.</summary>
public sealed class Receiver : Daemon
{
    internal Receiver(Lab lab, string[] arguments)
        : base(lab, "curling-recv", arguments)
    {
    }

    /// <summary>Where it listens.</summary>
    public string Endpoint { get; private set; } = "";

    /// <summary>The port it listens on.</summary>
    public int Port => int.Parse(Endpoint[(Endpoint.LastIndexOf(':') + 1)..], CultureInfo.InvariantCulture);

    /// <summary>Its status.</summary>
    public async Task<ReceiverStatus> StatusAsync() => (await AskAsync("status")).Receiver!;

    /// <summary>A guest's status, or null when it is unknown.</summary>
    public async Task<SessionStatus?> SessionAsync(string guest) =>
        (await AskAsync("status")).Receiver!.Sessions.FirstOrDefault(s => s.Guest == guest);

    /// <summary>Waits until a guest's status is as it should be.</summary>
    public async Task<SessionStatus> UntilAsync(string guest, Func<SessionStatus, bool> holds, string what)
    {
        long start = Stopwatch.GetTimestamp();
        SessionStatus? status = null;
        while (Stopwatch.GetElapsedTime(start) < Limit)
        {
            status = await SessionAsync(guest);
            if (status is not null && holds(status))
            {
                return status;
            }

            await Task.Delay(10);
        }

        throw new TimeoutException(
            $"this did not come about: {guest} {what}; it is {JsonSerializer.Serialize(status)}\n{string.Join('\n', Log)}");
    }

    /// <summary>Waits until a guest is promoted.</summary>
    public Task<SessionStatus> UntilPromotedAsync(string guest) => UntilAsync(guest, s => s.State == "promoted", "is promoted");

    /// <summary>Promotes a guest.</summary>
    public Task<ControlReply> PromoteAsync(string guest) => AskAsync("promote", guest);

    /// <summary>Gives a promoted guest its next standby.</summary>
    public Task<ControlReply> ProtectAsync(string guest, string target, bool replace = false) =>
        AskAsync(replace ? "protect-replacing" : "protect", guest, target);

    /// <summary>Waits until a guest that was promoted here has a standby that follows it, at a round that was cut after this call.</summary>
    public async Task<SessionStatus> UntilProtectedAgainAsync(string guest)
    {
        long begun = (await UntilAsync(guest, s => s.Next?.State == "protected", "is protected again")).Next!.Round;
        return await UntilAsync(guest, s => s.Next?.CommittedRound > begun, $"has a round after {begun} at its next standby");
    }

    /// <summary>Moves a guest that was promoted here to its next standby.</summary>
    public Task<ControlReply> SwitchoverAsync(string guest) => AskAsync("switchover", guest);

    /// <summary>Gives a guest's standby up.</summary>
    public Task<ControlReply> DiscardAsync(string guest) => AskAsync("discard", guest);

    internal void FindPort()
    {
        string line = Log.First(l => l.Contains("Listening on "));
        Endpoint = line[(line.IndexOf("tcp:", StringComparison.Ordinal))..].Split(' ')[0];
    }
}

/// <summary>A running <c>curling-send</c>.</summary>
public sealed class Sender : Daemon
{
    internal Sender(Lab lab, string[] arguments)
        : base(lab, "curling-send", arguments)
    {
    }

    /// <summary>Its status.</summary>
    public async Task<SenderStatus> StatusAsync() => (await AskAsync("status")).Sender!;

    /// <summary>Moves the guest.</summary>
    public Task<ControlReply> SwitchoverAsync() => AskAsync("switchover");

    /// <summary>Waits until its status is as it should be.</summary>
    public async Task<SenderStatus> UntilAsync(Func<SenderStatus, bool> holds, string what)
    {
        await UntilAsync(() => HasExited || ControlServer.Answers(Control), "it answers");
        long start = Stopwatch.GetTimestamp();
        SenderStatus? status = null;
        while (Stopwatch.GetElapsedTime(start) < Limit && !HasExited)
        {
            status = await StatusAsync();
            if (holds(status))
            {
                return status;
            }

            await Task.Delay(10);
        }

        throw new TimeoutException($"this did not come about: {what}; it is {JsonSerializer.Serialize(status)}\n{string.Join('\n', Log)}");
    }

    /// <summary>Waits until the guest is protected.</summary>
    public Task<SenderStatus> UntilProtectedAsync() => UntilAsync(s => s.State == "protected", "the guest is protected");

    /// <summary>Waits until so many more rounds are committed that one of them was cut after this call.</summary>
    public async Task<SenderStatus> UntilFreshRoundAsync()
    {
        long begun = (await UntilProtectedAsync()).Round;
        return await UntilAsync(s => s.CommittedRound > begun, $"a round after {begun} is committed");
    }
}

/// <summary>What a guest printed on its serial port.</summary>
public sealed class SerialLog
{
    private readonly string _path;

    /// <summary>Reads the log beside a serial socket.</summary>
    public SerialLog(string serialSocket)
    {
        _path = serialSocket[..^".sock".Length] + ".log";
    }

    /// <summary>The whole lines of the counting program so far.</summary>
    public IReadOnlyList<GuestLine> Lines()
    {
        if (!File.Exists(_path))
        {
            return [];
        }

        using FileStream stream = new(_path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(stream);
        string text = reader.ReadToEnd();
        List<GuestLine> lines = [];
        foreach (string line in text[..(text.LastIndexOf('\n') + 1)].Split('\n'))
        {
            if (GuestLine.TryParse(line, out GuestLine parsed))
            {
                lines.Add(parsed);
            }
        }

        return lines;
    }

    /// <summary>Waits for so many lines.</summary>
    public async Task<IReadOnlyList<GuestLine>> UntilAsync(int count)
    {
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            IReadOnlyList<GuestLine> lines = Lines();
            if (lines.Count >= count)
            {
                return lines;
            }

            if (Stopwatch.GetElapsedTime(start) > Daemon.Limit)
            {
                string text = File.Exists(_path) ? File.ReadAllText(_path) : "there is no log";
                throw new TimeoutException($"{_path} has {lines.Count} lines, not {count}: {text[Math.Max(0, text.Length - 500)..]}");
            }

            await Task.Delay(20);
        }
    }

    /// <summary>Fails unless the lines count up one by one and each finds its memory consistent.</summary>
    public static void AssertOneLife(IReadOnlyList<GuestLine> lines)
    {
        Assert.NotEmpty(lines);
        for (int i = 0; i < lines.Count; i++)
        {
            Assert.True(lines[i].Consistent, $"the guest found its memory torn: {lines[i]}");
            if (i > 0)
            {
                Assert.Equal(lines[i - 1].Count + 1, lines[i].Count);
                Assert.True(lines[i].Pages >= lines[i - 1].Pages, $"{lines[i - 1]} is followed by {lines[i]}");
            }
        }
    }
}
