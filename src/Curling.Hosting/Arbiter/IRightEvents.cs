namespace Curling.Hosting.Arbiter;

/// <summary>What a daemon hears of its right to run a guest.</summary>
public interface IRightEvents
{
    /// <summary>
    /// The right has run out: stop the guest now. Nothing leaves any more. Called on the keeper's own thread, which waits for it.
    /// </summary>
    void RightLost(string reason);

    /// <summary>The right is there again. Called on the keeper's own thread, after <see cref="RightLost"/> has returned.</summary>
    void RightBack();

    /// <summary>The guest is another's for good: it must never run here again. Called on any thread; it must not block.</summary>
    void Superseded(string reason);

    /// <summary>The arbiter does not answer: ask the peer to promise that it takes nothing over. Must not block.</summary>
    /// <param name="sequence">A number that the answer repeats.</param>
    /// <param name="time">For how long.</param>
    void AskVouch(long sequence, TimeSpan time);
}
