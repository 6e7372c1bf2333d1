using Curling.Linux.Processes;

namespace Curling.Hosting.Faults;

/// <summary>
/// Named places in the daemons where a test may make something go wrong: the process ends at once, stands still, or meets the error that
/// the place can meet anyway. Off unless <c>--fault</c> is given, which is hidden and for tests only (docs/faults.md).
/// </summary>
/// <remarks>
/// Thread-safe. While nothing is armed a place costs one read of a static field. The process's standard error says
/// <c>fault: NAME</c> before anything is done, so that a test knows that the place is reached.
/// </remarks>
public static class FaultPoint
{
    /// <summary>The sender is about to connect.</summary>
    public const string SendHandshake = "send-handshake";

    /// <summary>A data frame of a base round has left; more of it follows.</summary>
    public const string SendBasePart = "send-base-part";

    /// <summary>A round has begun, and pages are about to be copied while the guest runs.</summary>
    public const string SendPreCopy = "send-precopy";

    /// <summary>The guest is about to be stopped for a cut.</summary>
    public const string SendBeforeStop = "send-before-stop";

    /// <summary>The guest stands still, everything of the round is copied.</summary>
    public const string SendInCut = "send-in-cut";

    /// <summary>The guest runs on; nothing of its device state has been sent.</summary>
    public const string SendAfterContinue = "send-after-continue";

    /// <summary>The device state is handed to the link; the end of the round is not.</summary>
    public const string SendStateSent = "send-state-sent";

    /// <summary>All of the round but its end is on the wire.</summary>
    public const string SendBeforeEnd = "send-before-end";

    /// <summary>The receiver said that a round is complete, and nothing has come of it.</summary>
    public const string SendOnComplete = "send-on-complete";

    /// <summary>The receiver said that a round is committed, and nothing has come of it.</summary>
    public const string SendOnCommitted = "send-on-committed";

    /// <summary>A sender's greeting was read.</summary>
    public const string RecvHello = "recv-hello";

    /// <summary>A round has begun here.</summary>
    public const string RecvRoundOpen = "recv-round-open";

    /// <summary>A data frame of a round was taken.</summary>
    public const string RecvData = "recv-data";

    /// <summary>The end of a round is here, its digest not yet compared.</summary>
    public const string RecvBeforeVerify = "recv-before-verify";

    /// <summary>A round is whole; nobody has been told.</summary>
    public const string RecvWhole = "recv-whole";

    /// <summary>A round is about to be committed; the journal does not know it.</summary>
    public const string RecvBeforeRecord = "recv-before-record";

    /// <summary>The journal says that a round stands; half of its memory frames are applied.</summary>
    public const string RecvHalfApplied = "recv-half-applied";

    /// <summary>All of its memory is applied; the journal does not say so.</summary>
    public const string RecvBeforeSecondRecord = "recv-before-second-record";

    /// <summary>The sender is being told that a round is committed.</summary>
    public const string RecvCommittedSaid = "recv-committed-said";

    /// <summary>A promotion was decided; nothing is done.</summary>
    public const string PromoteAsked = "promote-asked";

    /// <summary>The arbiter gave the right to run the guest; nobody here knows.</summary>
    public const string PromoteRightTaken = "promote-right-taken";

    /// <summary>The fence command succeeded or there is none; the promoted guest's generation is noted next.</summary>
    public const string PromoteFenced = "promote-fenced";

    /// <summary>Half of the state's first piece is in QEMU.</summary>
    public const string PromoteHalfLoaded = "promote-half-loaded";

    /// <summary>The guest runs here; nobody was told.</summary>
    public const string PromoteRunning = "promote-running";

    /// <summary>The sender is about to be told that the guest runs here.</summary>
    public const string PromoteAnnounced = "promote-announced";

    private static readonly (string Name, bool CanFail)[] All =
    [
        (SendHandshake, true), (SendBasePart, true), (SendPreCopy, true), (SendBeforeStop, true), (SendInCut, true), (SendAfterContinue, true),
        (SendStateSent, true), (SendBeforeEnd, true), (SendOnComplete, true), (SendOnCommitted, true), (RecvHello, true), (RecvRoundOpen, true),
        (RecvData, true), (RecvBeforeVerify, true), (RecvWhole, true), (RecvBeforeRecord, true), (RecvHalfApplied, true),
        (RecvBeforeSecondRecord, true), (RecvCommittedSaid, false), (PromoteAsked, true), (PromoteRightTaken, false), (PromoteFenced, true),
        (PromoteHalfLoaded, true), (PromoteRunning, true), (PromoteAnnounced, false),
    ];

    private static volatile bool _armed;
    private static Armed[] _faults = [];

    /// <summary>Every name, in the order of a round.</summary>
    public static IEnumerable<string> Names => All.Select(p => p.Name);

    /// <summary>Whether a place can meet an error without any fault; null where there is no such place.</summary>
    public static bool? CanFail(string name) => Array.Find(All, p => p.Name == name) is { Name: not null } point ? point.CanFail : null;

    /// <summary>Arms places, and only these; none turns everything off.</summary>
    public static void Arm(IReadOnlyList<Fault> faults)
    {
        _faults = [.. faults.Select(f => new Armed(f))];
        _armed = faults.Count > 0;
    }

    /// <summary>A place is reached.</summary>
    /// <exception cref="IOException">A test asked for it.</exception>
    public static void Hit(string name)
    {
        if (_armed && Reached(name) is { } fault)
        {
            Announce(name);
            Thread.Sleep(Act(fault));
        }
    }

    /// <summary>The same where no thread may be held.</summary>
    /// <exception cref="IOException">A test asked for it.</exception>
    public static ValueTask HitAsync(string name) => _armed ? ActAsync(name) : ValueTask.CompletedTask;

    private static async ValueTask ActAsync(string name)
    {
        if (Reached(name) is { } fault)
        {
            Announce(name);
            await Task.Delay(Act(fault));
        }
    }

    private static Fault? Reached(string name)
    {
        foreach (Armed armed in _faults)
        {
            if (armed.Fault.Name == name && Interlocked.Increment(ref armed.Hits) == armed.Fault.Nth)
            {
                return armed.Fault;
            }
        }

        return null;
    }

    private static void Announce(string name) => Console.Error.WriteLine($"fault: {name}");

    /// <summary>Does what is to be done at once.</summary>
    /// <returns>How long to stand still.</returns>
    private static TimeSpan Act(Fault fault)
    {
        switch (fault.Action)
        {
            case FaultAction.Exit:
                // As a crash: nothing is flushed, closed or said.
                ProcessInfo.KillSelf();
                return Timeout.InfiniteTimeSpan;
            case FaultAction.Error:
                throw new IOException($"a test asked for an error at {fault.Name}");
            default:
                return fault.Time;
        }
    }

    private sealed class Armed(Fault fault)
    {
        public long Hits;

        public Fault Fault { get; } = fault;
    }
}
