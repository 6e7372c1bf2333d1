using System.Collections.Concurrent;
using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.Protocol;
using Curling.Replication.Sender;
using Curling.Send.Links;

namespace Curling.Send;

/// <summary>What the operator asks for: the guest moves to its standby, or is given another one.</summary>
internal sealed partial class SenderDaemon
{
    // Less than who asks waits, so that the answer is this one.
    private static readonly TimeSpan SwitchoverLimit = ControlCommands.MoveLimit - TimeSpan.FromSeconds(20);
    private static readonly TimeSpan RetargetLimit = ControlCommands.CallLimit - TimeSpan.FromSeconds(2);

    // Those whose request stands in line to the loop, and those that the loop has taken up; the second is the loop's own.
    private readonly ConcurrentQueue<TaskCompletionSource<string>> _newAskers = new();
    private readonly List<TaskCompletionSource<string>> _switchoverAskers = [];
    private CancellationTokenSource _attempt = new();
    private volatile RetargetRequest? _retarget;

    /// <summary>Another standby is wanted; <see cref="Refused"/> is what a person is told, or null once the target is the new one.</summary>
    private sealed record RetargetRequest(Endpoint Target, ByteRate Bandwidth)
    {
        public TaskCompletionSource<string?> Refused { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    /// <summary>Gives the guest another standby. The one before is told, so that it never starts the guest.</summary>
    /// <param name="target">Where its receiver listens.</param>
    /// <param name="bandwidth">The most that is sent there per second.</param>
    /// <param name="force">Also when the one before cannot be told: the operator has seen to it.</param>
    /// <param name="cancellation">Gives up waiting.</param>
    /// <exception cref="OperatorException">The standby stays what it is, and why.</exception>
    internal async Task RetargetAsync(Endpoint target, ByteRate bandwidth, bool force, CancellationToken cancellation)
    {
        if (target == _options.Target)
        {
            _options = _options with { Bandwidth = bandwidth };
            if (_link is { } link)
            {
                Post(link, new SenderInput.LinkLost("the connection is made anew, as asked by the operator"));
            }

            return;
        }

        RetargetRequest request = new(target, bandwidth);
        if (Interlocked.CompareExchange(ref _retarget, request, null) is { } other)
        {
            throw new OperatorException($"the guest is being given a standby at {other.Target} at this moment; try again");
        }

        try
        {
            Post(null, new SenderInput.Retarget($"the guest is given another standby, at {target}", force));
            if (await request.Refused.Task.WaitAsync(RetargetLimit, cancellation) is { } why)
            {
                throw new OperatorException(why);
            }
        }
        catch (TimeoutException)
        {
            throw new OperatorException("the guest's sender is busy, and its standby stays what it is; try again");
        }
        finally
        {
            _retarget = null;
        }
    }

    private async Task LeaveStandbyAsync(SenderOutput.LeaveStandby leave, RetargetRequest? request, ReceiverLink? link)
    {
        bool heard = true;
        try
        {
            if (link is not null)
            {
                _copy?.Detach(link.Connection);
                _guest?.Disks.LinkLost();
                heard = await link.LeaveAsync(GoodbyeReason.OperatorStop, leave.Reason);
            }
        }
        finally
        {
            bool changes = request is not null && (heard || !leave.MustHear);
            if (changes)
            {
                Log.StandbyGivenUp(_log, _guest!.Definition.Name, _options.Target.ToString(), request!.Target.ToString());
                _options = _options with { Target = request.Target, Bandwidth = request.Bandwidth };
            }

            Post(null, new SenderInput.Retargeted(changes));
            request?.Refused.TrySetResult(changes ? null : CannotBeTold(request, "it did not answer the goodbye"));
        }
    }

    private void TellRetargetRefused(RetargetRefusal why)
    {
        if (_retarget is { } request)
        {
            request.Refused.TrySetResult(why == RetargetRefusal.NotConnected
                ? CannotBeTold(request, "there is no connection to it")
                : $"{_guest?.Definition.Name} is being moved to its standby at {_options.Target} at this moment");
        }
    }

    private string CannotBeTold(RetargetRequest request, string problem)
    {
        string? guest = _guest?.Definition.Name;
        return $"the standby of {guest} at {_options.Target} cannot be told that it is not wanted any more ({problem}), and it may hold a round: it"
            + $" would start the guest a second time. Type on that host: curling-recv discard {guest}. Then type here: curling-recv protect {guest}"
            + $" --target {request.Target} --replace-standby";
    }

    /// <summary>Moves the guest; the answer is what became of it, or that it is not known yet.</summary>
    private async Task<ControlReply> SwitchOverAsync(CancellationToken cancellation)
    {
        TaskCompletionSource<string> failed = new(TaskCreationOptions.RunContinuationsAsynchronously);
        _newAskers.Enqueue(failed);
        Post(null, new SenderInput.Switchover());
        TimeSpan since = Now;
        while (_end is null)
        {
            if (failed.Task.IsCompletedSuccessfully)
            {
                return ControlReply.Failed($"{await failed.Task}; see the log");
            }

            if (Now - since > SwitchoverLimit)
            {
                return ControlReply.Failed(
                    $"it is not known yet whether the guest is moved ({_reason}): status on both sides tells; do not start it anywhere else");
            }

            await Task.Delay(10, cancellation);
        }

        return _end.How == SenderEnd.SwitchedOver
            ? ControlReply.Success($"{_guest?.Definition.Name}: {_end.Reason}")
            : ControlReply.Failed(_end.Reason);
    }
}
