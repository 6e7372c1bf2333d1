namespace Curling.Protocol;

/// <summary>What a frame is. The numbers are the wire's; see docs/protocol.md.</summary>
public enum FrameType : byte
{
    /// <summary>Sender → receiver, first: who I am and which guest I protect (JSON).</summary>
    Hello = 1,

    /// <summary>Receiver → sender: accepted, and which boot files I lack (JSON).</summary>
    Welcome = 2,

    /// <summary>Either way: no, and why. The connection closes after it.</summary>
    Refusal = 3,

    /// <summary>Sender → receiver: a piece of a boot file.</summary>
    FileData = 4,

    /// <summary>Receiver → sender: the standby waits; rounds may come.</summary>
    Ready = 5,

    /// <summary>Both ways, at all times: I am alive.</summary>
    Heartbeat = 6,

    /// <summary>Sender → receiver: a round begins.</summary>
    RoundBegin = 7,

    /// <summary>Sender → receiver: a piece of the round.</summary>
    RoundData = 8,

    /// <summary>Sender → receiver: the end-of-round marker.</summary>
    RoundEnd = 9,

    /// <summary>Receiver → sender: the round is buffered whole and verified.</summary>
    Complete = 10,

    /// <summary>Receiver → sender: the round is the standby's state now.</summary>
    Committed = 11,

    /// <summary>Either way: a normal end, and what it means for the guest.</summary>
    Goodbye = 12,

    /// <summary>Sender → receiver: the round begun is abandoned; nothing of it counts.</summary>
    RoundAbandon = 13,

    /// <summary>Receiver → sender: the standby took over and runs the guest, after a switchover.</summary>
    Promoted = 14,

    /// <summary>Sender → receiver: frames that the guest was given since the last cuts; played into it again after a promotion.</summary>
    Inbound = 15,

    /// <summary>Sender → receiver: the arbiter does not answer me; promise to take nothing over for a while.</summary>
    VouchAsk = 16,

    /// <summary>Receiver → sender: I promise it, from now on.</summary>
    Vouch = 17,

    /// <summary>Receiver → sender, before <see cref="Ready"/> and only for a guest with disks: what its replicas hold (JSON).</summary>
    Replicas = 18,
}
