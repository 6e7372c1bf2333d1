using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;

namespace Curling.TestKit.Network;

/// <summary>
/// A way between two programs that can be cut: then nothing passes any more and nobody is told, as when a switch dies. Or it is reset: both ends are
/// told at once, and may come again.
/// </summary>
public sealed class CuttableLink : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly int _target;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly ConcurrentDictionary<Socket, bool> _sockets = new();
    private readonly Task _loop;
    private volatile TaskCompletionSource _open = new();

    /// <summary>Opens a way to a port on loopback.</summary>
    public CuttableLink(int target)
    {
        _target = target;
        _open.SetResult();
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(16);
        _loop = Task.Run(AcceptAsync);
    }

    /// <summary>Where the way begins.</summary>
    public string Endpoint => $"tcp:{_listener.LocalEndPoint}";

    /// <summary>The port where the way begins.</summary>
    public int Port => ((IPEndPoint)_listener.LocalEndPoint!).Port;

    /// <summary>All connections end now, with a reset to both ends.</summary>
    public void Reset()
    {
        foreach (Socket socket in _sockets.Keys)
        {
            try
            {
                // Closing with no time to linger sends a reset (socket(7), SO_LINGER).
                socket.LingerState = new LingerOption(true, 0);
                socket.Dispose();
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // It has ended meanwhile.
            }
        }
    }

    /// <summary>Nothing passes from now on.</summary>
    public void Cut() => _open = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>What waited passes, and what comes.</summary>
    public void Mend() => _open.TrySetResult();

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        Mend();
        _listener.Dispose();
        await _loop;
    }

    private async Task AcceptAsync()
    {
        List<Task> links = [];
        try
        {
            while (true)
            {
                links.Add(LinkAsync(await _listener.AcceptAsync(_cancellation.Token)));
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            await Task.WhenAll(links);
        }
    }

    private async Task LinkAsync(Socket near)
    {
        using (near)
        using (Socket far = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp))
        {
            _sockets[near] = _sockets[far] = true;
            try
            {
                near.NoDelay = far.NoDelay = true;
                await _open.Task.WaitAsync(_cancellation.Token);
                await far.ConnectAsync(IPAddress.Loopback, _target, _cancellation.Token);
                await Task.WhenAll(PumpAsync(near, far), PumpAsync(far, near));
            }
            catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
            {
                // The link is over.
            }
            finally
            {
                _sockets.TryRemove(near, out _);
                _sockets.TryRemove(far, out _);
            }
        }
    }

    private async Task PumpAsync(Socket from, Socket to)
    {
        byte[] buffer = new byte[64 * 1024];
        try
        {
            while (true)
            {
                int count = await from.ReceiveAsync(buffer, SocketFlags.None, _cancellation.Token);
                await _open.Task.WaitAsync(_cancellation.Token);
                if (count == 0)
                {
                    break;
                }

                for (int sent = 0; sent < count;)
                {
                    sent += await to.SendAsync(buffer.AsMemory(sent, count - sent), SocketFlags.None, _cancellation.Token);
                }
            }
        }
        finally
        {
            to.Dispose();
        }
    }
}
