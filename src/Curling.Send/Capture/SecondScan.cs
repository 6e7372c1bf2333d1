using Curling.Linux.Processes;
using Curling.Linux.Tracking;

namespace Curling.Send.Capture;

/// <summary>A second thread that looks through a part of a block for written pages while the capture's own looks through the rest.</summary>
/// <remarks>
/// The capture's thread begins a scan and always waits for its end before it does anything else with the tracker's findings. What was found is
/// protected already and still to be copied: protected first and copied second, as all else.
/// </remarks>
internal sealed class SecondScan : IDisposable
{
    private const int MaxFound = 16384;
    private readonly DirtyTracker _tracker;
    private readonly PageRegion[] _found = new PageRegion[MaxFound];
    private readonly SemaphoreSlim _begin = new(0);
    private readonly SemaphoreSlim _end = new(0);
    private readonly Thread _thread;
    private TrackedBlock? _block;
    private int _first;
    private int _count;
    private Exception? _failed;
    private bool _disposed;

    public SecondScan(DirtyTracker tracker)
    {
        _tracker = tracker;
        _thread = new Thread(Run) { IsBackground = true, Name = "capture 2" };
        _thread.Start();
    }

    /// <summary>What was found, after <see cref="Wait"/>.</summary>
    public ReadOnlySpan<PageRegion> Found => _found.AsSpan(0, _count);

    /// <summary>The address up to which was looked, after <see cref="Wait"/>: not the block's end when more was found than there is room for.</summary>
    public ulong ScannedTo { get; private set; }

    /// <summary>Begins to look through the tracked regions of a block from one of them on.</summary>
    public void Begin(TrackedBlock block, int firstRegion)
    {
        _block = block;
        _first = firstRegion;
        _begin.Release();
    }

    /// <summary>Waits for the end of what was begun.</summary>
    /// <exception cref="IOException">The pages cannot be listed.</exception>
    public void Wait()
    {
        _end.Wait();
        if (_failed is { } failed)
        {
            _failed = null;
            throw new IOException(failed.Message, failed);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _disposed = true;
        _begin.Release();
        _thread.Join();
        _begin.Dispose();
        _end.Dispose();
    }

    private void Run()
    {
        ThreadNiceness.TryRaiseCurrent();
        while (true)
        {
            _begin.Wait();
            if (_disposed)
            {
                return;
            }

            try
            {
                Scan(_block!);
            }
            catch (Exception e)
            {
                _failed = e;
            }

            _end.Release();
        }
    }

    private void Scan(TrackedBlock block)
    {
        _count = 0;
        RegionSet tracked = block.Tracked;
        for (int end, first = _first; (first = tracked.Next(first, isIn: true)) < tracked.Regions; first = end)
        {
            end = tracked.Next(first, isIn: false);
            ulong until = block.AddressOf(end);
            for (ulong at = block.AddressOf(first); at < until;)
            {
                if (_count == _found.Length)
                {
                    ScannedTo = at;
                    return;
                }

                _count += _tracker.Scan(at, until, _found.AsSpan(_count), protect: true, out at);
            }
        }

        ScannedTo = block.AddressOf(tracked.Regions);
    }
}
