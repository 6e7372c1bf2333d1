using System.Diagnostics;
using System.Globalization;
using Curling.Linux.Processes;
using Curling.Linux.Tests.Native;
using Curling.Linux.Tracking;
using TrackInterop = Curling.Linux.Tracking.Interop;

namespace Curling.Linux.Tests.Tracking;

/// <summary>The process of Native/tracked.c: memory at known places, written on command.</summary>
internal sealed class TrackedProcess : IDisposable
{
    public const ulong Page = 4096;
    public const int Pages = 1024;
    private readonly Process _process;
    private readonly ulong? _start;
    private readonly CancellationTokenSource _ended = new();

    public TrackedProcess(bool spinning = false)
    {
        _process = Process.Start(new ProcessStartInfo(NativeProgram.Compile("tracked"), spinning ? ["spin"] : [])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        })!;
        _start = ProcessInfo.StartTime(Pid);
        string[] places = Line().Split(' ');
        Own = ulong.Parse(places[0], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        Shared = ulong.Parse(places[1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        RealTimeSignal = int.Parse(places[2], CultureInfo.InvariantCulture);
    }

    public int Pid => _process.Id;

    /// <summary>Private anonymous memory of 1024 pages.</summary>
    public ulong Own { get; }

    /// <summary>Shared memory of 1024 pages.</summary>
    public ulong Shared { get; }

    public int RealTimeSignal { get; }

    public int Signals => int.Parse(Ask("n"), CultureInfo.InvariantCulture);

    /// <summary>How many userfaultfds it has open.</summary>
    public int Userfaultfds => Directory.GetFiles($"/proc/{Pid}/fd")
        .Count(f => new FileInfo(f).LinkTarget?.Contains("userfaultfd", StringComparison.Ordinal) == true);

    /// <summary>How much of files in memory it has mapped in large pages.</summary>
    public long LargeBytes => File.ReadLines($"/proc/{Pid}/smaps_rollup")
        .Where(l => l.StartsWith("ShmemPmdMapped:", StringComparison.Ordinal))
        .Sum(l => long.Parse(l.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture) * 1024);

    public void Write(ulong address, byte value) => Assert.Equal("ok", Ask($"w {address:x} {value}"));

    public int Read(ulong address) => int.Parse(Ask($"r {address:x}"), CultureInfo.InvariantCulture);

    public ulong Map(string path, long bytes) =>
        ulong.Parse(Ask($"f {path} {bytes}"), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);

    /// <summary>Ends it from inside.</summary>
    public void Quit()
    {
        _process.StandardInput.WriteLine("q");
        int? code = WaitForEnd();
        Assert.True(code is null or 0, $"it ended with {code}");
    }

    public void Kill()
    {
        // The runtime may believe that a traced child has ended (see ChildReaper) and would not kill it.
        _ = TrackInterop.syscall(62 /* kill */, Pid, 9, 0);
        _ = WaitForEnd();
    }

    public void Dispose()
    {
        if (ProcessInfo.StartTime(Pid) == _start)
        {
            Kill();
        }

        _process.Dispose();
        _ended.Dispose();
    }

    /// <summary>Attaches; skips the test, saying so, where the kernel cannot do it.</summary>
    public DirtyTracker Attach()
    {
        SkipUnlessSupported();
        return DirtyTracker.Attach(Pid);
    }

    public static void SkipUnlessSupported()
    {
        try
        {
            DirtyTracker.CheckSupport();
        }
        catch (TrackingUnavailableException e)
        {
            Skip.If(true, $"SKIPPED: {e.Message}");
        }
    }

    private int? WaitForEnd()
    {
        // The runtime first, always: it ends this whole process when a child it still waits for was reaped by somebody else.
        Assert.True(_process.WaitForExit(Wait.Limit), "the runtime does not see the process end");
        Task<int?> end = Task.Run(() => new ChildReaper(Pid).WaitForEnd());
        Assert.True(end.Wait(Wait.Limit), "the process did not end");
        return end.Result;
    }

    private string Ask(string command)
    {
        _process.StandardInput.WriteLine(command);
        return Line();
    }

    private string Line()
    {
        Task<string?> line = _process.StandardOutput.ReadLineAsync(_ended.Token).AsTask();
        Assert.True(line.Wait(Wait.Limit), "the process does not answer");
        return line.Result ?? throw new InvalidOperationException("the process ended");
    }
}
