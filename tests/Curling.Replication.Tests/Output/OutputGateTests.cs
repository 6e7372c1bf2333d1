using CsCheck;
using Curling.Replication.Output;

namespace Curling.Replication.Tests.Output;

public class OutputGateTests
{
    [Fact]
    public void Everything_leaves_until_the_first_cut_of_a_connection()
    {
        OutputGate gate = new(1);
        Assert.False(gate.Admit(0, 2));
        gate.Protect(1);
        Assert.False(gate.Admit(0, 1));
        Assert.Equal(3, gate.Releasable(0));
        gate.Cut(1);
        Assert.Equal(3, gate.Releasable(0));
        Assert.True(gate.Admit(0, 1));
        Assert.Equal(3, gate.Releasable(0));
    }

    [Fact]
    public void Frame_leaves_when_the_round_after_it_is_complete()
    {
        OutputGate gate = Protected(1);
        gate.Admit(0, 5);
        gate.Complete(1);
        Assert.Equal(0, gate.Releasable(0));
        gate.Cut(2);
        gate.Admit(0, 3);
        Assert.Equal(0, gate.Releasable(0));
        gate.Complete(2);
        Assert.Equal(5, gate.Releasable(0));
        gate.Release(0, 5);
        Assert.Equal(3, gate.Held);
    }

    [Fact]
    public void Word_of_a_round_that_was_not_cut_releases_nothing()
    {
        OutputGate gate = Protected(1);
        gate.Admit(0, 1);
        gate.Complete(2);
        Assert.Equal(0, gate.Releasable(0));
        gate.Cut(2);
        Assert.Equal(0, gate.Releasable(0));
    }

    [Fact]
    public void Only_the_first_frame_of_an_epoch_asks_for_a_round()
    {
        OutputGate gate = Protected(2);
        Assert.True(gate.Admit(0, 1));
        Assert.False(gate.Admit(1, 1));
        Assert.True(gate.WantsRound);
        gate.Cut(2);
        Assert.False(gate.WantsRound);
        Assert.True(gate.Admit(1, 1));
    }

    [Fact]
    public void Everything_leaves_when_the_guest_is_unprotected_and_a_late_cut_holds_nothing()
    {
        OutputGate gate = Protected(1);
        gate.Admit(0, 4);
        gate.Unprotect();
        Assert.Equal(4, gate.Releasable(0));
        gate.Cut(2);
        gate.Admit(0, 1);
        Assert.Equal(5, gate.Releasable(0));
        gate.Protect(3);
        gate.Cut(2);
        gate.Admit(0, 1);
        Assert.Equal(6, gate.Releasable(0));
    }

    [Fact]
    public void More_than_may_leave_is_refused()
    {
        OutputGate gate = Protected(1);
        gate.Admit(0, 1);
        Assert.Throws<InvalidOperationException>(() => gate.Release(0, 1));
    }

    [Fact]
    public void No_order_of_frames_cuts_words_and_disconnections_lets_a_frame_go_early_or_lose_it()
    {
        Story.SampleMany(Defect.None, 20_000);
    }

    /// <summary>The property above can fail: each of these mistakes of a caller is found.</summary>
    [Theory]
    [InlineData(Defect.CutsAfterTheGuestRuns)]
    [InlineData(Defect.ReleasesWhenSent)]
    [InlineData(Defect.ForgetsToProtect)]
    public void Mistakes_are_found(Defect defect)
    {
        Assert.ThrowsAny<Exception>(() => Story.SampleMany(defect, 2_000));
    }

    private static OutputGate Protected(int networks)
    {
        OutputGate gate = new(networks);
        gate.Protect(1);
        gate.Cut(1);
        return gate;
    }

    public enum Defect
    {
        None = 1,
        CutsAfterTheGuestRuns = 2,
        ReleasesWhenSent = 3,
        ForgetsToProtect = 4,
    }

    /// <summary>
    /// A guest, its QEMU's sockets, a sender and a receiver, as far as a gate sees them. Every frame knows after which cut of which
    /// connection the guest sent it, which the gate does not.
    /// </summary>
    private sealed class Story(Defect defect)
    {
        private const int Networks = 2;
        private readonly OutputGate _gate = new(Networks);
        private readonly Queue<Frame>[] _sockets = [new(), new()];
        private readonly Queue<Frame>[] _held = [new(), new()];
        private readonly Queue<long> _inFlight = new();
        private readonly List<long>[] _left = [[], []];
        private readonly long[] _sent = new long[Networks];
        private int _link;
        private bool _linkUp;
        private long _round;
        private long _lastCut;
        private long _whole;

        public static void SampleMany(Defect defect, int count) => Gen.Int[0, 9].List[1, 120].Sample(
            steps => new Story(defect).Run(steps), iter: count, threads: 1);

        private void Run(List<int> steps)
        {
            foreach (int step in steps)
            {
                switch (step)
                {
                    case 0 or 1 or 2:
                        Send(step % Networks);
                        break;
                    case 3 or 4:
                        Read(step % Networks);
                        break;
                    case 5 when _linkUp:
                        Cut();
                        break;
                    case 6 when _inFlight.TryDequeue(out long round):
                        // The receiver has it whole, and says so.
                        _whole = round;
                        _gate.Complete(round);
                        break;
                    case 7 when !_linkUp:
                        Connect();
                        break;
                    case 8 when _linkUp && _round % 3 == 2:
                        Disconnect();
                        break;
                }

                Release();
            }

            End();
        }

        private void End()
        {
            Disconnect();
            for (int i = 0; i < Networks; i++)
            {
                while (_sockets[i].Count > 0)
                {
                    Read(i);
                }
            }

            Release();
            Assert.Equal(0, _gate.Held);
            for (int i = 0; i < Networks; i++)
            {
                Assert.Equal(Enumerable.Range(0, (int)_sent[i]).Select(n => (long)n), _left[i]);
            }
        }

        private void Connect()
        {
            _linkUp = true;
            _link++;
            if (defect != Defect.ForgetsToProtect)
            {
                _gate.Protect(_round + 1);
            }
        }

        private void Disconnect()
        {
            _linkUp = false;
            _lastCut = 0;
            _inFlight.Clear();
            _gate.Unprotect();
        }

        private void Send(int network) => _sockets[network].Enqueue(new Frame(_sent[network]++, _link, _lastCut));

        private void Read(int network)
        {
            if (_sockets[network].TryDequeue(out Frame frame))
            {
                _held[network].Enqueue(frame);
                _gate.Admit(network, 1);
            }
        }

        private void Cut()
        {
            _lastCut = ++_round;
            if (defect == Defect.CutsAfterTheGuestRuns)
            {
                Send(0);
                while (_sockets[0].Count > 0)
                {
                    Read(0);
                }
            }

            _gate.Cut(_round);
            _inFlight.Enqueue(_round);
            if (defect == Defect.ReleasesWhenSent)
            {
                _gate.Complete(_round);
            }
        }

        private void Release()
        {
            for (int i = 0; i < Networks; i++)
            {
                int count = _gate.Releasable(i);
                for (int n = 0; n < count; n++)
                {
                    Frame frame = _held[i].Dequeue();
                    _left[i].Add(frame.Number);

                    // Sent after a cut: until the next round is whole, a failover would unsay it.
                    Assert.True(
                        !_linkUp || frame.Link != _link || frame.After == 0 || _whole > frame.After,
                        $"frame {frame.Number}, sent after cut {frame.After}, left when round {_whole} was whole");
                }

                _gate.Release(i, count);
            }
        }

        private readonly record struct Frame(long Number, int Link, long After);
    }
}
