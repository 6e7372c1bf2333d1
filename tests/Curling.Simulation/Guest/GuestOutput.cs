using Curling.Replication.Output;
using Curling.Replication.Sender;
using Curling.Simulation.Checks;

namespace Curling.Simulation.Guest;

/// <summary>
/// What the guest sends in a history, and the real gate before it. Each frame knows after which cut of which protection it was sent,
/// which the gate does not.
/// </summary>
internal sealed class GuestOutput(PairWorld world, SimulatedGuest guest, SenderChecker checker, Func<bool> isOpen)
{
    private readonly OutputGate _gate = new(1);
    private readonly Queue<Frame> _socket = new();
    private readonly Queue<Frame> _held = new();
    private long _left;
    private long _protection;
    private long _lastCut;

    /// <summary>Frames that have not left.</summary>
    public int Held => _held.Count;

    /// <summary>Frames wait for the next cut.</summary>
    public bool WantsRound => _gate.WantsRound;

    /// <summary>Time passes: the guest sends while it runs, QEMU's socket is read, what may leave leaves.</summary>
    public void Pass(bool guestRuns)
    {
        if (guestRuns)
        {
            guest.Run();
            Send(world.History.Between(0, 2));
        }

        Read(world.History.Between(0, 3));
        Leave();
    }

    /// <summary>The guest stands still for a round.</summary>
    /// <param name="round">The round.</param>
    /// <param name="forTheReceiver">Whether the connection that it is captured for stands.</param>
    public void Cut(long round, bool forTheReceiver)
    {
        if (world.Defect.RaisesTheEpochLate)
        {
            // The guest runs already, and what it says is read before the epoch is raised.
            After(round, forTheReceiver);
            Send(1);
            Read(_socket.Count);
            _gate.Cut(round);
        }
        else
        {
            _gate.Cut(round);
            After(round, forTheReceiver);
        }

        Leave();
    }

    /// <summary>Carries out what the machine says.</summary>
    public void Carry(SenderOutput output)
    {
        switch (output)
        {
            case SenderOutput.HoldOutput hold:
                _gate.Protect(hold.FirstRound);
                break;
            case SenderOutput.ReleaseOutput release:
                _gate.Complete(release.Round);
                break;
            case SenderOutput.ReleaseAllOutput:
                _gate.Unprotect();
                _protection++;
                _lastCut = 0;
                break;
        }

        Leave();
    }

    private void After(long round, bool forTheReceiver) => _lastCut = forTheReceiver ? round : _lastCut;

    private void Send(int frames)
    {
        for (; frames > 0; frames--)
        {
            _socket.Enqueue(new Frame(guest.Send(), _protection, _lastCut));
        }
    }

    private void Read(int frames)
    {
        for (; frames > 0 && _socket.TryDequeue(out Frame frame); frames--)
        {
            _held.Enqueue(frame);
            _gate.Admit(0, 1);
        }
    }

    /// <summary>What may leave leaves.</summary>
    public void Leave()
    {
        // Whatever the gate says, nothing leaves without the right to run the guest.
        int count = isOpen() || world.Defect.HasNoDeadline ? _gate.Releasable(0) : 0;
        for (int i = 0; i < count; i++)
        {
            Frame frame = _held.Dequeue();
            checker.FrameLeaves(
                frame.Number, frame.Number == _left++, frame.Protection == _protection ? frame.After : 0);
        }

        _gate.Release(0, count);
    }

    private readonly record struct Frame(long Number, long Protection, long After);
}
