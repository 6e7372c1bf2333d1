using System.Diagnostics;
using Curling.Hosting.Control;
using Curling.Hosting.Network;
using Curling.Hosting.Options;
using Curling.Linux.Tracking;
using Curling.Qemu;
using Curling.Qemu.Monitor;
using Curling.Replication.Sender;
using Curling.Send.Capture;
using Curling.Send.Guest;

namespace Curling.Send;

/// <summary>Capturing rounds, and when.</summary>
internal sealed partial class SenderDaemon
{
    private async Task<IRoundCapture> CreateCaptureAsync(PrimaryGuest guest, CancellationToken cancellation)
    {
        if (_options.Rounds == RoundChoice.Full)
        {
            return new FullCapture(guest);
        }

        try
        {
            return await IncrementalCapture.AttachAsync(guest, cancellation);
        }
        catch (Exception e) when (e is TrackingUnavailableException or QemuException or IOException)
        {
            if (_options.Rounds == RoundChoice.Incremental)
            {
                throw new OperatorException($"incremental rounds are not possible: {e.Message}");
            }

            Log.FallsBack(_log, guest.Definition.Name, e.Message);
            return new FullCapture(guest);
        }
    }

    /// <summary>Called by the capture, while the guest stands still.</summary>
    private void AtCut(GuestNetwork network, long round)
    {
        if (!network.IsEmpty)
        {
            network.Gate.Cut(round);
            _copy?.Cut(round);
        }

        Volatile.Write(ref _cuts[round % _cuts.Length], Stopwatch.GetTimestamp());
    }

    private async Task CaptureAsync(SenderOutput.CaptureRound capture, Task before)
    {
        await before;
        long round = capture.Begin.Round;
        if (_link is not { } link)
        {
            Post(null, new SenderInput.CaptureFailed(round, "the connection was lost"));
            return;
        }

        try
        {
            CaptureResult result = await _capture!.CaptureAsync(capture.Begin, capture.Final, link.Rounds, _work.Token);
            if (!capture.Final)
            {
                _pauses.Add(result.PauseMicroseconds);
            }

            if (result.WaitedForLink)
            {
                Log.WaitedForLink(_log, _guest!.Definition.Name, round, StatusText.Micros(result.PauseMicroseconds));
            }

            Pace(result);
            Post(null, new SenderInput.Captured(round));
            if (_guest!.Network.Gate.WantsRound)
            {
                Post(null, SenderInput.OutputWaits.Instance);
            }
        }
        catch (Exception e) when (e is QemuException or IOException or OperationCanceledException or TimeoutException
            or System.Net.Sockets.SocketException)
        {
            // A QEMU that closed its monitor is ending, and how it ends decides what the receiver is told: that news comes first.
            if (e is not OperationCanceledException && _guest is { } guest)
            {
                TimeSpan wait = e is QmpException { ErrorClass.Length: 0 } ? EndLimit : TimeSpan.FromMilliseconds(500);
                await Task.WhenAny(guest.Ended, Task.Delay(wait));
                if (guest.Ended.IsCompleted)
                {
                    return;
                }
            }

            string reason = e is OperationCanceledException ? "the connection was lost" : $"round {round} could not be captured: {e.Message}";
            if (e is not OperationCanceledException && _guest is { Ended.IsCompleted: false })
            {
                Log.CaptureFailed(_log, _guest.Definition.Name, round, e.Message);
            }

            Post(null, new SenderInput.CaptureFailed(round, reason));
        }
        catch (Exception e)
        {
            // A round that neither is captured nor fails would hold the guest's output for ever.
            Log.Unexpected(_log, $"capturing round {round}", e);
            Post(null, new SenderInput.CaptureFailed(round, $"round {round} could not be captured: {e.Message}"));
        }
    }

    /// <summary>Chooses the rest before the next round so that pauses keep to their share of the guest's time.</summary>
    private void Pace(CaptureResult result)
    {
        if (SyncsOutput)
        {
            // The rest runs from the cut, and a timer knows whole milliseconds only: what is less is over already.
            double since = Stopwatch.GetElapsedTime(Volatile.Read(ref _cuts[_machine.Round % _cuts.Length])).TotalMicroseconds;
            _machine.MinInterval = _options.MinInterval
                ?? TimeSpan.FromMilliseconds(Math.Floor(Math.Max(0, result.PauseMicroseconds - since) / 1000));
        }
        else if (_options.Interval is null)
        {
            double rest = result.PauseMicroseconds * ((1 / _options.MaxOverhead) - 1);
            double captured = Stopwatch.GetElapsedTime(_captureStarted).TotalMicroseconds - result.PauseMicroseconds;
            _machine.Interval = TimeSpan.FromMicroseconds(Math.Clamp(rest - captured, 1_000, 2_000_000));
        }
    }

    private async Task ResumeAsync()
    {
        try
        {
            await _capture!.ResumeAsync(_work.Token);
        }
        catch (Exception e) when (e is QemuException or OperationCanceledException)
        {
            Log.CaptureFailed(_log, _guest!.Definition.Name, _machine.Round, e.Message);
        }
    }
}
