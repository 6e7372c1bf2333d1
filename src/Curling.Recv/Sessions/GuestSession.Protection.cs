using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.Qemu.Processes;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;
using Curling.Send;
using Curling.Send.Guest;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>A guest that was promoted here is protected again: this daemon becomes its sender.</summary>
internal sealed partial class GuestSession
{
    private readonly Lock _protecting = new();
    private SenderDaemon? _protection;
    private Task _protected = Task.CompletedTask;

    /// <summary>Whether a sender is this session's own: it has connected to the daemon that it runs in.</summary>
    public bool IsOwnSender(string sender) => Volatile.Read(ref _protection)?.Id == sender;

    /// <summary>Gives the promoted guest a standby, or another one.</summary>
    /// <param name="target">Where a receiver listens.</param>
    /// <param name="bandwidth">The most that is sent per second.</param>
    /// <param name="replace">Also when the standby that it has cannot be told that it is not wanted any more.</param>
    /// <param name="cancellation">Gives up waiting.</param>
    /// <returns>What a person is told.</returns>
    /// <exception cref="OperatorException">The guest does not run here, or its standby cannot be given up.</exception>
    public async Task<string> ProtectAsync(Endpoint target, ByteRate bandwidth, bool replace, CancellationToken cancellation)
    {
        SenderDaemon known;
        lock (_protecting)
        {
            if (_machine.State != ReceiverState.Promoted || _standby?.Process is not { } process)
            {
                throw new OperatorException(
                    $"{Guest.Name} is {Name(_machine.State)} here and does not run here: only a promoted guest can be given another standby");
            }

            if (_protection is null)
            {
                return BeginProtection(process, target, bandwidth);
            }

            known = _protection;
        }

        await known.RetargetAsync(target, bandwidth, replace, cancellation);
        return $"{Guest.Name}: its standby is to be at {target} from now on";
    }

    private string BeginProtection((QemuProcess Qemu, GuestWatch Watch) process, Endpoint target, ByteRate bandwidth)
    {
        if (_right is { Generation: 0 })
        {
            // It would be its guest's sender without a right, and could not follow when the right comes, goes, and comes back.
            throw new OperatorException(
                $"{Guest.Name} runs here without the arbiter's right, as its operator said, and can be given a standby when the arbiter has given it the"
                + " right: look after etcd (curling-recv status tells), then type this again");
        }

        SenderDaemon protection = new(
            new SenderOptions(target, bandwidth, null, RoundChoice.Auto, null, 0.05, 4, _options.FailureTimeout, null, null)
            {
                Arbiter = _right is null ? null : _options.Arbiter,
            },
            _time, _log)
        {
            Generation = Generation,
            Right = _right,
            Adopt = (network, atCut) =>
            {
                PrimaryGuest guest = PrimaryGuest.Adopt(
                    _directory, _memory, _disks.Primary, _disks.Definitions, _network, process.Qemu, process.Watch, _standby?.Display, atCut);
                _networkEvents.Target = network;
                return guest;
            },
        };
        _protection = protection;
        _protected = RunProtectionAsync(protection);
        Watch(_protected);
        return $"{Guest.Name}: generation {Generation} is to have a standby at {target}; curling-recv status tells when it is protected";
    }

    /// <summary>Moves the guest to its standby.</summary>
    /// <exception cref="OperatorException">It is not protected from here, or the move came to nothing.</exception>
    public Task<ControlReply> SwitchoverAsync(CancellationToken cancellation) =>
        Volatile.Read(ref _protection) is { } protection
            ? protection.AnswerAsync(new ControlRequest("switchover"), cancellation)
            : throw new OperatorException($"{Guest.Name} has no standby of this daemon's making: give it one with curling-recv protect {Guest.Name} --target …");

    private async Task RunProtectionAsync(SenderDaemon protection)
    {
        await protection.StartAsync(CancellationToken.None);
        await (protection.ExecuteTask ?? Task.CompletedTask);
        _networkEvents.Target = null;
        if (protection.Failure is { } failure)
        {
            // It never took the guest over, or its end is told by the guest's QEMU.
            Log.NotProtected(_log, Guest.Name, failure.Message);
            Volatile.Write(ref _protection, null);
            if (_standby?.Ended is { IsCompletedSuccessfully: true } ended)
            {
                Post(null, new ReceiverInput.GuestEnded(ended.Result.Text));
            }
        }
        else
        {
            Post(null, new ReceiverInput.GuestEnded(protection.Ended == SenderEnd.SwitchedOver
                ? $"the guest was moved to {protection.Status().Target}"
                : protection.Status().Reason ?? "its protection ended"));
        }

        protection.Dispose();
    }

    /// <summary>Gives the guest its standby as soon as it counts as promoted, and has the right to run where an arbiter decides.</summary>
    private async Task ProtectNextAsync(Endpoint target)
    {
        while (_machine.State == ReceiverState.Promoting && !_cancellation.IsCancellationRequested)
        {
            await Task.Delay(1);
        }

        while (_right is { Generation: 0 } && !_machine.IsOver && !_cancellation.IsCancellationRequested)
        {
            await Task.Delay(AskAfterwards / 10, _time);
        }

        try
        {
            await ProtectAsync(target, _options.ThenBandwidth, replace: false, _cancellation.Token);
        }
        catch (Exception e) when (e is OperatorException or OperationCanceledException)
        {
            // It has ended again meanwhile.
        }
    }

    private async Task StopProtectionAsync()
    {
        // How a QEMU ended is its sender's to tell: asked to stop now, it might say that the operator wanted it.
        if (Volatile.Read(ref _protection) is { } protection && _standby?.Ended.IsCompleted != true)
        {
            await protection.StopAsync(CancellationToken.None);
        }

        // What became of it is told there; the guest's QEMU must be freed in any case.
        await _protected.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "NotProtected", Level = LogLevel.Error,
            Message = "{Guest}: it cannot be given a standby: {Reason}. It runs on unprotected; mend the cause and type: curling-recv protect {Guest} --target …")]
        public static partial void NotProtected(ILogger log, string guest, string reason);
    }
}
