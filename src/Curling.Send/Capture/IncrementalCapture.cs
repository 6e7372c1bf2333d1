using System.Diagnostics;
using Curling.Hosting.Faults;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Linux.Processes;
using Curling.Linux.Tracking;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Memory;
using Curling.Qemu.Monitor;
using Curling.Send.Guest;
using Curling.Send.Links;
using Microsoft.Win32.SafeHandles;

namespace Curling.Send.Capture;

/// <summary>
/// Incremental rounds: the pages written since the last round are found and copied from outside QEMU; the guest stands still
/// only while its device state is saved and what is left is copied.
/// </summary>
/// <remarks>
/// Captures run on one thread of its own, which waits for QEMU itself, so that no scheduling lengthens a pause. Pages are
/// always protected first and copied second: a page written during the copy is simply dirty again.
/// </remarks>
internal sealed partial class IncrementalCapture : IRoundCapture
{
    // Copying pages while the guest runs pays only where it shortens the cut by more than it costs: about a millisecond's worth.
    private const int WorthAPass = 256;
    private const int MaxPasses = 5;

    // Pages, 1 GiB, that may be copied before their mapping is dropped.
    private const long MaxMapped = 1 << 18;

    // Chunks that a base round is read ahead of the link: few enough to stay in a processor's cache until they are sent.
    private const int BaseAhead = 6;
    private static readonly TimeSpan MonitorLimit = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan DrainLimit = TimeSpan.FromMilliseconds(20);
    private readonly PrimaryGuest _guest;
    private readonly DirtyTracker _tracker;
    private readonly TrackedBlock[] _blocks;
    private readonly PageRegion[] _regions = new PageRegion[4096];
    private readonly MemoryFrames _frames = new();
    private readonly string _devicePath;
    private readonly Action _copyLast;
    private readonly Thread _thread;
    private SecondScan? _second;
    private readonly SemaphoreSlim _work = new(0);
    private Job? _job;
    private bool _disposed;
    private long _lastCut;
    private long _mapped;
    private long _round;
    private SafeFileHandle? _device;
    private byte[] _saved = new byte[256 * 1024];
    private byte[] _composed = new byte[256 * 1024];

    private IncrementalCapture(PrimaryGuest guest, DirtyTracker tracker, TrackedBlock[] blocks)
    {
        _guest = guest;
        _tracker = tracker;
        _blocks = blocks;
        Blocks = [.. blocks.Select(b => new HelloBlock(b.Name, b.Bytes))];
        _devicePath = Path.Combine(guest.MemoryDirectory, "device-state");
        _copyLast = () =>
        {
            _lastCut = CopyDirty(atCut: true);
            _frames.Flush();
            _guest.Disks.Cut(_round);
            AtCut?.Invoke(_round);
            _guest.AtCut?.Invoke(_round);
            FaultPoint.Hit(FaultPoint.SendInCut);
        };
        _thread = new Thread(Run) { IsBackground = true, Name = "capture" };
        _thread.Start();
    }

    /// <inheritdoc/>
    public IReadOnlyList<HelloBlock> Blocks { get; }

    /// <inheritdoc/>
    public long ExpectedBaseBytes => _blocks.Sum(b => b.Bytes);

    /// <summary>Changes what a scan of a block reports; only tests of the exactness test itself set it.</summary>
    internal static Func<string, bool>? LeaveOut { get; set; }

    /// <summary>Whether pages are copied before they are protected: wrong, and only for tests that must notice.</summary>
    internal static bool CopyBeforeProtect { get; set; }

    /// <summary>
    /// Regions of memory in use from which on two threads look through it at a cut: 1 GiB, where it takes longer than QEMU's save of its
    /// devices beside it. Only tests set it.
    /// </summary>
    internal static int FromRegions { get; set; } = 512;

    /// <summary>Whether memory that is used for the first time is left out: wrong, and only for tests that must notice.</summary>
    internal static bool LeaveNew { get; set; }

    /// <summary>The blocks that are captured, for tests that compare them.</summary>
    internal IReadOnlyList<TrackedBlock> Tracked => _blocks;

    /// <summary>Called in every cut, with the guest stopped and everything of the round copied; only tests set it.</summary>
    internal Action<long>? AtCut { get; set; }

    /// <summary>Attaches to a running guest.</summary>
    /// <exception cref="TrackingUnavailableException">This host does not allow it.</exception>
    /// <exception cref="QemuException">A block that may change cannot be reached.</exception>
    public static async Task<IncrementalCapture> AttachAsync(PrimaryGuest guest, CancellationToken cancellation)
    {
        DirtyTracker.CheckSupport();
        (_, IReadOnlyList<RamBlock> located) = await RamBlocks.LocateAsync(
            guest.Qemu.Qmp, guest.Qemu.Pid, guest.Memory.Path, cancellation);
        TrackedBlock[] blocks =
        [
            .. located.Select(TrackedBlock (b) => b.Name == RamBlock.Ram
                ? new MappedRam(b.Name, b.Address, guest.Memory)
                : new RemoteMemory(b.Name, b.Address, b.TotalBytes, guest.Qemu.Pid)),
        ];
        DirtyTracker tracker = DirtyTracker.Attach(guest.Qemu.Pid);
        try
        {
            foreach (TrackedBlock block in blocks)
            {
                tracker.Register(block.Address, (ulong)block.Bytes);
            }

            return new IncrementalCapture(guest, tracker, blocks);
        }
        catch
        {
            tracker.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public Task<CaptureResult> CaptureAsync(RoundBegin begin, bool final, RoundWriter rounds, CancellationToken cancellation)
    {
        Job job = new(begin, final, rounds);
        _job = job;
        _work.Release();
        return job.Done.Task;
    }

    /// <inheritdoc/>
    public async Task ResumeAsync(CancellationToken cancellation) =>
        await _guest.Run.ContinueAsync(cancellation);

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        _disposed = true;
        _work.Release();
        _thread.Join();
        _second?.Dispose();
        _tracker.Dispose();
        _device?.Dispose();
        _work.Dispose();
        return ValueTask.CompletedTask;
    }

    private void Run()
    {
        // The guest stands still while this thread and QEMU's monitor are at work.
        int qemu = _guest.Qemu.Pid;
        ThreadNiceness.TryRaiseCurrent();
        ThreadNiceness.Raise(qemu, (thread, name) => thread == qemu || name.StartsWith("IO mon_", StringComparison.Ordinal));
        while (true)
        {
            _work.Wait();
            if (_disposed)
            {
                return;
            }

            Job job = _job!;
            try
            {
                job.Done.SetResult(Capture(job));
            }
            catch (Exception e)
            {
                try
                {
                    _frames.Drop();
                    _guest.Disks.Abandon();
                }
                catch (Exception second)
                {
                    // On this thread nobody else would catch it, and the guest would end with the daemon.
                    e = new AggregateException(e, second);
                }

                job.Done.SetException(e);
            }
        }
    }

    private CaptureResult Capture(Job job)
    {
        RoundWriter rounds = job.Rounds;
        _frames.Start(rounds);
        bool isBase = job.Begin.Kind == RoundKind.Base;
        rounds.Begin(job.Begin with { ExpectedBytes = isBase ? ExpectedBaseBytes : 0 });
        if (isBase)
        {
            rounds.Narrow(BaseAhead);
            try
            {
                CopyEverything();
            }
            finally
            {
                rounds.Widen();
            }
        }

        FaultPoint.Hit(FaultPoint.SendPreCopy);
        PreCopy(isBase);
        bool waitedBefore = _frames.Waited;
        FaultPoint.Hit(FaultPoint.SendBeforeStop);
        CaptureResult result = Cut(job.Final, waitedBefore, job.Begin.Round);
        FaultPoint.Hit(FaultPoint.SendAfterContinue);
        SendDeviceState(rounds);
        FaultPoint.Hit(FaultPoint.SendStateSent);
        _guest.Disks.Send(rounds);
        rounds.End(job.Begin.Round, job.Final, result.PauseMicroseconds, _guest.Disks.IsComplete(job.Begin.Round));
        Unmap(isBase);
        return result;
    }

    private void PreCopy(bool isBase)
    {
        long last = isBase ? long.MaxValue : _lastCut;
        for (int pass = 0; pass < MaxPasses && last > WorthAPass; pass++)
        {
            long before = last;
            last = CopyDirty(atCut: false);

            // A guest that dirties as fast as it is copied gains nothing by another pass.
            if (last > before / 10 * 7)
            {
                break;
            }
        }
    }

    private CaptureResult Cut(bool final, bool waitedBefore, long round)
    {
        QmpCutMonitor monitor = _guest.Qemu.Cut;
        bool stopped = true;
        _round = round;
        _guest.Disks.OpenGate();
        _guest.Network.BeforeStop(DrainLimit);
        _guest.Run.Enter();
        long stamp = Stopwatch.GetTimestamp();
        bool runsOn = !_guest.Run.IsSuspended;
        try
        {
            monitor.StopAndSave(_devicePath, MonitorLimit, _copyLast, thenContinue: !final && runsOn);
            stopped = false;
        }
        finally
        {
            _guest.Network.AfterStop();
            if (stopped && runsOn)
            {
                TryContinue(monitor);
            }

            _guest.Run.Leave();
        }

        long micros = final ? (long)Stopwatch.GetElapsedTime(stamp).TotalMicroseconds
            : Math.Max(0, monitor.QemuResumeMicros - monitor.QemuStopMicros);
        return new CaptureResult(micros, _frames.Waited && !waitedBefore);
    }

    private static void TryContinue(QmpCutMonitor monitor)
    {
        try
        {
            monitor.Continue(MonitorLimit);
        }
        catch (QmpException)
        {
            // QEMU is ending; its end is told by its own event.
        }
    }

    private void SendDeviceState(RoundWriter rounds)
    {
        _device ??= File.OpenHandle(_devicePath, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        int length = (int)Math.Min(RandomAccess.GetLength(_device), 64 << 20);
        if (_saved.Length < length)
        {
            _saved = new byte[length * 2];
        }

        int got = 0;
        for (int count; got < length && (count = RandomAccess.Read(_device, _saved.AsSpan(got, length - got), got)) > 0;)
        {
            got += count;
        }

        string machine = _guest.Qemu.Launch.MachineType;
        int composed = DeviceState.ComposedLength(got, machine);
        if (_composed.Length < composed)
        {
            _composed = new byte[composed * 2];
        }

        composed = DeviceState.Compose(_saved.AsSpan(0, got), machine, _composed);
        bool waited = false;
        for (int at = 0; at < composed;)
        {
            int now = Math.Min(ProtocolLimits.MaxContentBytes, composed - at);
            Chunk chunk = rounds.Rent(ref waited);
            new DataPrefix(SectionKind.DeviceState, 0, 0).Write(chunk.Span[DataFrame.PayloadAt..]);
            _composed.AsSpan(at, now).CopyTo(chunk.Span[DataFrame.ContentAt..]);
            chunk.Length = DataPrefix.Bytes + now;
            rounds.Data(chunk, 0);
            at += now;
        }
    }

    private sealed record Job(RoundBegin Begin, bool Final, RoundWriter Rounds)
    {
        public TaskCompletionSource<CaptureResult> Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
