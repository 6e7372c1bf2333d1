namespace Curling.Protocol;

/// <summary>
/// Follows the frames of a round as they arrive and says at the end whether the round is whole: the same counts, the same
/// digest, in order. It holds no content. Shared by the receiver and by tests that play one.
/// </summary>
/// <remarks>Not thread-safe; one round at a time.</remarks>
public sealed class RoundAssembler
{
    private readonly RoundDigest _digest = new();
    private RoundBegin? _begin;
    private RoundCounts _counts;

    /// <summary>The round being assembled, or null between rounds.</summary>
    public RoundBegin? Current => _begin;

    /// <summary>What has arrived of it.</summary>
    public RoundCounts Counts => _counts;

    /// <summary>Starts a round.</summary>
    /// <exception cref="ProtocolException">Another round has not ended.</exception>
    public RoundBegin Begin(FrameHeader header, ReadOnlySpan<byte> payload)
    {
        RoundBegin begin = RoundBegin.Read(payload);
        if (_begin is { } open)
        {
            throw new ProtocolException(ProtocolError.Order, $"round {begin.Round} begins inside round {open.Round}");
        }

        _begin = begin;
        _counts = default;
        _digest.Reset();
        _digest.Add(header.Type, header.PayloadLength, header.PayloadHash);
        return begin;
    }

    /// <summary>Takes in a data frame whose runs, if it has any, were checked and cover <paramref name="pages"/> pages.</summary>
    /// <exception cref="ProtocolException">No round is open, or the section has no place in it.</exception>
    public void Data(FrameHeader header, DataPrefix prefix, long pages)
    {
        if (_begin is not { } begin)
        {
            throw new ProtocolException(ProtocolError.Order, "a data frame came outside a round");
        }

        if (prefix.Section != SectionKind.Disk && (begin.Kind == RoundKind.Full) != (prefix.Section == SectionKind.Stream))
        {
            throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {prefix.Section} section came in a {begin.Kind} round");
        }

        int content = header.PayloadLength - DataPrefix.Bytes - (prefix.Runs * MemoryRun.Bytes);
        _counts = _counts.Plus(prefix.Section, content, pages);
        _digest.Add(header.Type, header.PayloadLength, header.PayloadHash);
    }

    /// <summary>Ends the round: everything the marker says must be what arrived.</summary>
    /// <exception cref="ProtocolException">The round is not whole.</exception>
    public RoundEnd End(ReadOnlySpan<byte> payload)
    {
        RoundEnd end = RoundEnd.Read(payload);
        if (_begin is not { } begin || begin.Round != end.Round)
        {
            throw new ProtocolException(
                ProtocolError.Order, $"the end of round {end.Round} came in {(_begin is { } b ? $"round {b.Round}" : "no round")}");
        }

        if (end.Counts != _counts)
        {
            throw new ProtocolException(
                ProtocolError.DamagedRound, $"round {end.Round} should hold {end.Counts}, but {_counts} arrived");
        }

        if (end.Digest != _digest.Current)
        {
            throw new ProtocolException(ProtocolError.DamagedRound, $"round {end.Round} does not match its digest");
        }

        if (_counts.StreamBytes + _counts.DeviceBytes == 0)
        {
            throw new ProtocolException(ProtocolError.DamagedRound, $"round {end.Round} holds no device state");
        }

        _begin = null;
        return end;
    }

    /// <summary>Forgets the round that is open, if any.</summary>
    public void Abandon() => _begin = null;
}
