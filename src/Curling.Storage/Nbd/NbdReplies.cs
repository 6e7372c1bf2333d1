using System.Net.Sockets;
using Curling.Linux.Storage;

namespace Curling.Storage.Nbd;

/// <summary>Replies that are ready, on their way into the socket: whoever brings one sends what has gathered, one thread at a time.</summary>
/// <remarks>
/// The thread that reads the connection lets its replies gather until it has no request left to take (<see cref="Flush"/>). A thread of the
/// backend's sends at once, but never waits for the client: where it would, a thread of the connection's own goes on.
/// </remarks>
internal sealed class NbdReplies
{
    private const int MaxBatch = StreamSocket.MaxParts / 2;
    private readonly object _gate = new();
    private readonly Socket _socket;
    private readonly Action<NbdRequest> _release;
    private readonly Action<IOException> _broken;
    private readonly NbdRequest?[] _batch = new NbdRequest?[MaxBatch];
    private readonly BufferPart[] _parts = new BufferPart[StreamSocket.MaxParts];
    private NbdRequest? _first;
    private NbdRequest? _last;
    private int _batched;
    private int _part;
    private int _partCount;
    private bool _sending;
    private bool _handedOver;
    private bool _ended;
    private bool _dropping;
    private Thread? _thread;

    public NbdReplies(Socket socket, Action<NbdRequest> release, Action<IOException> broken)
    {
        _socket = socket;
        _release = release;
        _broken = broken;
    }

    /// <summary>Adds a reply, and sends it unless it is to gather with others.</summary>
    public void Add(NbdRequest request, bool gather)
    {
        lock (_gate)
        {
            request.Next = null;
            if (_last is null)
            {
                _first = request;
            }
            else
            {
                _last.Next = request;
            }

            _last = request;
            if (gather || _sending)
            {
                return;
            }

            _sending = true;
        }

        Drain(wait: false);
    }

    /// <summary>Sends what has gathered.</summary>
    public void Flush()
    {
        lock (_gate)
        {
            if (_sending || _first is null)
            {
                return;
            }

            _sending = true;
        }

        Drain(wait: false);
    }

    /// <summary>Ends the thread that waits for the client; every reply must have been released before.</summary>
    public void End()
    {
        Thread? thread;
        lock (_gate)
        {
            _ended = true;
            Monitor.PulseAll(_gate);
            thread = _thread;
        }

        thread?.Join();
    }

    /// <summary>Sends until nothing is left, or the client would have to be waited for. One thread at a time, the one that set _sending.</summary>
    private void Drain(bool wait)
    {
        while (_partCount > 0 || TakeBatch())
        {
            try
            {
                if (!_dropping)
                {
                    long sent = StreamSocket.Send(_socket.SafeHandle, _parts.AsSpan(_part, _partCount - _part), wait);
                    if (sent < 0)
                    {
                        HandOver();
                        return;
                    }

                    Advance(sent);
                    if (_part < _partCount)
                    {
                        continue;
                    }
                }
            }
            catch (Exception e) when (e is IOException or ObjectDisposedException)
            {
                _dropping = true;
                _broken(e as IOException ?? new IOException(e.Message, e));
            }

            _part = _partCount = 0;
            for (int i = 0; i < _batched; i++)
            {
                NbdRequest request = _batch[i]!;
                _batch[i] = null;
                _release(request);
            }
        }
    }

    private bool TakeBatch()
    {
        lock (_gate)
        {
            _batched = 0;
            while (_first is { } request && _batched < MaxBatch)
            {
                _first = request.Next;
                request.Next = null;
                _batch[_batched++] = request;
                _partCount += request.Parts(_parts.AsSpan(_partCount));
            }

            if (_first is null)
            {
                _last = null;
            }

            _sending = _batched > 0;
            return _sending;
        }
    }

    private void Advance(long sent)
    {
        while (sent > 0)
        {
            BufferPart part = _parts[_part];
            if (sent < part.Length)
            {
                _parts[_part] = part with { Start = part.Start + (int)sent, Length = part.Length - (int)sent };
                return;
            }

            sent -= part.Length;
            _part++;
        }
    }

    private void HandOver()
    {
        lock (_gate)
        {
            _handedOver = true;
            if (_thread is null)
            {
                _thread = new Thread(Run) { IsBackground = true, Name = "nbd replies" };
                _thread.Start();
            }
            else
            {
                Monitor.PulseAll(_gate);
            }
        }
    }

    private void Run()
    {
        while (true)
        {
            lock (_gate)
            {
                while (!_handedOver)
                {
                    if (_ended)
                    {
                        return;
                    }

                    Monitor.Wait(_gate);
                }

                _handedOver = false;
            }

            Drain(wait: true);
        }
    }
}
