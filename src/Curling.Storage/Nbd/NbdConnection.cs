using System.Buffers.Binary;
using System.Net.Sockets;
using Microsoft.Extensions.Logging;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>One client of an export: a thread reads its requests and starts them; replies go out in the order in which they are ready.</summary>
internal sealed class NbdConnection
{
    private static readonly TimeSpan GoodbyeLimit = TimeSpan.FromSeconds(30);
    private readonly object _gate = new();
    private readonly Socket _socket;
    private readonly NbdServer _server;
    private readonly ILogger _log;
    private readonly NbdReceiver _receiver;
    private readonly NbdReplies _replies;
    private readonly Thread _thread;
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private NbdRequest? _free;
    private int _underWay;
    private long _bytesUnderWay;
    private bool _failedBefore;
    private volatile bool _stopping;
    private volatile bool _broken;

    public NbdConnection(NbdServer server, Socket socket, int number, ILogger log)
    {
        _server = server;
        _socket = socket;
        Number = number;
        _log = log;
        _receiver = new NbdReceiver(socket);
        _replies = new NbdReplies(socket, Release, Broken);
        _thread = new Thread(Run) { IsBackground = true, Name = $"nbd {number}" };
    }

    /// <summary>Counts the export's connections.</summary>
    public int Number { get; }

    /// <summary>What serves the requests.</summary>
    public IDiskBackend Backend => _server.Backend;

    /// <summary>Breaks requests off when the server's patience is at its end.</summary>
    public CancellationToken Cancellation => _server.Cancellation;

    /// <summary>What was negotiated.</summary>
    public NbdAgreement Agreement { get; private set; }

    /// <summary>Completes when nothing of the connection is left.</summary>
    public Task Ended => _ended.Task;

    /// <summary>Begins to serve.</summary>
    public void Start() => _thread.Start();

    /// <summary>Takes no further request; what is under way is answered.</summary>
    public void Stop()
    {
        _stopping = true;
        Shutdown(SocketShutdown.Receive);
    }

    /// <summary>Ends the connection now.</summary>
    public void Abort()
    {
        _broken = true;
        Shutdown(SocketShutdown.Both);
    }

    /// <summary>A reply is ready; from any thread.</summary>
    public void Ready(NbdRequest request) => _replies.Add(request, gather: Thread.CurrentThread == _thread);

    /// <summary>The backend failed a request; from any thread.</summary>
    public void Failed(NbdRequest request, uint error, Exception e)
    {
        bool first;
        lock (_gate)
        {
            first = !_failedBefore;
            _failedBefore = true;
        }

        // A full disk fails every write from then on: the first one is told, the others are counted.
        if (first)
        {
            NbdServerLog.RequestFailed(_log, _server.ExportName, Number, request.Command, request.Offset, error, e.Message);
        }
        else
        {
            NbdServerLog.RequestFailedAgain(_log, _server.ExportName, Number, request.Command, request.Offset, error, e.Message);
        }
    }

    private void Run()
    {
        string why = "the client left";
        try
        {
            NbdHandshake handshake = new(_socket, _receiver, _server.ExportName, Backend, _server.Options.HandshakeLimit);
            if (handshake.Run() is { } agreement)
            {
                Agreement = agreement;
                NbdServerLog.Connected(_log, _server.ExportName, Number, agreement.Structured, agreement.Allocation);
                Serve();
            }
        }
        catch (NbdViolationException e)
        {
            why = e.Message;
            _server.CountViolation();
            NbdServerLog.Violation(_log, _server.ExportName, Number, e.Violation, e.Message);
            Abort();
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            why = e.Message;
            Abort();
        }
        catch (Exception e)
        {
            why = e.Message;
            NbdServerLog.Unexpected(_log, e, _server.ExportName, Number);
            Abort();
        }

        End(why);
    }

    private void Serve()
    {
        while (true)
        {
            while (_receiver.Here.Length >= RequestBytes)
            {
                ReadOnlySpan<byte> header = _receiver.Here[..RequestBytes];
                if (BinaryPrimitives.ReadUInt32BigEndian(header) != RequestMagic)
                {
                    throw new NbdViolationException(NbdViolation.RequestMagic, "a request does not begin with the magic number of one");
                }

                ushort command = BinaryPrimitives.ReadUInt16BigEndian(header[6..]);
                uint length = BinaryPrimitives.ReadUInt32BigEndian(header[24..]);
                if (command == CommandDisconnect)
                {
                    return;
                }

                if (command == CommandWrite && length > MaxPayload)
                {
                    throw new NbdViolationException(NbdViolation.PayloadTooLong, $"a write is {length} bytes long; 32 MiB is the most");
                }

                Handle(header, command is CommandRead or CommandWrite && length <= MaxPayload ? (int)length : 0);
            }

            _replies.Flush();
            if (!_receiver.Receive())
            {
                if (_receiver.Here.Length > 0 && !_stopping)
                {
                    throw new NbdViolationException(NbdViolation.Truncated, "the stream ended in the middle of a request");
                }

                return;
            }
        }
    }

    private void Handle(ReadOnlySpan<byte> header, int payload)
    {
        NbdRequest request = Admit(payload);
        request.Set(header);
        _receiver.Take(RequestBytes);
        if (payload > 0)
        {
            request.Buffer = _server.Buffers.Rent(payload);
        }

        try
        {
            if (request.Command == CommandWrite && payload > 0)
            {
                ReadPayload(request, payload);
            }
        }
        catch
        {
            Recycle(request);
            throw;
        }

        (uint error, string why) = _stopping ? (ErrorShutdown, "the export is ending") : request.Examine(Backend, Agreement);
        if (error != 0)
        {
            request.Fail(error, why);
        }
        else
        {
            request.Start();
        }
    }

    private void ReadPayload(NbdRequest request, int payload)
    {
        int here = Math.Min(payload, _receiver.Here.Length);
        _receiver.Here[..here].CopyTo(request.Buffer!.Bytes);
        _receiver.Take(here);
        if (here < payload)
        {
            _replies.Flush();
            _receiver.Fill(request.Buffer, here, payload - here);
        }
    }

    /// <summary>Waits until one more request may be under way: what bounds the memory that a client can take.</summary>
    private NbdRequest Admit(int payload)
    {
        bool flushed = false;
        lock (_gate)
        {
            while (_underWay >= _server.Options.MaxRequests
                || (_underWay > 0 && _bytesUnderWay + payload > _server.Options.MaxRequestBytes))
            {
                if (!flushed)
                {
                    // Replies that gather hold what is waited for here.
                    flushed = true;
                    Monitor.Exit(_gate);
                    try
                    {
                        _replies.Flush();
                    }
                    finally
                    {
                        Monitor.Enter(_gate);
                    }

                    continue;
                }

                Monitor.Wait(_gate);
            }

            _underWay++;
            _bytesUnderWay += payload;
            if (_free is { } request)
            {
                _free = request.Next;
                request.Next = null;
                return request;
            }
        }

        return new NbdRequest(this);
    }

    /// <summary>A reply is out, or will never be; from any thread.</summary>
    private void Release(NbdRequest request)
    {
        _server.Count(request);
        Recycle(request);
    }

    private void Recycle(NbdRequest request)
    {
        int payload = 0;
        if (request.Buffer is { } buffer)
        {
            payload = request.Length;
            request.Buffer = null;
            _server.Buffers.Return(buffer);
        }

        lock (_gate)
        {
            _bytesUnderWay -= payload;
            _underWay--;
            request.Next = _free;
            _free = request;
            Monitor.PulseAll(_gate);
        }
    }

    private void Broken(IOException e) => Abort();

    private void End(string why)
    {
        _replies.Flush();
        long until = Environment.TickCount64 + (long)GoodbyeLimit.TotalMilliseconds;
        lock (_gate)
        {
            while (_underWay > 0)
            {
                // A client that said goodbye and does not read its last replies is not waited for without an end; the backend is.
                if (!Monitor.Wait(_gate, TimeSpan.FromSeconds(1)) && !_broken && Environment.TickCount64 > until)
                {
                    Abort();
                }
            }
        }

        _replies.End();
        _socket.Dispose();
        NbdServerLog.Disconnected(_log, _server.ExportName, Number, why);
        _ended.SetResult();
    }

    private void Shutdown(SocketShutdown how)
    {
        try
        {
            _socket.Shutdown(how);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // It is gone already.
        }
    }
}
