using System.Diagnostics;
using System.Net.Sockets;

namespace Curling.Hosting.Network;

/// <summary>What the guest sends: taken from QEMU, held, released.</summary>
internal sealed partial class NetworkPort
{
    private void RunOutbound()
    {
        while (!_stopping)
        {
            // Also when QEMU has ended: what is safe leaves, whoever sent it.
            if (_mayLeave)
            {
                Release();
            }

            if (_qemu.Connection is not { } qemu)
            {
                Accept();
                continue;
            }

            try
            {
                Receive(qemu);
            }
            catch (InvalidDataException e)
            {
                Log.Broken(_log, _guest, _network.Mac, e.Message);
                Disconnect();
            }
        }
    }

    private void Accept()
    {
        if (_qemu.TryAccept())
        {
            _inbound.Wake();
        }
        else
        {
            _outbound.Wait(_qemu.Listener, null, 1000);
        }
    }

    private void Disconnect()
    {
        _ring.ForgetPart();
        _qemu.Disconnect();
    }

    private void Receive(Socket qemu)
    {
        // What there was no room for may have room now.
        int frames = _ring.Take(0, Stopwatch.GetTimestamp());
        bool drains = _drains;
        Span<byte> room = Room(drains);
        bool ended = false;
        if (!room.IsEmpty)
        {
            _full &= drains;
            int got = qemu.Receive(room, SocketFlags.None, out SocketError error);
            ended = got == 0 && error != SocketError.WouldBlock;
            if (got > 0)
            {
                frames += _ring.Take(got, Stopwatch.GetTimestamp());
            }
            else if (drains && _full)
            {
                _drained.Set();
            }

            if (got <= 0 && !ended && frames == 0)
            {
                _outbound.Wait(qemu.SafeHandle, null, 1000);
            }
        }

        Volatile.Write(ref _misfits, _ring.Misfits);
        if (frames > 0)
        {
            Volatile.Write(ref _heldFrames, _ring.Count);
            Volatile.Write(ref _heldBytes, _ring.Bytes);
            if (_gate.Admit(_index, frames, out long epoch))
            {
                _events.OutputWaits();
            }

            for (int place = _ring.Count - frames; epoch > 0 && place < _ring.Count; place++)
            {
                _events.Held(_index, epoch, _ring.At(place));
            }
        }

        if (ended)
        {
            Disconnect();
        }
        else if (room.IsEmpty && frames == 0)
        {
            if (!_full)
            {
                _full = true;
                _events.OutputFull();
            }

            CountOverrun(drains);
            Interlocked.MemoryBarrier();
            if (_drains && !drains)
            {
                return;
            }

            if (!_mayLeave || !_deadline.IsOpen || _gate.Releasable(_index) == 0)
            {
                _outbound.Wait(null, null, 1000);
            }
        }
    }

    /// <summary>Where to receive to; empty when nothing more is taken from the guest.</summary>
    private Span<byte> Room(bool drains)
    {
        Span<byte> room = _ring.Room();
        if (drains)
        {
            return room;
        }

        long left = _ring.Count < MaxHeldFrames ? _heldLimit - _ring.Bytes - _ring.Part : 0;
        return left > 0 ? room[..(int)Math.Min(room.Length, left)] : default;
    }

    private void CountOverrun(bool drains)
    {
        if (!drains)
        {
            return;
        }

        _drained.Set();
        if (_overran)
        {
            return;
        }

        _overran = true;
        Volatile.Write(ref _overruns, _overruns + 1);
        long now = Stopwatch.GetTimestamp();
        if (_overruns == 1 || Stopwatch.GetElapsedTime(_lastToldOverrun, now) > TellAgain)
        {
            _lastToldOverrun = now;
            Log.Overrun(_log, _guest, _network.Mac, _overruns);
        }
    }

    private void Release()
    {
        int count = _gate.Releasable(_index);
        if (count == 0)
        {
            return;
        }

        long now = Stopwatch.GetTimestamp();
        int left = 0;

        // Asked before each frame: the process may be stopped between any two, for longer than the right lasts.
        for (; left < count && _deadline.IsOpen; left++)
        {
            ReadOnlySpan<byte> frame = _ring.First(out long stamp);
            HeldMicros.Add((long)Stopwatch.GetElapsedTime(stamp, now).TotalMicroseconds);
            if (_host.Write(frame))
            {
                Volatile.Write(ref _released, _released + 1);
                Volatile.Write(ref _releasedBytes, _releasedBytes + frame.Length);
            }
            else
            {
                Volatile.Write(ref _noCable, _noCable + 1);
            }

            _ring.RemoveFirst();
        }

        _gate.Release(_index, left);
        Volatile.Write(ref _heldFrames, _ring.Count);
        Volatile.Write(ref _heldBytes, _ring.Bytes);
    }
}
