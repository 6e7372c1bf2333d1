using Curling.Protocol;

namespace Curling.Replication.Receiver;

/// <summary>What a session's machine is told. Each input is stepped with the time it happened.</summary>
public abstract record ReceiverInput
{
    private ReceiverInput()
    {
    }

    /// <summary>Time passes; the peer was last heard at <paramref name="LastHeard"/> on the machine's clock.</summary>
    public sealed record Tick(TimeSpan LastHeard) : ReceiverInput;

    /// <summary>The sender's connection was accepted (again).</summary>
    public sealed record LinkUp : ReceiverInput;

    /// <summary>The standby waits for device state, the boot files are here.</summary>
    public sealed record StandbyReady : ReceiverInput;

    /// <summary>The standby could not be started, or ended.</summary>
    public sealed record StandbyFailed(string Reason) : ReceiverInput;

    /// <summary>A round begins.</summary>
    public sealed record RoundBegan(RoundBegin Begin) : ReceiverInput;

    /// <summary>The round is buffered whole and matched its marker.</summary>
    public sealed record RoundWhole(RoundEnd End) : ReceiverInput;

    /// <summary>The sender gave the open round up.</summary>
    public sealed record RoundAbandoned(long Round) : ReceiverInput;

    /// <summary>The round is the standby's state.</summary>
    public sealed record CommitDone(long Round) : ReceiverInput;

    /// <summary>The round could not be made the standby's state.</summary>
    public sealed record CommitFailed(long Round, string Reason) : ReceiverInput;

    /// <summary>Bytes broke the protocol, or the round cannot be kept (too large, no room).</summary>
    public sealed record Damaged(RefusalCode Code, string Reason) : ReceiverInput;

    /// <summary>
    /// The connection ended without a goodbye: closed, as a process that ends does it, or <paramref name="Silent"/>, when it may as well
    /// be the link that is gone.
    /// </summary>
    public sealed record LinkLost(string Reason, bool Silent = false) : ReceiverInput;

    /// <summary>The sender gives this connection up, and means to come back on another.</summary>
    public sealed record PeerRefused(string Reason) : ReceiverInput;

    /// <summary>The sender said how it ends.</summary>
    public sealed record PeerGoodbye(GoodbyeReason Reason, string Text) : ReceiverInput;

    /// <summary>
    /// The operator promotes the standby; without <paramref name="Fence"/>, or without <paramref name="Arbiter"/>, he has made sure himself
    /// that the primary does not run.
    /// </summary>
    public sealed record PromoteAsked(bool Fence = true, bool Arbiter = true) : ReceiverInput;

    /// <summary>The sender, which cannot reach the arbiter, asks for a promise that nothing is taken over for so long.</summary>
    public sealed record VouchAsked(long Sequence, TimeSpan Time) : ReceiverInput;

    /// <summary>The arbiter gave this host the right to run the guest, as was asked, or afterwards to a guest that was promoted without it.</summary>
    public sealed record RightTaken : ReceiverInput;

    /// <summary>The arbiter did not give it. <paramref name="Lives"/> is how long its holder's lease lives, where that is known.</summary>
    public sealed record RightRefused(RightRefusal Why, string Reason, TimeSpan Lives = default) : ReceiverInput;

    /// <summary>The operator gives the session up.</summary>
    public sealed record EndAsked(string Reason) : ReceiverInput;

    /// <summary>The primary is fenced: from here on the guest is being started.</summary>
    public sealed record Fenced : ReceiverInput;

    /// <summary>The primary could not be fenced: nothing was started.</summary>
    public sealed record FenceFailed(string Reason) : ReceiverInput;

    /// <summary>The guest runs here.</summary>
    public sealed record PromotionDone : ReceiverInput;

    /// <summary>The guest could not be started from the committed round.</summary>
    public sealed record PromotionFailed(string Reason) : ReceiverInput;

    /// <summary>The promoted guest ended.</summary>
    public sealed record GuestEnded(string Reason) : ReceiverInput;
}

/// <summary>What a session's machine asks for, in order.</summary>
public abstract record ReceiverOutput
{
    private ReceiverOutput()
    {
    }

    /// <summary>Tell the sender that rounds may come.</summary>
    public sealed record SendReady : ReceiverOutput;

    /// <summary>Throw away what arrived of a round.</summary>
    public sealed record Discard(long Round, string Reason) : ReceiverOutput;

    /// <summary>Tell the sender that the round is here whole.</summary>
    public sealed record SendComplete(long Round) : ReceiverOutput;

    /// <summary>Make the oldest whole round the standby's state.</summary>
    public sealed record Commit(long Round) : ReceiverOutput;

    /// <summary>Tell the sender that the round is committed.</summary>
    public sealed record SendCommitted(long Round) : ReceiverOutput;

    /// <summary>Tell the sender why, then close the connection.</summary>
    public sealed record Refuse(RefusalCode Code, string Reason) : ReceiverOutput;

    /// <summary>Close the connection, if there is one.</summary>
    public sealed record CloseLink : ReceiverOutput;

    /// <summary>Promise the sender that nothing is taken over for so long from now on.</summary>
    public sealed record SendVouch(long Sequence, TimeSpan Time) : ReceiverOutput;

    /// <summary>
    /// Ask the arbiter once for the right to run the guest, and say <see cref="ReceiverInput.RightTaken"/> or
    /// <see cref="ReceiverInput.RightRefused"/>.
    /// </summary>
    public sealed record TakeRight(long Round, string Reason) : ReceiverOutput;

    /// <summary>What the operator asked for does not happen.</summary>
    public sealed record PromotionRefused(string Reason) : ReceiverOutput;

    /// <summary>
    /// Start the guest from the committed round. With <paramref name="Fence"/> the primary, which has not handed the guest over itself, is
    /// fenced first, where <see cref="ReceiverSettings.Fences"/> is set, and <see cref="ReceiverInput.Fenced"/> or <see cref="ReceiverInput.FenceFailed"/> is said.
    /// </summary>
    public sealed record Promote(long Round, string Reason, bool Fence) : ReceiverOutput;

    /// <summary>Tell the sender that the guest runs here.</summary>
    public sealed record SendPromoted(long Round) : ReceiverOutput;

    /// <summary>The state a person sees has changed.</summary>
    public sealed record StateChanged(ReceiverState State, string Reason) : ReceiverOutput;

    /// <summary>The primary is lost and the operator decides: nothing happens until then.</summary>
    public sealed record Held(long Round, string Reason) : ReceiverOutput;

    /// <summary>
    /// The primary has renewed its right since its link was lost, so its guest runs on and its output leaves: a takeover would set it back, and the
    /// operator decides.
    /// </summary>
    public sealed record LeftBehind(long Round, string Reason) : ReceiverOutput;

    /// <summary>The session holds nothing any more: free it.</summary>
    public sealed record Release(string Reason) : ReceiverOutput;
}

/// <summary>What a person is told about a session.</summary>
public enum ReceiverState
{
    /// <summary>No round yet, or the sender is being waited for.</summary>
    Waiting = 1,

    /// <summary>The first round is arriving.</summary>
    Prefetching = 2,

    /// <summary>A committed round stands ready.</summary>
    Protected = 3,

    /// <summary>The standby is taking over.</summary>
    Promoting = 4,

    /// <summary>The guest runs here.</summary>
    Promoted = 5,

    /// <summary>It ended as it should.</summary>
    Ended = 6,

    /// <summary>It ended as it should not.</summary>
    Failed = 7,
}

/// <summary>What to do when the primary is lost.</summary>
public enum FailureAction
{
    /// <summary>Promote at once.</summary>
    Promote = 1,

    /// <summary>Wait for the operator.</summary>
    Hold = 2,
}

/// <summary>Why an arbiter does not give the right to run a guest.</summary>
public enum RightRefusal
{
    /// <summary>Another has it: its holder lives, or its lease has not run out yet.</summary>
    Held = 1,

    /// <summary>The arbiter cannot be reached.</summary>
    Unreachable = 2,

    /// <summary>The guest has run elsewhere as a later generation: the round here is out of date for good.</summary>
    Superseded = 3,
}

/// <summary>The settings of a <see cref="ReceiverMachine"/>.</summary>
/// <param name="OnFailure">What to do when the primary is lost.</param>
/// <param name="FailureTimeout">Silence of a sender for longer than this is a loss.</param>
public sealed record ReceiverSettings(FailureAction OnFailure, TimeSpan FailureTimeout)
{
    /// <summary>What to do when the primary is silent, and may live: at most what <see cref="OnFailure"/> says.</summary>
    public FailureAction OnSilence { get; init; } = FailureAction.Promote;

    /// <summary>Whether a primary is fenced before its standby is promoted.</summary>
    public bool Fences { get; init; }

    /// <summary>The longest that a receiver before this one may have vouched for: how long the sender's lease lives.</summary>
    public TimeSpan SenderTtl { get; init; }

    /// <summary>How long an arbiter's lease lives, where an arbiter decides who may run the guest; null where there is none.</summary>
    public TimeSpan? RightTtl { get; init; }
}
