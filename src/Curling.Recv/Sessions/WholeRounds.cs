using Curling.Protocol;

namespace Curling.Recv.Sessions;

/// <summary>Rounds that are whole and wait to be committed, in the order in which they became whole.</summary>
/// <param name="discard">Gives the content of a round back that is never committed.</param>
/// <remarks>Safe to use from several threads: links' readers add, the session's loop takes and drops.</remarks>
internal sealed class WholeRounds<TContent>(Action<TContent> discard)
{
    private readonly Lock _lock = new();
    private readonly List<(TContent Content, RoundEnd End)> _rounds = [];

    /// <summary>Adds a round, which is owned from now on.</summary>
    public void Add(TContent content, RoundEnd end)
    {
        lock (_lock)
        {
            _rounds.Add((content, end));
        }
    }

    /// <summary>Takes the oldest round, which must be the one that is to be committed; it is the caller's from now on.</summary>
    /// <exception cref="InvalidOperationException">Another round stands first, or none.</exception>
    public (TContent Content, RoundEnd End) Take(long round)
    {
        lock (_lock)
        {
            if (_rounds.Count == 0 || _rounds[0].End.Round != round)
            {
                throw new InvalidOperationException($"round {round} is to be committed, but another stands first");
            }

            (TContent Content, RoundEnd End) first = _rounds[0];
            _rounds.RemoveAt(0);
            return first;
        }
    }

    /// <summary>
    /// Discards a round that does not count, wherever it stands: a connection that was given up may have brought it while rounds before it
    /// still wait.
    /// </summary>
    public void Drop(long round)
    {
        lock (_lock)
        {
            int at = _rounds.FindIndex(r => r.End.Round == round);
            if (at >= 0)
            {
                TContent content = _rounds[at].Content;
                _rounds.RemoveAt(at);
                discard(content);
            }
        }
    }

    /// <summary>Discards everything.</summary>
    public void Clear()
    {
        lock (_lock)
        {
            foreach ((TContent content, RoundEnd _) in _rounds)
            {
                discard(content);
            }

            _rounds.Clear();
        }
    }
}
