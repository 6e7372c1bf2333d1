using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests;

/// <summary>Inputs and outputs of both machines in few words, for stories and for the histories of failing seeds.</summary>
internal static class Words
{
    public static string Of(SenderInput input) => input switch
    {
        SenderInput.Tick => "tick",
        SenderInput.GuestStarted => "guest started",
        SenderInput.Ready => "ready",
        SenderInput.LinkLost => "link lost",
        SenderInput.Refused refused => $"refused {refused.Code}",
        SenderInput.ReceiverLeft => "receiver left",
        SenderInput.Captured captured => $"captured {captured.Round}",
        SenderInput.CaptureFailed failed => $"capture failed {failed.Round}",
        SenderInput.Completed completed => $"completed {completed.Round}",
        SenderInput.Committed committed => $"committed {committed.Round}",
        SenderInput.Promoted promoted => $"promoted {promoted.Round}",
        SenderInput.GuestShutdown => "guest shut down",
        SenderInput.QemuCrashed => "QEMU crashed",
        SenderInput.RightLost => "right lost",
        SenderInput.RightBack => "right back",
        SenderInput.Stop => "stop",
        SenderInput.Switchover => "switchover",
        SenderInput.Retarget retarget => retarget.Force ? "retarget, forced" : "retarget",
        SenderInput.Retargeted retargeted => retargeted.Changed ? "retargeted" : "not retargeted",
        SenderInput.OutputWaits => "output waits",
        SenderInput.OutputFull => "output is full",
        _ => throw new ArgumentOutOfRangeException(nameof(input), input, "an input without words"),
    };

    public static string Of(SenderOutput output) => output switch
    {
        SenderOutput.Connect => "connect",
        SenderOutput.CloseLink => "close",
        SenderOutput.CaptureRound capture =>
            $"capture {capture.Begin.Round} {Kind(capture.Begin)}{(capture.Final ? " final" : "")}",
        SenderOutput.HoldOutput hold => $"hold from {hold.FirstRound}",
        SenderOutput.ReleaseOutput release => $"release {release.Round}",
        SenderOutput.ReleaseAllOutput => "release all",
        SenderOutput.StateChanged changed => $"state {changed.State}",
        SenderOutput.ResumeGuest => "resume guest",
        SenderOutput.RunGuest => "run guest",
        SenderOutput.ReleaseRight => "give right back",
        SenderOutput.WantRight => "want right",
        SenderOutput.SayGoodbye goodbye => $"goodbye {goodbye.Reason}",
        SenderOutput.SwitchoverFailed => "switchover failed",
        SenderOutput.LeaveStandby leave => leave.MustHear ? "leave standby that must hear" : "leave standby",
        SenderOutput.RetargetRefused refused => $"not retargeted: {refused.Why}",
        SenderOutput.End end => $"end {end.How}",
        _ => throw new ArgumentOutOfRangeException(nameof(output), output, "an output without words"),
    };

    public static string Of(ReceiverInput input) => input switch
    {
        ReceiverInput.Tick tick => $"tick, heard at {tick.LastHeard.TotalMilliseconds:0}",
        ReceiverInput.LinkUp => "link up",
        ReceiverInput.StandbyReady => "standby ready",
        ReceiverInput.StandbyFailed => "standby failed",
        ReceiverInput.RoundBegan began => $"began {began.Begin.Round} {Kind(began.Begin)}",
        ReceiverInput.RoundWhole whole => $"whole {whole.End.Round}{(whole.End.Final ? " final" : "")}",
        ReceiverInput.RoundAbandoned abandoned => $"abandoned {abandoned.Round}",
        ReceiverInput.CommitDone done => $"commit done {done.Round}",
        ReceiverInput.CommitFailed failed => $"commit failed {failed.Round}",
        ReceiverInput.Damaged damaged => $"damaged {damaged.Code}",
        ReceiverInput.LinkLost lost => lost.Silent ? "link silent" : "link lost",
        ReceiverInput.PeerRefused => "peer refused",
        ReceiverInput.PeerGoodbye goodbye => $"goodbye {goodbye.Reason}",
        ReceiverInput.PromoteAsked => "promote asked",
        ReceiverInput.VouchAsked asked => $"vouch asked {asked.Sequence}",
        ReceiverInput.RightTaken => "right taken",
        ReceiverInput.RightRefused refused => $"right refused {refused.Why}",
        ReceiverInput.EndAsked => "end asked",
        ReceiverInput.Fenced => "fenced",
        ReceiverInput.FenceFailed => "fence failed",
        ReceiverInput.PromotionDone => "promotion done",
        ReceiverInput.PromotionFailed => "promotion failed",
        ReceiverInput.GuestEnded => "guest ended",
        _ => throw new ArgumentOutOfRangeException(nameof(input), input, "an input without words"),
    };

    public static string Of(ReceiverOutput output) => output switch
    {
        ReceiverOutput.SendReady => "say ready",
        ReceiverOutput.Discard discard => $"discard {discard.Round}",
        ReceiverOutput.SendComplete complete => $"say complete {complete.Round}",
        ReceiverOutput.Commit commit => $"commit {commit.Round}",
        ReceiverOutput.SendCommitted committed => $"say committed {committed.Round}",
        ReceiverOutput.Refuse refuse => $"refuse {refuse.Code}",
        ReceiverOutput.CloseLink => "close",
        ReceiverOutput.SendVouch vouch => $"vouch {vouch.Sequence}",
        ReceiverOutput.TakeRight take => $"take right {take.Round}",
        ReceiverOutput.PromotionRefused => "promotion refused",
        ReceiverOutput.Promote promote => $"promote {promote.Round}",
        ReceiverOutput.SendPromoted promoted => $"say promoted {promoted.Round}",
        ReceiverOutput.StateChanged changed => $"state {changed.State}",
        ReceiverOutput.Held held => $"held {held.Round}",
        ReceiverOutput.LeftBehind behind => $"left behind {behind.Round}",
        ReceiverOutput.Release => "free",
        _ => throw new ArgumentOutOfRangeException(nameof(output), output, "an output without words"),
    };

    private static string Kind(RoundBegin begin) => begin.Kind switch
    {
        RoundKind.Full => "full",
        RoundKind.Base => "base",
        _ => $"on {begin.Parent}",
    };
}
