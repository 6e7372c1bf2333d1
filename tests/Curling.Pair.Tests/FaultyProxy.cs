using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Curling.Protocol;

namespace Curling.Pair.Tests;

/// <summary>What a <see cref="FaultyProxy"/> does to the bytes that pass.</summary>
internal enum FaultKind
{
    CutAtFrame = 1,
    CutAtByte,
    FlipBit,
    DropFrame,
    RepeatFrame,
    SwapFrames,
}

/// <summary>One fault: at which frame or byte, in which direction.</summary>
internal sealed record Fault(FaultKind Kind, bool Backwards, int Frame, int Byte, int Bit);

/// <summary>Stands between a sender and a receiver, understands where frames begin, and commits one fault.</summary>
internal sealed class FaultyProxy : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
    private readonly int _target;
    private readonly Fault _fault;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly Task _loop;
    private int _committed;

    public FaultyProxy(int target, Fault fault)
    {
        _target = target;
        _fault = fault;
        _listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        _listener.Listen(8);
        _loop = Task.Run(AcceptAsync);
    }

    public int Port => ((IPEndPoint)_listener.LocalEndPoint!).Port;

    /// <summary>Whether the fault came to pass; a connection may end before its place is reached.</summary>
    public bool Happened => _committed != 0;

    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
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
                Socket near = await _listener.AcceptAsync(_cancellation.Token);
                links.Add(LinkAsync(near));
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
                near.NoDelay = far.NoDelay = true;
                await far.ConnectAsync(IPAddress.Loopback, _target, _cancellation.Token);
                using CancellationTokenSource either = CancellationTokenSource.CreateLinkedTokenSource(_cancellation.Token);
                Task forth = PumpAsync(near, far, backwards: false, either.Token);
                Task back = PumpAsync(far, near, backwards: true, either.Token);
                await Task.WhenAny(forth, back);
                near.Shutdown(SocketShutdown.Both);
                far.Shutdown(SocketShutdown.Both);
                await either.CancelAsync();
                await Task.WhenAll(forth, back);
            }
            catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
            {
                // The link is over.
            }
        }
    }

    private async Task PumpAsync(Socket from, Socket to, bool backwards, CancellationToken cancellation)
    {
        byte[]? held = null;
        int bytes = 0;
        try
        {
            for (int frame = 0; await FrameAsync(from, cancellation) is { } whole; frame++)
            {
                bool mine = backwards == _fault.Backwards && Volatile.Read(ref _committed) == 0;
                bool here = mine && frame == _fault.Frame;
                bool within = mine && _fault.Byte >= bytes && _fault.Byte < bytes + whole.Length;
                int at = _fault.Byte - bytes;
                bytes += whole.Length;
                if (held is not null)
                {
                    await to.SendAsync(whole, cancellation);
                    await to.SendAsync(held, cancellation);
                    held = null;
                    continue;
                }

                if (_fault.Kind is FaultKind.CutAtByte or FaultKind.FlipBit ? !within : !here)
                {
                    await to.SendAsync(whole, cancellation);
                    continue;
                }

                Volatile.Write(ref _committed, 1);
                switch (_fault.Kind)
                {
                    case FaultKind.CutAtFrame:
                        return;
                    case FaultKind.CutAtByte:
                        await to.SendAsync(whole.AsMemory(0, at), cancellation);
                        return;
                    case FaultKind.FlipBit:
                        whole[at] ^= (byte)(1 << _fault.Bit);
                        await to.SendAsync(whole, cancellation);
                        break;
                    case FaultKind.RepeatFrame:
                        await to.SendAsync(whole, cancellation);
                        await to.SendAsync(whole, cancellation);
                        break;
                    case FaultKind.SwapFrames:
                        held = whole;
                        break;
                }
            }
        }
        catch (Exception e) when (e is OperationCanceledException or SocketException or ObjectDisposedException)
        {
            // The link is over.
        }
    }

    private static async Task<byte[]?> FrameAsync(Socket from, CancellationToken cancellation)
    {
        byte[] header = new byte[FrameHeader.Bytes];
        if (!await FillAsync(from, header, cancellation))
        {
            return null;
        }

        byte[] whole = new byte[FrameHeader.Bytes + BinaryPrimitives.ReadInt32LittleEndian(header.AsSpan(8))];
        header.CopyTo(whole, 0);
        return await FillAsync(from, whole.AsMemory(FrameHeader.Bytes), cancellation) ? whole : null;
    }

    private static async Task<bool> FillAsync(Socket from, Memory<byte> destination, CancellationToken cancellation)
    {
        while (!destination.IsEmpty)
        {
            int count = await from.ReceiveAsync(destination, SocketFlags.None, cancellation);
            if (count == 0)
            {
                return false;
            }

            destination = destination[count..];
        }

        return true;
    }
}
