using System.Diagnostics;
using Curling.Hosting.Control;
using Curling.Hosting.Options;
using Curling.TestKit.Daemons;

namespace Curling.EndToEnd.Tests.Matrix;

/// <summary>
/// Watches both copies of a guest from outside: by what each prints on its serial port, which nothing holds back, and by what the daemons say of
/// themselves. From the moment that the standby has printed anything, the primary must print nothing any more.
/// </summary>
/// <remarks>
/// One exception, for as long as <see cref="SenderStandsStill"/> says so: a daemon that was stopped cannot stop its QEMU, and only what it lets out to
/// the networks is held. It counts until a moment after the daemon goes on.
/// </remarks>
internal sealed class LifeWatch : IAsyncDisposable
{
    private static readonly TimeSpan ReadEvery = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan AskEvery = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan AskLimit = TimeSpan.FromSeconds(1);
    private readonly Sender _sender;
    private readonly Receiver _receiver;
    private readonly string _guest;
    private readonly CancellationTokenSource _cancellation = new();
    private readonly Lock _lock = new();
    private readonly List<SerialTail> _standbys = [];
    private readonly List<(long Line, long Round)> _printedBefore = [];
    private readonly Task[] _loops;
    private (string Path, int Pid)? _standby;
    private SerialTail? _primary;
    private string? _violation;
    private long _committed;

    /// <summary>Starts to watch.</summary>
    public LifeWatch(Sender sender, Receiver receiver, string guest)
    {
        _sender = sender;
        _receiver = receiver;
        _guest = guest;
        _loops = [Task.Run(ReadAsync), Task.Run(AskSenderAsync), Task.Run(AskReceiverAsync)];
    }

    /// <summary>Whether the sender's process is stopped, or was a moment ago.</summary>
    public bool SenderStandsStill { get; set; }

    /// <summary>The sender's last status.</summary>
    public SenderStatus? Sender { get; private set; }

    /// <summary>The last status of the guest at the receiver.</summary>
    public SessionStatus? Session { get; private set; }

    /// <summary>Two active copies that were seen, or null.</summary>
    public string? Violation
    {
        get
        {
            lock (_lock)
            {
                return _violation;
            }
        }
    }

    /// <summary>What both copies have printed.</summary>
    public (int Primary, int Standby) Printed
    {
        get
        {
            lock (_lock)
            {
                return (_primary?.Lines.Count ?? 0, _standbys.Sum(s => s.Lines.Count));
            }
        }
    }

    /// <summary>Fails unless every copy lived one life, and the standby's goes on from no older than the last round known committed.</summary>
    public void AssertLives()
    {
        lock (_lock)
        {
            Assert.Null(_violation);
            if (_primary is { Lines.Count: > 0 } primary)
            {
                SerialLog.AssertOneLife(primary.Lines);
            }

            SerialTail[] spoke = [.. _standbys.Where(s => s.Lines.Count > 0)];
            Assert.True(spoke.Length <= 1, "several standbys ran");
            foreach (SerialTail standby in spoke)
            {
                SerialLog.AssertOneLife(standby.Lines);
                long floor = _printedBefore.Where(p => p.Round < _committed).Select(p => p.Line).DefaultIfEmpty(0).Max();
                Assert.True(
                    standby.Lines[0].Count >= floor,
                    $"round {_committed} was known committed, and before it the guest had printed line {floor}; it goes on with {standby.Lines[0]}");
                Assert.True(floor > 0 || _committed <= 1, "no line was seen before the last committed round: nothing is shown");
            }
        }
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        await _cancellation.CancelAsync();
        await Task.WhenAll(_loops).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        _primary?.Dispose();
        _standbys.ForEach(s => s.Dispose());
    }

    private async Task ReadAsync()
    {
        while (true)
        {
            lock (_lock)
            {
                // What both say between two looks may have come in either order, and counts for the time before.
                bool stood = _standbys.Any(s => s.Spoke);
                bool said = _primary?.Advance() == true;
                foreach (SerialTail standby in _standbys)
                {
                    standby.Advance();
                }

                if (stood && said && !SenderStandsStill)
                {
                    _violation ??= $"two active guests: the primary printed {_primary!.Lines.LastOrDefault()} after the standby had printed";
                }
            }

            await Task.Delay(ReadEvery, _cancellation.Token);
        }
    }

    private async Task AskSenderAsync()
    {
        while (!_cancellation.IsCancellationRequested)
        {
            long line;
            lock (_lock)
            {
                line = _primary?.Lines.Count > 0 ? _primary.Lines[^1].Count : 0;
            }

            if ((await AskAsync(_sender.Control))?.Sender is { } status)
            {
                Sender = status;
                lock (_lock)
                {
                    _primary ??= status.Serial is { } serial ? SerialTail.Open(serial) : null;

                    // What was printed before a round's capture began is in every later round.
                    _printedBefore.Add((line, status.Round));
                    _committed = Math.Max(_committed, status.CommittedRound);
                }
            }

            await Task.Delay(AskEvery, _cancellation.Token);
        }
    }

    private async Task AskReceiverAsync()
    {
        while (!_cancellation.IsCancellationRequested)
        {
            if ((await AskAsync(_receiver.Control))?.Receiver is { } status)
            {
                Session = status.Sessions.FirstOrDefault(s => s.Guest == _guest);
                if (Session is { Serial: { } serial, StandbyPid: { } pid } && _standby != (serial, pid) && SerialTail.Open(serial) is { } tail)
                {
                    _standby = (serial, pid);
                    lock (_lock)
                    {
                        _standbys.Add(tail);
                    }
                }
            }

            await Task.Delay(AskEvery, _cancellation.Token);
        }
    }

    private static async Task<ControlReply?> AskAsync(string control)
    {
        try
        {
            return await ControlClient.CallAsync(control, new ControlRequest("status"), AskLimit);
        }
        catch (Exception e) when (e is OperatorException or IOException or OperationCanceledException or TimeoutException
            or System.Net.Sockets.SocketException)
        {
            // It stands still, has ended or has not begun.
            return null;
        }
    }
}
