using System.Text.Json;
using System.Threading.Channels;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Replication.Sender;
using Curling.Send;
using Curling.Send.Capture;
using Curling.Send.Links;

namespace Curling.Pair.Tests;

/// <summary>What a guest was at the cut of a round.</summary>
internal sealed record Snapshot(byte[] Memory, byte[] State);

/// <summary>
/// A sender without QEMU: a piece of memory that changes, captured and sent through the product's own frames, line and
/// handshake. It remembers what every round was, so that a test can tell whether what was committed is one of them.
/// </summary>
internal sealed class PlayedSender : IPageSource, IAsyncDisposable
{
    public const int GuestPages = 256;
    private readonly byte[] _memory = new byte[GuestPages * ProtocolLimits.PageBytes];
    private readonly ChunkPool _pool = new(DataFrame.ChunkBytes, 8L * DataFrame.ChunkBytes);
    private readonly MemoryFrames _frames = new();
    private readonly Random _random;
    private readonly string _name;
    private readonly bool _full;
    private readonly string _sender = Guid.NewGuid().ToString("N");
    private long _round;

    public PlayedSender(string name, bool full, Random random)
    {
        _name = name;
        _full = full;
        _random = random;
        random.NextBytes(_memory.AsSpan(0, 40 * ProtocolLimits.PageBytes));
    }

    public Dictionary<long, Snapshot> Rounds { get; } = [];

    public long LastCompleted { get; private set; }

    public long LastCommitted { get; private set; }

    public List<string> Reasons { get; } = [];

    public int RentedChunks => _pool.RentedChunks;

    /// <summary>Connects once and sends rounds until enough are committed or the link is lost.</summary>
    /// <returns>Whether enough were committed.</returns>
    public async Task<bool> LiveAsync(int port, int rounds, CancellationToken cancellation)
    {
        ReceiverLink link;
        try
        {
            link = await ConnectAsync(port, cancellation);
        }
        catch (Exception e) when (e is IOException or ProtocolException or RefusedException)
        {
            Reasons.Add(e.Message);
            return false;
        }

        await using (link)
        {
            Channel<SenderInput> inputs = Channel.CreateUnbounded<SenderInput>();
            Task reading = link.RunAsync(input => inputs.Writer.TryWrite(input));
            bool first = true;
            for (int i = 0; i < rounds; i++)
            {
                long round = ++_round;
                try
                {
                    Capture(link.Rounds, round, first);
                }
                catch (OperationCanceledException)
                {
                    _frames.Drop();
                    Reasons.Add("the line to the link is closed");
                    return false;
                }

                first = false;
                while (LastCommitted < round)
                {
                    switch (await inputs.Reader.ReadAsync(cancellation))
                    {
                        case SenderInput.Completed completed:
                            Assert.Equal(round, completed.Round);
                            LastCompleted = completed.Round;
                            break;
                        case SenderInput.Committed committed:
                            Assert.Equal(LastCompleted, committed.Round);
                            LastCommitted = committed.Round;
                            break;
                        case SenderInput.LinkLost lost:
                            Reasons.Add(lost.Reason);
                            return false;
                        case SenderInput.Refused refused:
                            Reasons.Add(refused.Reason);
                            return false;
                    }
                }
            }

            return true;
        }
    }

    public void Read(long firstPage, Span<byte> destination) =>
        _memory.AsSpan((int)(firstPage * ProtocolLimits.PageBytes), destination.Length).CopyTo(destination);

    public ValueTask DisposeAsync()
    {
        _pool.Dispose();
        return ValueTask.CompletedTask;
    }

    private async Task<ReceiverLink> ConnectAsync(int port, CancellationToken cancellation)
    {
        GuestDefinition guest = new() { Name = _name, MemoryBytes = _memory.Length, Accelerator = "tcg" };
        using JsonDocument json = JsonDocument.Parse(GuestDefinitionReader.Serialize(guest));
        Hello hello = new(
            _sender, 1, json.RootElement, "pc-q35-7.2", "tcg", "7.2.0", [Handshake.Full, Handshake.Incremental], [],
            _full ? [] : [new HelloBlock("ram", _memory.Length)]);
        SenderOptions options = new(
            new Endpoint("127.0.0.1", port), ByteRate.Max, null, RoundChoice.Auto, null, 0.05, 1, TimeSpan.FromMilliseconds(400), null, null);
        return await ReceiverLink.ConnectAsync(
            options, hello, [], _pool, 4L * DataFrame.ChunkBytes, TimeProvider.System, cancellation);
    }

    private void Capture(RoundWriter rounds, long round, bool first)
    {
        int from = _random.Next(0, GuestPages - 20);
        int count = _random.Next(1, 20);
        _random.NextBytes(_memory.AsSpan(from * ProtocolLimits.PageBytes, count * ProtocolLimits.PageBytes));
        _memory.AsSpan(from * ProtocolLimits.PageBytes, ProtocolLimits.PageBytes).Clear();
        byte[] state = new byte[_random.Next(1, 3000)];
        _random.NextBytes(state);
        if (_full)
        {
            state = [.. state, .. _memory];
        }

        Rounds[round] = new Snapshot((byte[])_memory.Clone(), state);
        RoundKind kind = _full ? RoundKind.Full : first ? RoundKind.Base : RoundKind.Incremental;
        rounds.Begin(new RoundBegin(round, kind == RoundKind.Incremental ? round - 1 : 0, kind, 0));
        if (!_full)
        {
            _frames.Start(rounds);
            _frames.Add(0, this, kind == RoundKind.Base ? 0 : from, kind == RoundKind.Base ? GuestPages : count);
            _frames.Flush();
        }

        bool waited = false;
        for (int at = 0; at < state.Length;)
        {
            int now = Math.Min(state.Length - at, ProtocolLimits.MaxContentBytes);
            Chunk chunk = rounds.Rent(ref waited);
            new DataPrefix(_full ? SectionKind.Stream : SectionKind.DeviceState, 0, 0).Write(chunk.Span[DataFrame.PayloadAt..]);
            state.AsSpan(at, now).CopyTo(chunk.Span[DataFrame.ContentAt..]);
            chunk.Length = DataPrefix.Bytes + now;
            rounds.Data(chunk, 0);
            at += now;
        }

        rounds.End(round, final: false, 0);
    }
}
