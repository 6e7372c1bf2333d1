using System.Net.Sockets;
using System.Text.Json;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Processes;
using Curling.Send.Guest;
using Curling.Send.Links;

namespace Curling.Send.Capture;

/// <summary>
/// Full rounds: QEMU migrates into a socket of ours while the guest runs, the stream is framed into the round, and the guest
/// goes on. Works with any QEMU and any kernel.
/// </summary>
/// <remarks>One capture at a time.</remarks>
internal sealed class FullCapture : IRoundCapture
{
    // The guest is stopped when what is left can be sent in this time. Short at first: each pass leaves less. A guest that
    // dirties memory faster than QEMU reads it never gets there, so after a while any rest is taken.
    private static readonly TimeSpan ShortStop = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan AnyStop = TimeSpan.FromSeconds(2000);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(2);
    private static readonly TimeSpan SettleLimit = TimeSpan.FromSeconds(30);
    private readonly PrimaryGuest _guest;
    private readonly string _socket;
    private bool _prepared;

    /// <summary>Creates a capture of a running guest.</summary>
    public FullCapture(PrimaryGuest guest)
    {
        _guest = guest;
        _socket = Path.Combine(guest.RuntimeDirectory, "out.sock");
    }

    /// <inheritdoc/>
    public IReadOnlyList<HelloBlock> Blocks => [];

    /// <inheritdoc/>
    public long ExpectedBaseBytes => _guest.Memory.Length;

    /// <inheritdoc/>
    public async Task<CaptureResult> CaptureAsync(RoundBegin begin, bool final, RoundWriter rounds, CancellationToken cancellation)
    {
        using CancellationTokenSource both = CancellationTokenSource.CreateLinkedTokenSource(cancellation, rounds.Lost);
        await PrepareAsync(both.Token);
        await SetParametersAsync(ShortStop, both.Token);
        using Socket listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        File.Delete(_socket);
        listener.Bind(new UnixDomainSocketEndPoint(_socket));
        listener.Listen(1);
        (Task<string> done, Task resumed) = _guest.Migration.Begin();
        rounds.Begin(begin with { ExpectedBytes = ExpectedBaseBytes });
        bool started = false;

        // QEMU stops the guest when it sees fit.
        _guest.Disks.OpenGate();
        _guest.Network.BeforeStop(TimeSpan.Zero);
        try
        {
            await _guest.Qemu.Qmp.ExecuteAsync("migrate", w => w.WriteString("uri", "unix:" + _socket), cancellation: both.Token);
            started = true;
            using Socket stream = await listener.AcceptAsync(both.Token);
            using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(both.Token);
            Task hurry = HurryAsync(patience.Token);
            try
            {
                await PumpAsync(stream, rounds, both.Token);
            }
            finally
            {
                await patience.CancelAsync();
                await hurry;
            }

            string status = await done.WaitAsync(SettleLimit, both.Token);
            if (status == MigrationEvents.QemuEnded)
            {
                throw new QmpException("QEMU ended during the round");
            }

            if (status != "completed")
            {
                throw new QemuException($"QEMU's migration of round {begin.Round} ended as {status}");
            }
        }
        catch
        {
            if (started)
            {
                await RecoverAsync(done);
            }

            throw;
        }
        finally
        {
            _guest.Network.AfterStop();
            File.Delete(_socket);
        }

        try
        {
            return await EndAsync(begin, final, rounds, resumed);
        }
        catch
        {
            _guest.Disks.Abandon();
            throw;
        }
    }

    /// <summary>The guest stands still, and QEMU's stream is out.</summary>
    private async Task<CaptureResult> EndAsync(RoundBegin begin, bool final, RoundWriter rounds, Task resumed)
    {
        bool isCut = false;
        try
        {
            _guest.Disks.Cut(begin.Round);
            isCut = true;
            _guest.AtCut?.Invoke(begin.Round);
        }
        finally
        {
            if (!isCut && !final)
            {
                await _guest.Run.ContinueAsync(CancellationToken.None);
            }
        }

        long pause = 0;
        if (!final)
        {
            if (await _guest.Run.ContinueAsync(CancellationToken.None))
            {
                await resumed.WaitAsync(SettleLimit, CancellationToken.None);
            }

            pause = Math.Max(0, _guest.Migration.ResumeMicros - _guest.Migration.StopMicros);
        }

        await Task.Run(() => _guest.Disks.Send(rounds), CancellationToken.None);
        rounds.End(begin.Round, final, pause, _guest.Disks.IsComplete(begin.Round));
        return new CaptureResult(pause, false);
    }

    /// <inheritdoc/>
    public async Task ResumeAsync(CancellationToken cancellation) =>
        await _guest.Run.ContinueAsync(cancellation);

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private static async Task PumpAsync(Socket stream, RoundWriter rounds, CancellationToken cancellation)
    {
        while (true)
        {
            Chunk chunk = await rounds.RentAsync(cancellation);
            int length = 0;
            try
            {
                Memory<byte> room = chunk.Memory.Slice(DataFrame.ContentAt, ProtocolLimits.MaxContentBytes);
                for (int count; length < room.Length; length += count)
                {
                    count = await stream.ReceiveAsync(room[length..], SocketFlags.None, cancellation);
                    if (count == 0)
                    {
                        break;
                    }
                }
            }
            catch
            {
                rounds.GiveBack(chunk);
                throw;
            }

            if (length == 0)
            {
                rounds.GiveBack(chunk);
                return;
            }

            new DataPrefix(SectionKind.Stream, 0, 0).Write(chunk.Span[DataFrame.PayloadAt..]);
            chunk.Length = DataPrefix.Bytes + length;
            rounds.Data(chunk, 0);
            if (length < ProtocolLimits.MaxContentBytes)
            {
                return;
            }
        }
    }

    private async Task PrepareAsync(CancellationToken cancellation)
    {
        if (_prepared)
        {
            return;
        }

        await _guest.Qemu.Qmp.ExecuteAsync(
            "migrate-set-capabilities",
            w =>
            {
                w.WriteStartArray("capabilities");
                w.WriteStartObject();
                w.WriteString("capability", "events");
                w.WriteBoolean("state", true);
                w.WriteEndObject();
                w.WriteEndArray();
            },
            cancellation: cancellation);
        _prepared = true;
    }

    private Task<JsonElement> SetParametersAsync(TimeSpan stop, CancellationToken cancellation) => _guest.Qemu.Qmp.ExecuteAsync(
        "migrate-set-parameters",
        w =>
        {
            w.WriteNumber("max-bandwidth", 1L << 40);
            w.WriteNumber("downtime-limit", (long)stop.TotalMilliseconds);
        },
        cancellation: cancellation);

    private async Task HurryAsync(CancellationToken cancellation)
    {
        try
        {
            await Task.Delay(Patience, cancellation);
            await SetParametersAsync(AnyStop, cancellation);
        }
        catch (Exception e) when (e is OperationCanceledException or QemuException)
        {
            // The round ended meanwhile.
        }
    }

    /// <summary>After a capture that came to nothing the guest must run.</summary>
    private async Task RecoverAsync(Task<string> done)
    {
        try
        {
            await _guest.Qemu.Qmp.ExecuteAsync("migrate_cancel");
            await done.WaitAsync(SettleLimit);
            JsonElement status = await _guest.Qemu.Qmp.ExecuteAsync("query-status");
            if (!status.GetProperty("running").GetBoolean())
            {
                await _guest.Run.ContinueAsync(CancellationToken.None);
            }
        }
        catch (Exception e) when (e is QemuException or TimeoutException)
        {
            // QEMU is ending, and the guest's end is told by its own event; or the next capture meets the same and tells.
        }
    }
}
