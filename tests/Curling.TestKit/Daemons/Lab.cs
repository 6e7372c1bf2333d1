using System.Diagnostics;
using Curling.Hosting.Instances;
using Curling.Linux.Processes;
using Xunit;
using Xunit.Abstractions;

namespace Curling.TestKit.Daemons;

/// <summary>
/// A place of its own for one test: runtime and memory directories that nobody else uses, and the daemons started in it. At
/// its end everything is stopped and must have left nothing behind.
/// </summary>
public sealed class Lab : IAsyncDisposable
{
    private readonly List<Daemon> _daemons = [];
    private readonly List<IAsyncDisposable> _owned = [];
    private readonly ITestOutputHelper _output;
    private bool _checkLeftovers = true;

    /// <summary>Creates the directories.</summary>
    /// <param name="output">The test's log.</param>
    /// <param name="qemu">The QEMU that the daemons run.</param>
    /// <param name="memory">The memory filesystem; null for the one that daemons of this host choose.</param>
    public Lab(ITestOutputHelper output, string qemu, string? memory = null)
    {
        _output = output;
        Qemu = qemu;
        Name = "ct" + Guid.NewGuid().ToString("N")[..8];
        Directory = Path.Combine(Path.GetTempPath(), Name);
        Runtime = Path.Combine(Directory, "run");
        Memory = MemoryPlace.In(place => System.IO.Directory.CreateDirectory(Path.Combine(memory ?? place, Name))).FullName;
        System.IO.Directory.CreateDirectory(Runtime);
    }

    /// <summary>What tells this lab from others in command lines.</summary>
    public string Name { get; }

    /// <summary>For the test's own files.</summary>
    public string Directory { get; }

    /// <summary>The daemons' runtime directory.</summary>
    public string Runtime { get; }

    /// <summary>The daemons' memory filesystem.</summary>
    public string Memory { get; set; }

    /// <summary>The network namespace that receivers are started in, or null.</summary>
    public string? ReceiverNamespace { get; set; }

    /// <summary>The network namespace that senders are started in, or null.</summary>
    public string? SenderNamespace { get; set; }

    /// <summary>The QEMU that the daemons run.</summary>
    public string Qemu { get; set; }

    /// <summary>Something that daemons of this lab use: it is disposed of after they have ended.</summary>
    public void Own(IAsyncDisposable owned) => _owned.Add(owned);

    /// <summary>Starts <c>curling-recv</c> on a free port and waits until it listens.</summary>
    public async Task<Receiver> StartReceiverAsync(params string[] options)
    {
        string[] listen = options.Contains("--listen") ? [] : ["--listen", "tcp:127.0.0.1:0"];
        Receiver receiver = new(this, [.. listen, "--control", Path.Combine(Runtime, $"recv-{_daemons.Count}.sock"), .. options]);
        _daemons.Add(receiver);
        await receiver.UntilLogAsync("Listening on ");
        receiver.FindPort();
        return receiver;
    }

    /// <summary>Starts <c>curling-send</c>.</summary>
    public Sender StartSender(string target, string? guest, params string[] options)
    {
        Sender sender = new(this, ["--target", target, "--control", Path.Combine(Runtime, $"send-{_daemons.Count}.sock"),
            .. guest is null ? Array.Empty<string>() : ["--guest", guest], .. options]);
        _daemons.Add(sender);
        return sender;
    }

    /// <summary>A daemon that was killed cannot clear away: starts one more, which does, and waits until it has.</summary>
    public async Task ClearAwayAsync()
    {
        foreach (Daemon daemon in _daemons.Where(d => d.WasKilled))
        {
            // Until it is reaped here it counts as a living owner of its files.
            await daemon.ExitAsync();
        }

        Receiver next = await StartReceiverAsync();
        await next.UntilLogAsync("Removed ");
        await next.StopAsync();
    }

    /// <summary>Runs a program of Curling to its end.</summary>
    public async Task<(int Code, string Output, string Error)> RunAsync(string program, params string[] arguments)
    {
        using Process process = Start(program, arguments);
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> error = process.StandardError.ReadToEndAsync();
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(120));
        try
        {
            await process.WaitForExitAsync(limit.Token);
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new TimeoutException($"{program} {string.Join(' ', arguments)} did not end: {await output} {await error}");
        }

        return (process.ExitCode, await output, await error);
    }

    /// <summary>Leaves a mess on purpose: do not look for it.</summary>
    public void ExpectLeftovers() => _checkLeftovers = false;

    /// <summary>Everything is cleared away now, or must be by the end.</summary>
    public void ExpectNothingLeft() => _checkLeftovers = true;

    /// <summary>What daemons left behind: their directories, memory and QEMUs.</summary>
    public IReadOnlyList<string> Leftovers()
    {
        List<string> found = [];
        found.AddRange(System.IO.Directory.EnumerateFileSystemEntries(Runtime).Where(p => !p.EndsWith(".log", StringComparison.Ordinal)));
        if (System.IO.Directory.Exists(Memory))
        {
            found.AddRange(System.IO.Directory.EnumerateFileSystemEntries(Memory));
        }

        foreach (string entry in System.IO.Directory.EnumerateDirectories("/proc"))
        {
            if (int.TryParse(Path.GetFileName(entry), out int pid)
                && ProcessInfo.CommandLine(pid) is { } line && line.Contains(Name) && line.Contains("qemu"))
            {
                found.Add($"process {pid}: {line[..Math.Min(120, line.Length)]}");
            }
        }

        return found;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        // Receivers last: a sender that is stopped says goodbye to one that listens.
        foreach (Daemon daemon in _daemons.OrderBy(d => d is Receiver))
        {
            await daemon.StopAsync();
            _output.WriteLine($"---- {daemon.Title}");
            foreach (string line in daemon.Log.TakeLast(60))
            {
                _output.WriteLine(line);
            }
        }

        foreach (IAsyncDisposable owned in _owned)
        {
            await owned.DisposeAsync();
        }

        IReadOnlyList<string> left = [];
        for (int i = 0; i < 100 && (left = Leftovers()).Count > 0 && _checkLeftovers; i++)
        {
            await Task.Delay(50);
        }

        System.IO.Directory.Delete(Directory, recursive: true);
        if (System.IO.Directory.Exists(Memory) && Path.GetFileName(Memory) == Name)
        {
            System.IO.Directory.Delete(Memory, recursive: true);
            MemoryPlace.UnmountIfEmpty();
        }

        if (_checkLeftovers)
        {
            Assert.True(left.Count == 0, "left behind: " + string.Join("; ", left));
        }
    }

    internal Process Start(string program, IEnumerable<string> arguments)
    {
        // The benchmark runs the programs that eng/install makes, native as users have them; tests run those of their own build.
        string programs = Environment.GetEnvironmentVariable("CURLING_PROGRAMS") is { Length: > 0 } path ? path : AppContext.BaseDirectory;

        // ip becomes the program: the process keeps its number.
        string file = Path.Combine(programs, program);
        string? place = program == "curling-recv" ? ReceiverNamespace : SenderNamespace;
        ProcessStartInfo start = place is null ? new(file) : new("ip", ["netns", "exec", place, file]);
        start.RedirectStandardOutput = true;
        start.RedirectStandardError = true;
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }

        start.Environment["CURLING_RUNTIME"] = Runtime;
        start.Environment["CURLING_SHM"] = Memory;
        start.Environment["CURLING_STATE"] = Path.Combine(Directory, "state");
        start.Environment["CURLING_QEMU"] = Qemu;
        start.Environment["DOTNET_gcServer"] = "0";
        return Process.Start(start)!;
    }
}
