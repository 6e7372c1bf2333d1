using System.Diagnostics;
using Curling.Hosting.Time;
using Curling.Linux.Network;
using Curling.Qemu.Guests;
using Curling.Replication.Output;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Network;

/// <summary>
/// One network card's cable: QEMU's end is a Unix socket on which each frame has its length before it, the host's end is a tap
/// device. Frames for the guest are passed on at once, frames of the guest when the gate lets them.
/// </summary>
/// <remarks>
/// Two threads of its own, one for each direction, that wait for nothing but their descriptors; a full ring is the guest's
/// back-pressure: nothing is read from QEMU until something has left. Frames are neither copied nor allocated one by one.
/// </remarks>
internal sealed partial class NetworkPort : IDisposable
{
    private const int PrefixBytes = 4;
    private const int BatchFrames = 64;
    private const int MaxHeldFrames = 1 << 15;

    // For what QEMU has queued at the stops of a few rounds in flight: each is at most a socket's buffer and a card's queue.
    private const int ReserveBytes = 4 << 20;
    private const int ReserveFrames = 1 << 12;

    // An Ethernet header, with a VLAN tag.
    private const int HeaderBytes = 18;
    private static readonly TimeSpan Reopen = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan TellAgain = TimeSpan.FromSeconds(10);
    private readonly long _heldLimit;
    private readonly int _index;
    private readonly NetworkDefinition _network;
    private readonly OutputGate _gate;
    private readonly ReleaseDeadline _deadline;
    private readonly INetworkEvents _events;
    private readonly ILogger _log;
    private readonly string _guest;
    private readonly TapCable _host;
    private readonly QemuCable _qemu;
    private readonly FrameRing _ring;
    private readonly byte[] _batch;
    private readonly Readiness _outbound = new();
    private readonly Readiness _inbound = new();
    private readonly ManualResetEventSlim _drained = new();
    private readonly Thread[] _threads;
    private ReplayedFrames? _replay;
    private volatile InboundMode _mode;
    private volatile bool _mayLeave;
    private volatile bool _stopping;
    private volatile bool _full;
    private volatile bool _drains;
    private volatile bool _overran;
    private long _overruns;
    private long _lastToldOverrun;
    private long _heldFrames;
    private long _heldBytes;
    private long _misfits;
    private long _released;
    private long _releasedBytes;
    private long _noCable;
    private long _passed;
    private long _passedBytes;

    /// <summary>Opens the host's end and waits for QEMU's.</summary>
    /// <exception cref="TapException">The host's end cannot be made.</exception>
    public NetworkPort(
        int index, NetworkDefinition network, string attach, string path, long heldBytes, OutputGate gate, ReleaseDeadline deadline, INetworkEvents events,
        bool active, string guest, ILogger log)
    {
        _index = index;
        _network = network;
        _gate = gate;
        _deadline = deadline;
        _events = events;
        _log = log;
        _guest = guest;
        _mode = active ? InboundMode.Pass : InboundMode.Drop;
        _mayLeave = active;
        _heldLimit = Math.Clamp(heldBytes, 1 << 20, 1 << 30);
        _ring = new FrameRing((int)_heldLimit + ReserveBytes, MaxHeldFrames + ReserveFrames, network.Mtu + HeaderBytes);
        _batch = GC.AllocateUninitializedArray<byte>(BatchFrames * (PrefixBytes + network.Mtu + HeaderBytes), pinned: true);
        _host = new TapCable(network, attach);
        try
        {
            _qemu = new QemuCable(path);
        }
        catch
        {
            _host.Dispose();
            throw;
        }

        _threads = [Start(RunOutbound, "net-out"), Start(RunInbound, "net-in")];
    }

    /// <summary>How long frames were held, in microseconds.</summary>
    public Percentiles HeldMicros { get; } = new();

    /// <summary>Whether QEMU's end is there.</summary>
    public bool IsConnected => _qemu.Connection is not null;

    /// <summary>The numbers of this port.</summary>
    public PortCounters Counters => new(
        _network.Mac,
        _host.Attach,
        _host.Device?.Name,
        Volatile.Read(ref _heldFrames),
        Volatile.Read(ref _heldBytes),
        Volatile.Read(ref _released),
        Volatile.Read(ref _releasedBytes),
        Volatile.Read(ref _misfits),
        Volatile.Read(ref _noCable),
        Volatile.Read(ref _passed),
        Volatile.Read(ref _passedBytes),
        _host.Device?.HostDropped() ?? 0,
        Volatile.Read(ref _overruns));

    /// <summary>Looks at the gate again.</summary>
    public void Wake() => _outbound.Wake();

    /// <summary>
    /// The guest is about to be stopped. QEMU drops what its card has queued at a stop and cannot hand over at once, so from here
    /// on frames are taken also beyond the limit, into a reserve.
    /// </summary>
    public void BeforeStop()
    {
        _drained.Reset();
        _overran = false;
        _drains = true;

        // Either this thread sees that the guest is held up, or the other that a stop is near.
        Interlocked.MemoryBarrier();
        if (_full)
        {
            _outbound.Wake();
        }
    }

    /// <summary>Waits, only if the guest was held up, until what waited has been taken.</summary>
    /// <param name="limit">How long at the most.</param>
    public void AwaitDrained(TimeSpan limit)
    {
        if (_full)
        {
            _drained.Wait(limit);
        }
    }

    /// <summary>The guest stood still, and the limit counts again.</summary>
    public void AfterStop() => _drains = false;

    /// <summary>From here on frames of the guest may leave, as the gate says; frames for it wait in the device.</summary>
    /// <param name="sent">What the guest had sent at the primary and may not have left there.</param>
    public void Open(ReplayedFrames? sent)
    {
        _mode = InboundMode.Wait;
        _inbound.Wake();
        _host.Announce();
        foreach (ReadOnlyMemory<byte> framed in sent?.Of(_index) ?? [])
        {
            if (!_deadline.IsOpen)
            {
                break;
            }

            _host.Write(framed.Span[PrefixBytes..]);
        }

        _mayLeave = true;
        _outbound.Wake();
    }

    /// <summary>The guest runs here: it gets what was meant for it, then what comes.</summary>
    public void Pass(ReplayedFrames? replay)
    {
        _replay = replay;
        _mode = InboundMode.Pass;
        _inbound.Wake();
        _host.Announce();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stopping = true;
        _outbound.Wake();
        _inbound.Wake();
        foreach (Thread thread in _threads)
        {
            thread.Join();
        }

        _qemu.Dispose();
        _host.Dispose();
        _outbound.Dispose();
        _inbound.Dispose();
        _drained.Dispose();
    }

    private static Thread Start(Action run, string name)
    {
        Thread thread = new(() => run()) { IsBackground = true, Name = name };
        thread.Start();
        return thread;
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "NetworkBroken", Level = LogLevel.Error,
            Message = "{Guest}: QEMU's stream of the network {Mac} breaks its own rules: {Reason}. The guest runs on without this network; restart"
                + " the guest when it suits, and report this with QEMU's version")]
        public static partial void Broken(ILogger log, string guest, string mac, string reason);

        [LoggerMessage(EventName = "OutputOverrun", Level = LogLevel.Warning,
            Message = "{Guest}: network {Mac}: the guest was stopped for a round while there was no room for what its card had queued ({Count} times so"
                + " far); QEMU may have dropped a frame. Raise --max-held-output, or give the receiver more bandwidth")]
        public static partial void Overrun(ILogger log, string guest, string mac, long count);

        [LoggerMessage(EventName = "TapGone", Level = LogLevel.Error,
            Message = "{Guest}: network {Mac}: {Reason}. The guest runs on and its cable is out; a new device is tried every second")]
        public static partial void TapGone(ILogger log, string guest, string mac, string reason);

        [LoggerMessage(EventName = "TapStillGone", Level = LogLevel.Warning,
            Message = "{Guest}: network {Mac}: {Reason}. Trying again every second; mend the host's network")]
        public static partial void TapStillGone(ILogger log, string guest, string mac, string reason);

        [LoggerMessage(EventName = "TapBack", Level = LogLevel.Information, Message = "{Guest}: network {Mac} has a cable again: {Tap}")]
        public static partial void TapBack(ILogger log, string guest, string mac, string tap);

        [LoggerMessage(EventName = "InboundReplayed", Level = LogLevel.Information,
            Message = "{Guest}: network {Mac}: {Frames} frames that had reached the primary after the committed cut were given to the guest")]
        public static partial void Replayed(ILogger log, string guest, string mac, int frames);
    }
}
