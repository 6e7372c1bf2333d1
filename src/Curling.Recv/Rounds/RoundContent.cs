using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Recv.Rounds;

/// <summary>What arrived of one round: a stream file for a full round, else the data frames as they came.</summary>
/// <remarks>
/// One owner at a time: the link's reader fills it, then the session commits or disposes it. Disposing gives every chunk
/// back and deletes the file.
/// </remarks>
internal sealed class RoundContent : IDisposable
{
    private readonly List<Chunk> _chunks;

    /// <summary>Creates the empty content of a round.</summary>
    /// <param name="begin">The round.</param>
    /// <param name="stream">The file of a full round.</param>
    /// <param name="chunks">A list to reuse, empty.</param>
    public RoundContent(RoundBegin begin, StreamFile? stream, List<Chunk> chunks)
    {
        Begin = begin;
        Stream = stream;
        _chunks = chunks;
    }

    /// <summary>The round.</summary>
    public RoundBegin Begin { get; }

    /// <summary>
    /// Whether memory goes straight into the standby as it arrives: right only while no round is committed, for then there is
    /// nothing that it could spoil, and a base round names every page.
    /// </summary>
    public bool GoesStraightIn { get; init; }

    /// <summary>The stream of a full round, until it is taken.</summary>
    public StreamFile? Stream { get; private set; }

    /// <summary>The data frames' payloads of a base or incremental round.</summary>
    public IReadOnlyList<Chunk> Chunks => _chunks;

    /// <summary>Where the frames lie in the prefetch file, for the journal.</summary>
    public IReadOnlyList<(int Index, int Length)> Places()
    {
        (int, int)[] places = new (int, int)[_chunks.Count];
        for (int i = 0; i < places.Length; i++)
        {
            places[i] = (_chunks[i].Index, _chunks[i].Length);
        }

        return places;
    }

    /// <summary>Adds a data frame's payload; the content owns it from now on.</summary>
    public void Add(Chunk chunk) => _chunks.Add(chunk);

    /// <summary>Takes the stream file over.</summary>
    public StreamFile TakeStream()
    {
        StreamFile stream = Stream ?? throw new InvalidOperationException($"round {Begin.Round} has no stream to take");
        Stream = null;
        return stream;
    }

    /// <summary>Gives everything back.</summary>
    /// <returns>The list, empty, for the next round.</returns>
    public List<Chunk> Release()
    {
        Stream?.Dispose();
        Stream = null;
        foreach (Chunk chunk in _chunks)
        {
            chunk.Return();
        }

        _chunks.Clear();
        return _chunks;
    }

    /// <inheritdoc/>
    public void Dispose() => Release();
}
