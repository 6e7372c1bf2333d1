using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Curling.Hosting.Tests.Arbiter;

/// <summary>
/// A way to an etcd on which, from a request on that holds some words, requests still arrive and nothing comes back: as from a server that carries a
/// call out too late, or dies when it has.
/// </summary>
internal sealed class DeafeningProxy : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly Uri _target;
    private readonly byte[] _words;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly Task _loop;
    private volatile bool _silent;

    /// <param name="target">Where the etcd is.</param>
    /// <param name="words">What the request holds whose answer is the first not to come back.</param>
    public DeafeningProxy(string target, string words)
    {
        _target = new Uri(target);
        _words = Encoding.UTF8.GetBytes(words);
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(16);
        _loop = Task.Run(AcceptAsync);
    }

    /// <summary>Where the way begins.</summary>
    public Uri Url => new($"http://{_listener.LocalEndPoint}");

    /// <summary>Whether the words have passed.</summary>
    public bool IsSilent => _silent;

    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        _listener.Dispose();
        await _loop;
        _cancellation.Dispose();
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
            try
            {
                await far.ConnectAsync(_target.Host, _target.Port, _cancellation.Token);
                await Task.WhenAny(PumpAsync(near, far, isRequest: true), PumpAsync(far, near, isRequest: false));
            }
            catch (Exception e) when (e is OperationCanceledException or SocketException)
            {
                // The test is over, or etcd is gone.
            }
        }
    }

    private async Task PumpAsync(Socket from, Socket to, bool isRequest)
    {
        byte[] buffer = new byte[64 * 1024];
        try
        {
            while (await from.ReceiveAsync(buffer, SocketFlags.None, _cancellation.Token) is > 0 and var count)
            {
                // Small requests arrive in one piece on loopback; one that did not would make the test fail, not pass.
                if (isRequest && buffer.AsSpan(0, count).IndexOf(_words) >= 0)
                {
                    _silent = true;
                }

                if (isRequest || !_silent)
                {
                    await to.SendAsync(buffer.AsMemory(0, count), SocketFlags.None, _cancellation.Token);
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The link is over.
        }
    }
}
