using Curling.Protocol;
using Curling.Replication.Sender;
using Curling.Simulation.Guest;

namespace Curling.Simulation.Sender;

/// <summary>Capturing rounds: the guest runs while its pages are copied, and stands still for the cut.</summary>
internal sealed partial class SenderHost
{
    private void Capture(RoundBegin begin, bool final, SenderConnection? connection)
    {
        RoundSender? round = null;
        if (connection is not null)
        {
            round = new RoundSender(_world, connection.Writer, _encoder, begin);
            round.Begin();
        }

        bool incremental = begin.Kind == RoundKind.Incremental;
        List<int> copied = begin.Kind == RoundKind.Full ? [] : _guest.TakeDirty(all: !incremental);
        _process.In(_history.Between(1, incremental ? 6 : 20), () =>
        {
            // Protected first, copied second: what is written between the two is in the next copy as well.
            _output.Pass(GuestRuns);
            if (connection == Connection)
            {
                round?.Pages(_guest, copied);
            }

            if (_world.Defect.ProtectsAfterTheCopy)
            {
                _output.Pass(GuestRuns);
                _guest.TakeDirty(all: true);
            }

            long qemu = Math.Max(0, _qemuStalledUntil - _history.Milliseconds);
            _process.In(qemu + _history.Between(0, incremental ? 6 : 20), () => Cut(begin, final, connection, round));
        });
    }

    private void Cut(RoundBegin begin, bool final, SenderConnection? connection, RoundSender? round)
    {
        if (!IsUp || Guest == GuestState.Dead)
        {
            return;
        }

        bool fails = _history.Chance(_world.Options.FailingCaptures) && _world.Faulty;
        if (fails || connection is null || round is null || (connection != Connection && _history.Chance(60)))
        {
            // A last round that fails may leave the guest stopped: the machine has to say that it goes on.
            Guest = final ? GuestState.Stopped : Guest;
            _process.In(_history.Between(0, 3), () => Step(new SenderInput.CaptureFailed(begin.Round, "failed")));
            return;
        }

        Guest = final ? GuestState.Stopped : Guest;
        Checker.Cut(begin.Round, _guest.Now());
        if (begin.Kind == RoundKind.Full)
        {
            round.Content(SectionKind.Stream, [.. _guest.Memory, .. _guest.DeviceState()]);
        }
        else if (connection == Connection)
        {
            round.Pages(_guest, _guest.TakeDirty(all: false));
            round.Content(SectionKind.DeviceState, _guest.DeviceState());
        }

        _output.Cut(begin.Round, connection == Connection);
        round.End(final);

        // The end of the round is on the wire; the report of the capture may be late.
        _process.In(
            _history.Chance(8) ? _history.Between(20, 120) : _history.Between(0, 3), () => Step(new SenderInput.Captured(begin.Round)));
    }
}
