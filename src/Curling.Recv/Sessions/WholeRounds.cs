using Curling.Protocol;

namespace Curling.Recv.Sessions;

/// <summary>Rounds that are whole and wait to be committed, in the order in which they became whole.</summary>
/// <param name="discard">Gives the content of a round back that is never committed.</param>
/// <remarks>Safe to use from several threads: links' readers add, the session's loop takes and drops.</remarks>
internal sealed class WholeRounds<TContent>(Action<TContent> discard)
{
    private readonly Lock _lock = new();
    private readonly LinkedList<(TContent Content, RoundEnd End)> _rounds = [];

    /// <summary>Adds a round, which is owned from now on.</summary>
    public void Add(TContent content, RoundEnd end)
    {
        lock (_lock)
        {
            _rounds.AddLast((content, end));
        }
    }

    /// <summary>Takes the oldest round, which must be the one that is to be committed; it is the caller's from now on.</summary>
    /// <exception cref="InvalidOperationException">Another round stands first, or none.</exception>
    public (TContent Content, RoundEnd End) Take(long round)
    {
        lock (_lock)
        {
            if (_rounds.First is not { } first || first.Value.End.Round != round)
            {
                throw new InvalidOperationException($"round {round} is to be committed, but another stands first");
            }

            _rounds.RemoveFirst();
            return first.Value;
        }
    }

    /// <summary>Discards a round that does not count, if it is the oldest.</summary>
    public void Drop(long round)
    {
        lock (_lock)
        {
            if (_rounds.First is { } first && first.Value.End.Round == round)
            {
                _rounds.RemoveFirst();
                discard(first.Value.Content);
            }
        }
    }
}
