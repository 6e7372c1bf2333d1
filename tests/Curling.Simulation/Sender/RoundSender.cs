using Curling.Hosting.Pages;
using Curling.Protocol;
using Curling.Simulation.Guest;
using Curling.Simulation.Network;

namespace Curling.Simulation.Sender;

/// <summary>
/// Writes one round to a connection with the real encoder, counts and digest. When things go wrong, a frame is lost, doubled or changed
/// between the digest and the wire, as a fault of the sender's host would do it: only the digest can tell.
/// </summary>
internal sealed class RoundSender(PairWorld world, FrameWriter writer, PageEncoder? encoder, RoundBegin begin)
{
    private const int PagesPerFrame = 3;
    private readonly RoundDigest _digest = new();
    private RoundCounts _counts;

    public void Begin()
    {
        Span<byte> payload = stackalloc byte[RoundBegin.Bytes];
        begin.Write(payload);
        _digest.Add(FrameType.RoundBegin, payload.Length, FrameHeader.HashOf(payload));
        writer.Send(FrameType.RoundBegin, payload);
    }

    /// <summary>Sends pages as they are now.</summary>
    public void Pages(SimulatedGuest guest, List<int> pages)
    {
        for (int i = 0; i < pages.Count; i += PagesPerFrame)
        {
            List<int> some = pages.GetRange(i, Math.Min(PagesPerFrame, pages.Count - i));
            byte[] raw = new byte[DataPrefix.Bytes + (some.Count * (ProtocolLimits.PageBytes + MemoryRun.Bytes))];
            int at = DataPrefix.Bytes;
            List<MemoryRun> runs = [];
            foreach (int page in some)
            {
                ReadOnlySpan<byte> content = guest.Memory.AsSpan(page * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes);
                bool zero = !content.ContainsAnyExcept((byte)0);
                runs.Add(new MemoryRun(page, 1, zero ? PageEncoding.Zero : PageEncoding.Raw, zero ? 0 : ProtocolLimits.PageBytes));
                if (!zero)
                {
                    content.CopyTo(raw.AsSpan(at));
                    at += content.Length;
                }
            }

            foreach (MemoryRun run in runs)
            {
                run.Write(raw.AsSpan(at));
                at += MemoryRun.Bytes;
            }

            new DataPrefix(SectionKind.Memory, 0, runs.Count).Write(raw);
            byte[] payload = raw.AsSpan(0, at).ToArray();
            if (encoder is not null)
            {
                byte[] encoded = new byte[ProtocolLimits.MaxContentBytes / 8];
                int length = encoder.Encode(payload, world.Options.Compression, deltas: true, encoded);
                payload = encoded.AsSpan(0, length).ToArray();
            }

            Data(payload, some.Count);
        }
    }

    /// <summary>Sends the device state, or the whole of a full round.</summary>
    public void Content(SectionKind section, ReadOnlySpan<byte> content)
    {
        int piece = section == SectionKind.Stream ? 2 * ProtocolLimits.PageBytes : 32;
        for (; !content.IsEmpty; content = content[Math.Min(piece, content.Length)..])
        {
            byte[] payload = new byte[DataPrefix.Bytes + Math.Min(piece, content.Length)];
            new DataPrefix(section, 0, 0).Write(payload);
            content[..(payload.Length - DataPrefix.Bytes)].CopyTo(payload.AsSpan(DataPrefix.Bytes));
            Data(payload, 0);
        }
    }

    /// <summary>Ends the round.</summary>
    public void End(bool final)
    {
        Span<byte> payload = stackalloc byte[RoundEnd.Bytes];
        new RoundEnd(begin.Round, final, 0, _counts, _digest.Current).Write(payload);
        writer.Send(FrameType.RoundEnd, payload);
    }

    private void Data(byte[] payload, int pages)
    {
        DataPrefix prefix = DataPrefix.Read(payload);
        _counts = _counts.Plus(prefix.Section, payload.Length - DataPrefix.Bytes - (prefix.Runs * MemoryRun.Bytes), pages);
        _digest.Add(FrameType.RoundData, payload.Length, FrameHeader.HashOf(payload));
        if (world.Options.SpoiltFrames > 0 && world.Faulty && world.History.Chance(world.Options.SpoiltFrames))
        {
            Spoil(payload);
        }
        else
        {
            writer.Send(FrameType.RoundData, payload);
        }
    }

    private void Spoil(byte[] payload)
    {
        switch (world.History.Between(0, 2))
        {
            case 0:
                world.History.Note("sender", $"SPOILT: a frame of round {begin.Round} is not sent");
                break;
            case 1:
                world.History.Note("sender", $"SPOILT: a frame of round {begin.Round} is sent twice");
                writer.Send(FrameType.RoundData, payload);
                writer.Send(FrameType.RoundData, payload);
                break;
            default:
                world.History.Note("sender", $"SPOILT: a frame of round {begin.Round} is changed");
                payload[world.History.Between(DataPrefix.Bytes, payload.Length - 1)] ^= 0x10;
                writer.Send(FrameType.RoundData, payload);
                break;
        }
    }
}
