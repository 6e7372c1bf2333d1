using CsCheck;
using Curling.Protocol;
using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Replication.Tests;

/// <summary>Any inputs in any order, sensible or not: no machine throws, and what must never happen does not.</summary>
public sealed class AnyInputsTests
{
    private static readonly Gen<SenderInput> SenderInputs = Gen.OneOf<SenderInput>(
        Gen.Const<SenderInput>(SenderInput.Tick.Instance),
        Gen.Const<SenderInput>(new SenderInput.GuestStarted()),
        Gen.Const<SenderInput>(new SenderInput.Ready()),
        Gen.Const<SenderInput>(new SenderInput.LinkLost("lost")),
        Gen.Enum<RefusalCode>().Select(c => (SenderInput)new SenderInput.Refused(c, "no")),
        Gen.Long[-1, 12].Select(r => (SenderInput)new SenderInput.Captured(r)),
        Gen.Long[-1, 12].Select(r => (SenderInput)new SenderInput.CaptureFailed(r, "failed")),
        Gen.Long[-1, 12].Select(r => (SenderInput)new SenderInput.Completed(r)),
        Gen.Long[-1, 12].Select(r => (SenderInput)new SenderInput.Committed(r)),
        Gen.Long[-1, 12].Select(r => (SenderInput)new SenderInput.Promoted(r)),
        Gen.Const<SenderInput>(new SenderInput.RightLost("run out")),
        Gen.Const<SenderInput>(new SenderInput.RightBack()),
        Gen.Const<SenderInput>(new SenderInput.Switchover()),
        Gen.Bool.Select(f => (SenderInput)new SenderInput.Retarget("another", f)),
        Gen.Bool.Select(c => (SenderInput)new SenderInput.Retargeted(c)));

    private static readonly Gen<ReceiverInput> ReceiverInputs = Gen.OneOf<ReceiverInput>(
        Gen.Int[0, 2_000].Select(ms => (ReceiverInput)new ReceiverInput.Tick(TimeSpan.FromMilliseconds(ms))),
        Gen.Const<ReceiverInput>(new ReceiverInput.LinkUp()),
        Gen.Const<ReceiverInput>(new ReceiverInput.StandbyReady()),
        Gen.Select(Gen.Long[1, 6], Gen.Enum<RoundKind>()).Select((r, k) =>
            (ReceiverInput)new ReceiverInput.RoundBegan(new RoundBegin(r, k == RoundKind.Incremental ? r - 1 : 0, k, 0))),
        Gen.Select(Gen.Long[1, 6], Gen.Bool).Select((r, f) =>
            (ReceiverInput)new ReceiverInput.RoundWhole(new RoundEnd(r, f, 0, default, default))),
        Gen.Long[1, 6].Select(r => (ReceiverInput)new ReceiverInput.RoundAbandoned(r)),
        Gen.Long[1, 6].Select(r => (ReceiverInput)new ReceiverInput.CommitDone(r)),
        Gen.Enum<RefusalCode>().Select(c => (ReceiverInput)new ReceiverInput.Damaged(c, "damaged")),
        Gen.Const<ReceiverInput>(new ReceiverInput.LinkLost("lost")),
        Gen.Enum<GoodbyeReason>().Select(r => (ReceiverInput)new ReceiverInput.PeerGoodbye(r, "bye")),
        Gen.Const<ReceiverInput>(new ReceiverInput.PromoteAsked()),
        Gen.Int[1, 400].Select(ms => (ReceiverInput)new ReceiverInput.VouchAsked(1, TimeSpan.FromMilliseconds(ms))),
        Gen.Const<ReceiverInput>(new ReceiverInput.RightTaken()),
        Gen.Enum<RightRefusal>().Select(w => (ReceiverInput)new ReceiverInput.RightRefused(w, "no")),
        Gen.Const<ReceiverInput>(new ReceiverInput.PromotionDone()),
        Gen.Const<ReceiverInput>(new ReceiverInput.PromotionFailed("failed")),
        Gen.Const<ReceiverInput>(new ReceiverInput.GuestEnded("ended")));

    [Fact]
    public void A_sender_told_anything()
    {
        Gen.Select(Gen.Int[1, 4], Gen.Bool, SenderInputs.Array[1, 60]).Sample((inFlight, arbitrated, inputs) =>
        {
            SenderMachine machine = new(new SenderSettings(true, inFlight, TimeSpan.FromMilliseconds(5), TimeSpan.FromMilliseconds(20))
            {
                Arbitrated = arbitrated,
            });
            long released = 0;
            long begun = 0;
            int now = 0;
            bool ended = false;
            bool right = true;
            foreach (SenderInput input in inputs.Prepend(new SenderInput.GuestStarted()))
            {
                right = input is SenderInput.RightBack || (right && input is not SenderInput.RightLost);
                foreach (SenderOutput output in machine.Step(input, TimeSpan.FromMilliseconds(now += 10)))
                {
                    Assert.False(ended, $"{Words.Of(output)} after the end");
                    switch (output)
                    {
                        case SenderOutput.ReleaseOutput release:
                            Assert.True(input is SenderInput.Completed completed && completed.Round == release.Round);
                            Assert.InRange(release.Round, released + 1, begun);
                            released = release.Round;
                            break;
                        case SenderOutput.CaptureRound capture:
                            Assert.Equal(++begun, capture.Begin.Round);
                            Assert.False(capture.Final && machine.State != SenderState.Protected);
                            Assert.True(right);
                            break;
                        case SenderOutput.ReleaseRight:
                            Assert.True(arbitrated);
                            right = false;
                            break;
                        case SenderOutput.RunGuest:
                            Assert.True(right);
                            break;
                        case SenderOutput.End:
                            ended = true;
                            break;
                    }
                }

                Assert.InRange(machine.CommittedRound, 0, released);
                Assert.Equal(ended, machine.State == SenderState.Ended);
            }
        }, iter: 20_000, print: t => string.Join(", ", t.Item3.Select(Words.Of)));
    }

    [Fact]
    public void A_receiver_told_anything()
    {
        Gen.Select(Gen.Enum<FailureAction>(), Gen.Bool, ReceiverInputs.Array[1, 60]).Sample((onFailure, arbitrated, inputs) =>
        {
            ReceiverMachine machine = new(new ReceiverSettings(onFailure, TimeSpan.FromMilliseconds(100))
            {
                RightTtl = arbitrated ? TimeSpan.FromMilliseconds(200) : null,
            });
            Queue<long> whole = new();
            long committing = 0;
            long committed = 0;
            int now = 0;
            int promotions = 0;
            bool over = false;
            bool taking = false;
            bool right = !arbitrated;
            long final = 0;
            int vouchedUntil = 0;
            foreach (ReceiverInput input in inputs.Prepend(new ReceiverInput.LinkUp()).Prepend(new ReceiverInput.StandbyReady()))
            {
                if (input is ReceiverInput.CommitDone done && done.Round == committing && !over)
                {
                    (committed, committing) = (committing, 0);
                }

                if (taking && input is ReceiverInput.RightTaken or ReceiverInput.RightRefused)
                {
                    right |= taking && input is ReceiverInput.RightTaken;
                    taking = false;
                }

                if (input is ReceiverInput.PeerGoodbye { Reason: GoodbyeReason.QemuCrashed }
                    || (input is ReceiverInput.CommitDone && final != 0 && committed == final))
                {
                    // The guest does not run at the primary: at once, or after its last round.
                    vouchedUntil = 0;
                }

                foreach (ReceiverOutput output in machine.Step(input, TimeSpan.FromMilliseconds(now += 20)))
                {
                    Assert.False(over, $"{Words.Of(output)} after the end");
                    switch (output)
                    {
                        case ReceiverOutput.SendComplete complete:
                            whole.Enqueue(complete.Round);
                            final = input is ReceiverInput.RoundWhole { End.Final: true } ? complete.Round : final;
                            break;
                        case ReceiverOutput.Commit commit:
                            Assert.Equal(0, committing);
                            Assert.Equal(whole.Dequeue(), commit.Round);
                            Assert.True(commit.Round > committed);
                            committing = commit.Round;
                            break;
                        case ReceiverOutput.TakeRight:
                            Assert.False(taking || right);
                            taking = true;
                            break;
                        case ReceiverOutput.SendVouch vouch:
                            Assert.False(taking || right || machine.State >= ReceiverState.Promoting);
                            vouchedUntil = Math.Max(vouchedUntil, now + (int)vouch.Time.TotalMilliseconds);
                            break;
                        case ReceiverOutput.Promote promote:
                            Assert.True(right);
                            Assert.True(now >= vouchedUntil);
                            Assert.Equal(1, ++promotions);
                            Assert.Equal(0, committing);
                            Assert.Empty(whole);
                            Assert.Equal(committed, promote.Round);
                            Assert.True(promote.Round > 0);
                            break;
                        case ReceiverOutput.Release:
                            over = true;
                            break;
                    }
                }

                Assert.Equal(committed, machine.CommittedRound);
                Assert.Equal(over, machine.IsOver);
            }
        }, iter: 20_000, print: t => string.Join(", ", t.Item3.Select(Words.Of)));
    }
}
