using System.Diagnostics;
using System.Text.Json;
using Curling.Hosting.Network;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Replication.Sender;
using Curling.Send.Guest;
using Curling.Send.Links;
using Microsoft.Extensions.Logging;

namespace Curling.Send;

/// <summary>Connections to the receiver, and what becomes of the guest's output with and without one.</summary>
internal sealed partial class SenderDaemon
{
    private async Task ConnectAsync(Task before, CancellationToken attempt)
    {
        // An attempt that was given up comes to its end first; what it meets then is no news.
        await before;
        try
        {
            attempt.ThrowIfCancellationRequested();
            PrimaryGuest guest = _guest!;
            using JsonDocument definition = JsonDocument.Parse(GuestDefinitionReader.Serialize(guest.Definition));
            Hello hello = new(
                _sender,
                Generation,
                definition.RootElement,
                guest.Qemu.Launch.MachineType,
                guest.Qemu.Launch.Accelerator,
                guest.Qemu.Version.ToString(),
                [
                    Handshake.Full, Handshake.Incremental, Handshake.Delta, Handshake.Lz4, Handshake.Zstd, Handshake.Inbound,
                    .. _right is null ? Array.Empty<string>() : [Handshake.Arbiter],
                ],
                [.. guest.Files.Select(f => new HelloFile(f.Role, f.Length, f.Sha256))],
                _capture!.Blocks)
            {
                Disks = guest.Disks.Hello,
                RightMilliseconds = _right is null ? 0 : (long)_options.Arbiter!.Ttl.TotalMilliseconds,
            };
            ReceiverLink link = await ReceiverLink.ConnectAsync(
                _options, hello, guest.Files, _pool, WindowBytes, _time, attempt);
            await _capturing;
            if (attempt.IsCancellationRequested)
            {
                await link.DisposeAsync();
                return;
            }

            if (link.Replicas is { } replicas)
            {
                await BeginDisksAsync(guest, link, replicas);
            }

            _link = link;
            if (attempt.IsCancellationRequested)
            {
                // Whoever gave it up did so before it was there to be closed.
                await CloseLinkAsync();
                return;
            }

            if (_copy is { } copy && link.TakesInbound && !guest.Network.IsEmpty)
            {
                copy.Attach(link.Connection);
            }

            if (link.Rounds.Encoding is { } encoding)
            {
                encoding.Changed = (way, rate) => Log.Compression(_log, guest.Definition.Name, Name(way), ByteSize.Format(rate));
            }

            if (_lateGoodbye is { } goodbye)
            {
                link.SayGoodbye(goodbye.Reason, goodbye.Text);
            }

            link.Vouched = (sequence, time) => _right?.Vouched(sequence, time);
            _ = link.RunAsync(input => Post(link, input));
            _ = link.Rounds.Ended.ContinueWith(t => Post(link, new SenderInput.LinkLost(t.Result)), TaskScheduler.Default);
            Post(link, new SenderInput.Ready());
        }
        catch (Exception e) when (attempt.IsCancellationRequested)
        {
            // The sender stops, or goes elsewhere.
            Log.AttemptGivenUp(_log, _options.Target.ToString(), e.Message);
        }
        catch (RefusedException e)
        {
            Post(null, new SenderInput.Refused(e.Code, e.Message));
            if (IsNews(e.Message))
            {
                Log.Refused(_log, _options.Target.ToString(), e.Message);
            }
        }
        catch (Exception e) when (e is IOException or ProtocolException or System.Net.Sockets.SocketException)
        {
            if (IsNews(e.Message))
            {
                Log.NotConnected(_log, _options.Target.ToString(), e.Message);
            }

            Post(null, new SenderInput.LinkLost(e.Message));
        }
        catch (Exception e)
        {
            // Whatever it was: an attempt that says nothing of its end would be the last one.
            Log.Unexpected(_log, "connecting to the receiver", e);
            await CloseLinkAsync();
            Post(null, new SenderInput.LinkLost($"connecting failed: {e.Message}"));
        }
    }

    /// <summary>Whether a failed attempt is to be told: the same reason only from time to time.</summary>
    private bool IsNews(string reason)
    {
        if (_lastNotConnected is { } last && last.Reason == reason && Now - last.At <= TellAgain)
        {
            return false;
        }

        _lastNotConnected = (Now, reason);
        return true;
    }

    /// <summary>What of the disks has to travel on a new connection.</summary>
    private async Task BeginDisksAsync(PrimaryGuest guest, ReceiverLink link, ReplicasMessage replicas)
    {
        try
        {
            guest.Disks.LinkLost();
            await guest.Disks.BeginAsync(replicas, Guid.ParseExact(_sender, "N"), _work.Token);
        }
        catch
        {
            // Those that had begun are bounded by a link that there is not.
            guest.Disks.LinkLost();
            await link.DisposeAsync();
            throw;
        }
    }

    private async Task CloseLinkAsync()
    {
        if (Interlocked.Exchange(ref _link, null) is { } link)
        {
            _copy?.Detach(link.Connection);
            _guest?.Disks.LinkLost();
            await link.CloseAsync();
        }
    }

    /// <summary>The receiver has a round whole: what the guest had sent before its cut leaves.</summary>
    private void Release(long round)
    {
        long cut = Volatile.Read(ref _cuts[round % _cuts.Length]);
        long now = Stopwatch.GetTimestamp();
        Log.RoundSafe(
            _log, _guest!.Definition.Name, round, cut / (Stopwatch.Frequency / 1_000_000), now / (Stopwatch.Frequency / 1_000_000));
        _guest.Network.Gate.Complete(round);
        _guest.Network.Wake();
        _acks.Add((long)Stopwatch.GetElapsedTime(cut, now).TotalMicroseconds);
    }

    private void ReleaseAll()
    {
        GuestNetwork network = _guest!.Network;
        long held = network.Gate.Held;
        network.Gate.Unprotect();
        network.Wake();
        if (!network.IsEmpty)
        {
            Log.OutputReleased(_log, _guest.Definition.Name, held);
        }
    }
}
