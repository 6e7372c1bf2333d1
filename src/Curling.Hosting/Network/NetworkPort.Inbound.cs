using System.Buffers.Binary;
using System.Net.Sockets;
using Curling.Linux.Network;

namespace Curling.Hosting.Network;

/// <summary>What the guest is given: taken from the host's device, or replayed, and handed to QEMU.</summary>
internal sealed partial class NetworkPort
{
    private void RunInbound()
    {
        while (!_stopping)
        {
            if (_mode == InboundMode.Wait)
            {
                _inbound.Wait(null, null, 1000);
                continue;
            }

            try
            {
                if (_mode == InboundMode.Pass && Interlocked.Exchange(ref _replay, null) is { } replay)
                {
                    Replay(replay);
                }

                if (_host.Device is not { } tap)
                {
                    _inbound.Wait(null, null, 1000);
                    continue;
                }

                int bytes = ReadBatch(tap, out int frames);
                if (bytes == 0)
                {
                    _inbound.Wait(tap.Handle, null, 1000);
                }
                else if (_mode == InboundMode.Pass && Send(_batch.AsSpan(0, bytes)))
                {
                    Volatile.Write(ref _passed, _passed + frames);
                    Volatile.Write(ref _passedBytes, _passedBytes + bytes - (frames * PrefixBytes));
                    _events.Passed(_index, _batch.AsSpan(0, bytes));
                }
            }
            catch (TapException e)
            {
                Log.TapGone(_log, _guest, _network.Mac, e.Message);
                ReplaceTap();
            }
        }
    }

    private int ReadBatch(TapDevice tap, out int frames)
    {
        int room = PrefixBytes + _network.Mtu + HeaderBytes;
        int at = 0;
        frames = 0;
        while (frames < BatchFrames)
        {
            int got = tap.Read(_batch.AsSpan(at + PrefixBytes, room - PrefixBytes));
            if (got == 0)
            {
                break;
            }

            BinaryPrimitives.WriteUInt32BigEndian(_batch.AsSpan(at), (uint)got);
            at += PrefixBytes + got;
            frames++;
        }

        return at;
    }

    private void Replay(ReplayedFrames replay)
    {
        IReadOnlyList<ReadOnlyMemory<byte>> frames = replay.Of(_index);
        foreach (ReadOnlyMemory<byte> frame in frames)
        {
            if (!Send(frame.Span))
            {
                return;
            }
        }

        if (frames.Count > 0)
        {
            Log.Replayed(_log, _guest, _network.Mac, frames.Count);
        }
    }

    /// <summary>Hands frames to QEMU; waits while it does not read, as a wire would not.</summary>
    private bool Send(ReadOnlySpan<byte> batch)
    {
        while (!batch.IsEmpty && !_stopping)
        {
            if (_qemu.Connection is not { } qemu)
            {
                return false;
            }

            try
            {
                int sent = qemu.Send(batch, SocketFlags.None, out SocketError error);
                if (error == SocketError.WouldBlock)
                {
                    _inbound.Wait(null, qemu.SafeHandle, 1000);
                    continue;
                }

                if (error != SocketError.Success)
                {
                    return false;
                }

                batch = batch[sent..];
            }
            catch (ObjectDisposedException)
            {
                return false;
            }
        }

        return batch.IsEmpty;
    }

    private void ReplaceTap()
    {
        _host.Remove();
        string? told = null;
        while (!_stopping)
        {
            _inbound.Wait(null, null, (int)Reopen.TotalMilliseconds);
            try
            {
                _host.Reopen();
                Log.TapBack(_log, _guest, _network.Mac, _host.Device?.Name ?? "none");
                return;
            }
            catch (TapException e)
            {
                if (told != e.Message)
                {
                    told = e.Message;
                    Log.TapStillGone(_log, _guest, _network.Mac, e.Message);
                }
            }
        }
    }
}
