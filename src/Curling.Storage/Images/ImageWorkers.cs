namespace Curling.Storage.Images;

/// <summary>Threads that carry out what may block on a device: made when there is work for them, at most so many, until disposed.</summary>
/// <remarks>Safe from any thread; nothing is allocated for a piece of work.</remarks>
internal sealed class ImageWorkers : IDisposable
{
    private static readonly TimeSpan Idle = TimeSpan.FromSeconds(10);
    private readonly object _gate = new();
    private readonly string _name;
    private readonly int _most;
    private ImageWork? _first;
    private ImageWork? _last;
    private int _threads;
    private int _unfinished;
    private int _waiting;
    private bool _disposed;

    public ImageWorkers(string name, int most)
    {
        _name = name;
        _most = most;
    }

    /// <summary>Queues a piece of work.</summary>
    /// <exception cref="ObjectDisposedException">There are no workers any more.</exception>
    public void Queue(ImageWork work)
    {
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            work.Next = null;
            _unfinished++;
            if (_last is null)
            {
                _first = work;
            }
            else
            {
                _last.Next = work;
            }

            _last = work;
            if (_waiting > 0)
            {
                Monitor.Pulse(_gate);
            }
            else if (_threads < _most)
            {
                _threads++;
                new Thread(Run) { IsBackground = true, Name = _name }.Start();
            }
        }
    }

    /// <summary>A piece of work is done; to be called before its task completes, whose continuation may dispose of all this.</summary>
    public void Finished()
    {
        lock (_gate)
        {
            _unfinished--;
            if (_disposed)
            {
                Monitor.PulseAll(_gate);
            }
        }
    }

    /// <summary>Takes no more work, and waits until what was queued is done.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            Monitor.PulseAll(_gate);
            while (_unfinished > 0)
            {
                Monitor.Wait(_gate);
            }
        }
    }

    private void Run()
    {
        while (true)
        {
            ImageWork work;
            lock (_gate)
            {
                while (_first is null)
                {
                    _waiting++;
                    bool woken = !_disposed && Monitor.Wait(_gate, Idle);
                    _waiting--;
                    if (_first is null && (_disposed || !woken))
                    {
                        _threads--;
                        return;
                    }
                }

                work = _first;
                _first = work.Next;
                if (_first is null)
                {
                    _last = null;
                }
            }

            work.Run();
        }
    }
}
