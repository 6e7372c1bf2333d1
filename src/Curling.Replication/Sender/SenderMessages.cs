using Curling.Protocol;

namespace Curling.Replication.Sender;

/// <summary>What the sender's machine is told. Each input is stepped with the time it happened.</summary>
public abstract record SenderInput
{
    private SenderInput()
    {
    }

    /// <summary>Time passes.</summary>
    public sealed record Tick : SenderInput
    {
        /// <summary>The only tick there is.</summary>
        public static readonly Tick Instance = new();
    }

    /// <summary>How much of rounds has been sent over the connection, looked at from time to time.</summary>
    /// <param name="Bytes">The bytes so far; heartbeats and the like do not count.</param>
    public sealed record Sent(long Bytes) : SenderInput;

    /// <summary>The guest runs; protection may begin.</summary>
    public sealed record GuestStarted : SenderInput;

    /// <summary>The receiver accepted the guest and its standby waits.</summary>
    public sealed record Ready : SenderInput;

    /// <summary>The connection is gone, or could not be made.</summary>
    public sealed record LinkLost(string Reason) : SenderInput;

    /// <summary>The receiver said no.</summary>
    public sealed record Refused(RefusalCode Code, string Reason) : SenderInput;

    /// <summary>The receiver is being stopped by its operator.</summary>
    public sealed record ReceiverLeft(string Reason) : SenderInput;

    /// <summary>A round was captured whole and stands in the line to the link.</summary>
    public sealed record Captured(long Round) : SenderInput;

    /// <summary>A round could not be captured; the guest runs.</summary>
    public sealed record CaptureFailed(long Round, string Reason) : SenderInput;

    /// <summary>The receiver holds the round whole.</summary>
    public sealed record Completed(long Round) : SenderInput;

    /// <summary>The round is the standby's state.</summary>
    public sealed record Committed(long Round) : SenderInput
    {
        /// <summary>Whether the standby can run the guest from it; not while the first copy of its disks is under way.</summary>
        public bool IsComplete { get; init; } = true;
    }

    /// <summary>The receiver runs the guest, after a switchover.</summary>
    public sealed record Promoted(long Round) : SenderInput;

    /// <summary>The guest shut itself down.</summary>
    public sealed record GuestShutdown : SenderInput;

    /// <summary>QEMU ended by itself.</summary>
    public sealed record QemuCrashed(string Reason) : SenderInput;

    /// <summary>Output of the guest waits for a cut that no round under way will make: a round is wanted soon.</summary>
    public sealed record OutputWaits : SenderInput
    {
        /// <summary>The only one there is.</summary>
        public static readonly OutputWaits Instance = new();
    }

    /// <summary>So much output waits that the guest is slowed: a round is wanted at once.</summary>
    public sealed record OutputFull : SenderInput
    {
        /// <summary>The only one there is.</summary>
        public static readonly OutputFull Instance = new();
    }

    /// <summary>The right to run the guest has run out: its output is held back and it is being stopped.</summary>
    public sealed record RightLost(string Reason) : SenderInput;

    /// <summary>The right to run the guest is there again.</summary>
    public sealed record RightBack : SenderInput;

    /// <summary>The operator stops the sender.</summary>
    public sealed record Stop : SenderInput;

    /// <summary>The operator moves the guest to the receiver.</summary>
    public sealed record Switchover : SenderInput;

    /// <summary>The operator gives the guest another standby.</summary>
    /// <param name="Reason">What the one before is told.</param>
    /// <param name="Force">Also when the one before cannot be told: the operator has made sure that it does not start the guest.</param>
    public sealed record Retarget(string Reason, bool Force) : SenderInput;

    /// <summary>The answer to <see cref="SenderOutput.LeaveStandby"/>: connect again, to the new receiver or still to the one before.</summary>
    /// <param name="Changed">Whether it is the new one.</param>
    public sealed record Retargeted(bool Changed) : SenderInput;
}

/// <summary>What the sender's machine asks for, in order.</summary>
public abstract record SenderOutput
{
    private SenderOutput()
    {
    }

    /// <summary>Connect to the receiver and shake hands.</summary>
    public sealed record Connect : SenderOutput;

    /// <summary>Close the connection, if there is one.</summary>
    public sealed record CloseLink(string Reason) : SenderOutput;

    /// <summary>Capture a round and send it. With <paramref name="Final"/> the guest stays stopped after the cut.</summary>
    public sealed record CaptureRound(RoundBegin Begin, bool Final) : SenderOutput;

    /// <summary>From the cut of this round on, the guest's output waits for <see cref="ReleaseOutput"/>.</summary>
    public sealed record HoldOutput(long FirstRound) : SenderOutput;

    /// <summary>Output of the guest up to this round's cut may leave the host.</summary>
    public sealed record ReleaseOutput(long Round) : SenderOutput;

    /// <summary>Output leaves at once from now on: the guest runs unprotected.</summary>
    public sealed record ReleaseAllOutput : SenderOutput;

    /// <summary>The state a person sees has changed.</summary>
    public sealed record StateChanged(SenderState State, string Reason) : SenderOutput;

    /// <summary>The last round of a switchover came to nothing: the guest runs on here.</summary>
    public sealed record ResumeGuest(string Reason) : SenderOutput;

    /// <summary>The guest was stopped because the right to run it had run out, and may run on.</summary>
    public sealed record RunGuest : SenderOutput;

    /// <summary>The guest stands still here and may run there: give the right to run it back, so that the receiver need not wait.</summary>
    public sealed record ReleaseRight : SenderOutput;

    /// <summary>The guest is to run here after all: ask for the right to run it again.</summary>
    public sealed record WantRight : SenderOutput;

    /// <summary>Tell the receiver that this is a normal end (or a crash of QEMU).</summary>
    public sealed record SayGoodbye(GoodbyeReason Reason, string Text) : SenderOutput;

    /// <summary>The switchover that was asked for does not happen, or came to nothing: who asked is told.</summary>
    public sealed record SwitchoverFailed(string Reason) : SenderOutput;

    /// <summary>
    /// The standby is given up for another one: say goodbye to the receiver, if there is a connection, and once it has heard that, take the new target and answer with
    /// <see cref="SenderInput.Retargeted"/>. Nothing is connected before.
    /// </summary>
    /// <param name="Reason">What it is told.</param>
    /// <param name="MustHear">Whether the receiver may hold a round: then the target is not changed unless it has heard the goodbye.</param>
    public sealed record LeaveStandby(string Reason, bool MustHear) : SenderOutput;

    /// <summary>The standby stays what it is: who asked for another one is told.</summary>
    /// <param name="Why">What keeps it.</param>
    public sealed record RetargetRefused(RetargetRefusal Why) : SenderOutput;

    /// <summary>It is over. The guest's QEMU, if it still lives, is ended.</summary>
    public sealed record End(SenderEnd How, string Reason) : SenderOutput;
}

/// <summary>What a person is told about the sender.</summary>
public enum SenderState
{
    /// <summary>The guest starts, or the first connection is being made.</summary>
    Starting = 1,

    /// <summary>The first round of a connection is on its way.</summary>
    Base = 2,

    /// <summary>A round was committed on this connection: the standby can take over.</summary>
    Protected = 3,

    /// <summary>The guest runs without a standby that follows it.</summary>
    Unprotected = 4,

    /// <summary>Nothing more happens.</summary>
    Ended = 5,
}

/// <summary>Why a guest is not given another standby.</summary>
public enum RetargetRefusal
{
    /// <summary>It is being moved to the one that it has, or to another one already.</summary>
    Moving = 1,

    /// <summary>
    /// The standby that it has may hold a round and is not connected: it cannot be told that it must not start the guest, and would, beside
    /// the one that runs here or with a round that is out of date.
    /// </summary>
    NotConnected = 2,
}

/// <summary>How protection ended.</summary>
public enum SenderEnd
{
    /// <summary>The guest shut itself down.</summary>
    GuestShutdown = 1,

    /// <summary>The operator stopped it.</summary>
    Stopped = 2,

    /// <summary>QEMU crashed; the standby takes over.</summary>
    QemuCrashed = 3,

    /// <summary>The guest runs on the receiver, as asked.</summary>
    SwitchedOver = 4,

    /// <summary>A newer generation of the guest runs elsewhere; this one had to stop.</summary>
    Superseded = 5,

    /// <summary>The receiver refused the guest for good.</summary>
    Refused = 6,
}

/// <summary>The settings of a <see cref="SenderMachine"/>.</summary>
/// <param name="Incremental">Incremental rounds, else full ones.</param>
/// <param name="MaxRoundsInFlight">Rounds captured and not yet committed, at most.</param>
/// <param name="FirstRetry">The wait before the first reconnection.</param>
/// <param name="LastRetry">The longest wait between reconnections.</param>
public sealed record SenderSettings(bool Incremental, int MaxRoundsInFlight, TimeSpan FirstRetry, TimeSpan LastRetry)
{
    /// <summary>Whether output that waits asks for a round at once, not only output that has no more room.</summary>
    public bool OutputAsksForRounds { get; init; }

    /// <summary>
    /// Whether a guest that has just been started ends when the receiver refuses it: the operator's mistake is to be mended then. A guest
    /// that was promoted and is given a new standby runs on in any case.
    /// </summary>
    public bool EndsWhenRefused { get; init; } = true;

    /// <summary>Whether an arbiter decides who may run the guest.</summary>
    public bool Arbitrated { get; init; }

    /// <summary>
    /// How long a receiver may neither take nor commit anything of the rounds under way. One that lives and hangs, on a disk that does not
    /// answer, would otherwise hold the guest's output for ever.
    /// </summary>
    public TimeSpan StallTimeout { get; init; } = TimeSpan.FromSeconds(60);
}
