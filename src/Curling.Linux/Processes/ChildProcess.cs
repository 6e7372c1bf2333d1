using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text;

namespace Curling.Linux.Processes;

/// <summary>How to start a <see cref="ChildProcess"/>.</summary>
/// <param name="FileName">The program: a path, or a name that is looked up on PATH.</param>
/// <param name="Arguments">Its arguments, each as it is.</param>
public sealed record ChildProcessOptions(string FileName, IReadOnlyList<string> Arguments)
{
    /// <summary>Variables set beside those this process has.</summary>
    public IReadOnlyDictionary<string, string>? Environment { get; init; }

    /// <summary>A file that gets the program's errors appended, or null.</summary>
    public string? LogPath { get; init; }
}

/// <summary>
/// A program that must not outlive this process: the kernel kills it when this process ends, however it ends.
/// </summary>
/// <remarks>
/// Thread-safe. <c>setpriv --pdeathsig</c> sets the death signal; the kernel sends it when the <em>thread</em> that started the
/// child ends, so one permanent thread starts them all. Disposing kills the program and waits for its end.
/// </remarks>
public sealed class ChildProcess : IAsyncDisposable
{
    private const int MaxTail = 4096;
    private static readonly BlockingCollection<Action> Work = StartThread();
    private readonly Process _process;
    private readonly StringBuilder _tail = new();
    private readonly StreamWriter? _log;
    private readonly ChildReaper _reaper;
    private bool _logClosed;
    private readonly TaskCompletionSource<int> _exited = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private ChildProcess(Process process, StreamWriter? log)
    {
        _process = process;
        _log = log;
        Pid = process.Id;
        _reaper = new ChildReaper(Pid);
        Task output = PumpAsync(process.StandardOutput);
        Task errors = PumpAsync(process.StandardError);
        _ = ReapAsync(output, errors);
    }

    /// <summary>The process number.</summary>
    public int Pid { get; }

    /// <summary>Completes with the exit code when the program has ended; 128 and the signal's number when a signal ended it.</summary>
    public Task<int> Exited => _exited.Task;

    /// <summary>Whether the program has ended.</summary>
    public bool HasExited => _exited.Task.IsCompleted;

    /// <summary>The last 4 KiB that the program printed.</summary>
    public string ErrorTail
    {
        get
        {
            lock (_tail)
            {
                return _tail.ToString().Trim();
            }
        }
    }

    /// <summary>Starts a program.</summary>
    /// <exception cref="FileNotFoundException">There is no such program.</exception>
    public static ChildProcess Start(ChildProcessOptions options)
    {
        string program = Find(options.FileName)
            ?? throw new FileNotFoundException($"the program {options.FileName} was not found", options.FileName);
        string setpriv = Find("setpriv")
            ?? throw new FileNotFoundException("the program setpriv was not found; install the package util-linux", "setpriv");
        ProcessStartInfo start = new(setpriv)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        foreach (string argument in (ReadOnlySpan<string>)["--pdeathsig", "KILL", "--", program])
        {
            start.ArgumentList.Add(argument);
        }

        foreach (string argument in options.Arguments)
        {
            start.ArgumentList.Add(argument);
        }

        foreach ((string name, string value) in options.Environment ?? new Dictionary<string, string>())
        {
            start.Environment[name] = value;
        }

        // Unbuffered below: what could not be written must not come back at the next write or at the end.
        StreamWriter? log = options.LogPath is { } path
            ? new StreamWriter(new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.ReadWrite, bufferSize: 0)) { AutoFlush = true }
            : null;
        TaskCompletionSource<Process> started = new(TaskCreationOptions.RunContinuationsAsynchronously);
        Work.Add(() =>
        {
            try
            {
                started.SetResult(Process.Start(start)!);
            }
            catch (Exception e)
            {
                started.SetException(e);
            }
        });
        try
        {
            Process process = started.Task.GetAwaiter().GetResult();
            process.StandardInput.Close();
            return new ChildProcess(process, log);
        }
        catch
        {
            log?.Dispose();
            throw;
        }
    }

    /// <summary>Looks a program up: a path as it is, a name on PATH; null when there is none.</summary>
    public static string? Find(string program)
    {
        if (program.Contains('/'))
        {
            return File.Exists(program) ? Path.GetFullPath(program) : null;
        }

        string path = System.Environment.GetEnvironmentVariable("PATH") ?? "";
        return path.Split(':', StringSplitOptions.RemoveEmptyEntries)
            .Append("/usr/sbin").Append("/sbin")
            .Select(directory => Path.Combine(directory, program))
            .FirstOrDefault(File.Exists);
    }

    /// <summary>Ends the program with SIGKILL, if it still runs.</summary>
    public void Kill()
    {
        try
        {
            _process.Kill();
        }
        catch (InvalidOperationException)
        {
            // It has ended, or the runtime believes so.
        }

        _reaper.Kill();
    }

    /// <summary>Waits for the end of the program.</summary>
    /// <exception cref="TimeoutException">It still runs after <paramref name="limit"/>.</exception>
    public Task<int> WaitAsync(TimeSpan limit, CancellationToken cancellation) => _exited.Task.WaitAsync(limit, cancellation);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        Kill();
        await _exited.Task.WaitAsync(TimeSpan.FromSeconds(30));
    }

    private static BlockingCollection<Action> StartThread()
    {
        BlockingCollection<Action> work = [];
        new Thread(() =>
        {
            foreach (Action action in work.GetConsumingEnumerable())
            {
                action();
            }
        })
        {
            IsBackground = true,
            Name = "children",
        }.Start();
        return work;
    }

    private async Task PumpAsync(StreamReader reader)
    {
        char[] buffer = new char[1024];
        try
        {
            for (int count; (count = await reader.ReadAsync(buffer)) > 0;)
            {
                lock (_tail)
                {
                    _tail.Append(buffer, 0, count);
                    if (_tail.Length > MaxTail)
                    {
                        _tail.Remove(0, _tail.Length - MaxTail);
                    }

                    WriteLog(buffer, count);
                }
            }
        }
        catch (IOException)
        {
            // The pipe broke with the program.
        }
    }

    /// <summary>
    /// Writes to the log what it takes: with a full disk the program's output must still be read, or the program would hang
    /// in a write.
    /// </summary>
    private void WriteLog(char[] buffer, int count)
    {
        try
        {
            if (!_logClosed)
            {
                _log?.Write(buffer, 0, count);
            }
        }
        catch (IOException)
        {
            // The tail still has it.
        }
    }

    private void CloseLog()
    {
        lock (_tail)
        {
            _logClosed = true;
            try
            {
                _log?.Dispose();
            }
            catch (IOException)
            {
                // As above; the program's end is to be told all the same.
            }
        }
    }

    private async Task ReapAsync(Task output, Task errors)
    {
        await _process.WaitForExitAsync();
        int? reaped = await Task.Factory.StartNew(
            _reaper.WaitForEnd, CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default);

        // What the program said last is part of its end. A grandchild that keeps the pipes open must not hold it up.
        await Task.WhenAny(Task.WhenAll(output, errors), Task.Delay(TimeSpan.FromSeconds(2)));
        int code = reaped ?? _process.ExitCode;
        _process.Dispose();
        CloseLog();
        _exited.TrySetResult(code);
    }
}
