using System.Net.Sockets;
using System.Runtime.InteropServices;
using Curling.Linux.Storage;

namespace Curling.Hosting.Network;

/// <summary>QEMU's end of a card's cable: a Unix socket that QEMU connects to, one connection at a time.</summary>
/// <remarks>
/// One thread accepts, receives and disconnects, another sends; neither call waits. After a disconnection the next QEMU may
/// connect. Disposing removes the socket's file.
/// </remarks>
internal sealed class QemuCable : IDisposable
{
    private const int SendBufferBytes = 1 << 20;
    private readonly string _path;
    private readonly Socket _listener;
    private Socket? _qemu;

    /// <summary>Waits for QEMU.</summary>
    /// <param name="path">The socket's path; what is left there is removed.</param>
    /// <exception cref="SocketException">The socket cannot be made.</exception>
    public QemuCable(string path)
    {
        _path = path;
        File.Delete(path);
        _listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            _listener.Bind(new UnixDomainSocketEndPoint(path));
            _listener.Listen(1);
            _listener.Blocking = false;
        }
        catch
        {
            _listener.Dispose();
            throw;
        }
    }

    /// <summary>Becomes readable when QEMU connects.</summary>
    public SafeHandle Listener => _listener.SafeHandle;

    /// <summary>The connection, null while there is none. Owned by this.</summary>
    public Socket? Connection => Volatile.Read(ref _qemu);

    /// <summary>Takes a connection that waits.</summary>
    /// <returns>Whether there was one.</returns>
    public bool TryAccept()
    {
        if (!_listener.Poll(TimeSpan.Zero, SelectMode.SelectRead))
        {
            return false;
        }

        try
        {
            Socket qemu = _listener.Accept();
            qemu.Blocking = false;
            StreamSocket.WidenSendBuffer(qemu, SendBufferBytes);
            Volatile.Write(ref _qemu, qemu);
            return true;
        }
        catch (SocketException)
        {
            // Gone again before it was accepted.
            return false;
        }
    }

    /// <summary>Ends the connection.</summary>
    public void Disconnect()
    {
        Socket? qemu = _qemu;
        Volatile.Write(ref _qemu, null);
        qemu?.Close();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Disconnect();
        _listener.Dispose();
        File.Delete(_path);
    }
}
