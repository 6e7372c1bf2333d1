using Curling.Replication.Receiver;
using Curling.Simulation.Receiver;
using Curling.Simulation.Sender;
using static Curling.Simulation.Checks.Rules;

namespace Curling.Simulation.Checks;

/// <summary>What must hold when everything has come to rest.</summary>
internal static class PairChecker
{
    public static void Final(PairWorld world)
    {
        SenderHost sender = world.Sender;
        Session? session = world.Receiver.Current;
        int guests = (sender.GuestRuns ? 1 : 0) + (session is { GuestRuns: true } ? 1 : 0);
        Check(guests <= 1, OneGuest, "the sender's guest runs on beside the promoted one");

        // Who has taken the right and cannot fence waits for the operator; the sender's guest must not run any more.
        bool waitsForFence = session is { Machine: { IsHeld: true, HasRight: true }, Checker.FenceFailed: true };
        if (!world.GuestMayEnd && !world.PrimaryDied && !waitsForFence)
        {
            Check(guests == 1, OneGuest, $"no guest is left, though nothing but the network failed (sender: {sender.Ended})");
        }

        bool held = session is { Machine.IsHeld: true }
            && (session.Checker.FenceFailed || session.Checker.LeftBehind || world.Options.OnSilence == FailureAction.Hold);

        // A guest that was started anew while this copy's lease had run out is the one that counts, and it may have died since.
        bool isOld = world.GenerationOfArbiter > (session?.Generation ?? long.MaxValue) && world.RaisedByASender;
        if (!world.GuestMayEnd && !held && !isOld && session is { Checker.Whole.Count: > 0 } && world.Options.OnFailure == FailureAction.Promote)
        {
            Check(guests == 1, OneGuest, "the primary is gone, the receiver held a whole round and did not promote");
        }

        if (session is { GuestRuns: true, Checker: { OperatorsRisk: false } checker } && !checker.Sender.Alive)
        {
            Check(
                checker.PromotedFrom >= checker.Sender.Checker.Released, NothingLost,
                $"the guest goes on from round {checker.PromotedFrom}, output up to round {checker.Sender.Checker.Released} had left");
        }
    }
}
