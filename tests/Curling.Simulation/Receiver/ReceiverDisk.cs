using System.IO.Hashing;
using Curling.Hosting.Transport;
using Curling.Protocol;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;
using Curling.Simulation.Guest;

namespace Curling.Simulation.Receiver;

/// <summary>
/// What a session of the receiver has in the memory filesystem: the standby's memory, the journal's two slots, the two files of device
/// state, the streams of full rounds and the prefetch buffer. It outlives the process, not the host; a write that the process's death
/// interrupts leaves a part of itself.
/// </summary>
internal sealed class ReceiverDisk : IStandbyBlock
{
    private const int Chunks = 256;
    private static readonly int SlotBytes = JournalRecord.MaxBytes(Chunks);
    private readonly byte[]?[] _slots = new byte[2][];
    private readonly byte[]?[] _device = new byte[2][];
    private readonly SortedDictionary<string, byte[]> _streams = [];
    private readonly SortedDictionary<int, byte[]> _prefetch = [];
    private readonly IStandbyBlock[] _blocks;
    private long _sequence;
    private int _current;
    private string? _stream;
    private int _names;

    public ReceiverDisk(string sender)
    {
        Sender = sender;
        _blocks = [this];
    }

    /// <summary>Whose session it is.</summary>
    public string Sender { get; }

    /// <summary>A later process finds it; not so once the guest runs here or never will again.</summary>
    public bool IsRecorded { get; set; } = true;

    public byte[] Memory { get; } = new byte[SimulatedGuest.MemoryBytes];

    public long Pages => SimulatedGuest.Pages;

    public void Write(long firstPage, ReadOnlySpan<byte> content) => content.CopyTo(Memory.AsSpan((int)firstPage * ProtocolLimits.PageBytes));

    public void Clear(long firstPage, int pages) =>
        Memory.AsSpan((int)firstPage * ProtocolLimits.PageBytes, pages * ProtocolLimits.PageBytes).Clear();

    public void Patch(long page, int offset, ReadOnlySpan<byte> bytes) =>
        bytes.CopyTo(Memory.AsSpan(((int)page * ProtocolLimits.PageBytes) + offset));

    public bool TryRead(long firstPage, Span<byte> destination)
    {
        Memory.AsSpan((int)firstPage * ProtocolLimits.PageBytes, destination.Length).CopyTo(destination);
        return true;
    }

    /// <summary>Keeps a frame in the prefetch buffer.</summary>
    /// <returns>Its place.</returns>
    public int Keep(byte[] payload)
    {
        int index = 0;
        while (_prefetch.ContainsKey(index))
        {
            index++;
        }

        _prefetch[index] = payload;
        return index;
    }

    public ReadOnlySpan<byte> Kept(int index) => _prefetch[index];

    public void GiveBack(int index) => _prefetch.Remove(index);

    /// <summary>Begins the stream of a full round.</summary>
    public string NewStream()
    {
        string name = $"round-{_names++}";
        _streams[name] = [];
        return name;
    }

    public void Append(string stream, ReadOnlySpan<byte> bytes) => _streams[stream] = [.. _streams[stream], .. bytes];

    public int LengthOf(string stream) => _streams[stream].Length;

    public void DeleteStream(string stream) => _streams.Remove(stream);

    /// <summary>Puts a memory frame where it belongs.</summary>
    /// <param name="payload">The frame.</param>
    /// <param name="upTo">The share of the memory, in percent, that is written before the process dies.</param>
    public void Apply(ReadOnlySpan<byte> payload, int upTo = 100)
    {
        if (upTo == 100)
        {
            RoundApplier.ApplyMemory(payload, _blocks);
            return;
        }

        byte[] before = [.. Memory];
        RoundApplier.ApplyMemory(payload, _blocks);
        int reached = (int)((long)Memory.Length * upTo / 100);
        before.AsSpan(reached).CopyTo(Memory.AsSpan(reached));
    }

    /// <summary>Writes the device state beside the one that counts.</summary>
    /// <param name="content">The state.</param>
    /// <param name="record">What the journal is to say.</param>
    /// <param name="upTo">The share that is written before the process dies, in percent.</param>
    public JournalRecord WriteDevice(ReadOnlySpan<byte> content, JournalRecord record, int upTo = 100)
    {
        int next = 1 - _current;
        _device[next] = content[..(content.Length * upTo / 100)].ToArray();
        return record with { StateFile = NameOf(next), StateLength = content.Length, StateHash = XxHash3.HashToUInt64(content) };
    }

    /// <summary>What was written last becomes the device state.</summary>
    public void UseDevice()
    {
        _current = 1 - _current;
        UseStream(null);
    }

    /// <summary>A stream becomes the state; the one before is deleted.</summary>
    public void UseStream(string? stream)
    {
        if (_stream is { } old)
        {
            _streams.Remove(old);
        }

        _stream = stream;
    }

    /// <summary>Writes a record into the journal's next slot.</summary>
    /// <param name="record">The record.</param>
    /// <param name="upTo">The share that is written before the process dies, in percent.</param>
    public void Journal(JournalRecord record, int upTo = 100)
    {
        long sequence = _sequence + 1;
        byte[] bytes = new byte[SlotBytes];
        int length = (record with { Sequence = sequence }).Write(bytes);
        byte[] slot = _slots[sequence % 2] ??= new byte[SlotBytes];
        bytes.AsSpan(0, length * upTo / 100).CopyTo(slot);
        _sequence = upTo == 100 ? sequence : _sequence;
    }

    /// <summary>Finds the round that an earlier process left, in the steps of the real receiver; null when none was ever committed.</summary>
    /// <param name="diesAfter">Frames after which this process dies too, or a large number.</param>
    /// <exception cref="IOException">What is there does not fit together.</exception>
    public JournalRecord? Replay(int diesAfter)
    {
        JournalRecord? last = null;
        foreach (byte[]? slot in _slots)
        {
            if (JournalRecord.TryRead(slot ?? [], Chunks, DataFrame.ChunkBytes) is { } record && (last is null || record.Sequence > last.Sequence))
            {
                last = record;
            }
        }

        _sequence = last?.Sequence ?? 0;
        if (last is null)
        {
            return null;
        }

        foreach ((int index, int length) in last.ToApply)
        {
            if (diesAfter-- == 0)
            {
                Apply(Kept(index)[..length], upTo: 50);
                return last;
            }

            ReadOnlySpan<byte> payload = Kept(index)[..length];
            DataPrefix prefix = DataPrefix.Read(payload);
            if (prefix.Section == SectionKind.Memory)
            {
                MemoryRun.Check(payload, prefix, Pages);
                Apply(payload);
            }
        }

        if (last.ToApply.Count > 0)
        {
            last = last with { ToApply = [] };
            Journal(last);
        }

        Restore(last);
        _prefetch.Clear();
        foreach (string other in _streams.Keys.Where(s => s != last.StateFile).ToArray())
        {
            _streams.Remove(other);
        }

        return last;
    }

    /// <summary>What a promotion starts the guest from: its memory and its device state.</summary>
    public (byte[] Memory, byte[] Device) State()
    {
        if (_stream is { } stream)
        {
            byte[] all = _streams[stream];
            int memory = Math.Min(all.Length, SimulatedGuest.MemoryBytes);
            return (all[..memory], all[memory..]);
        }

        return ([.. Memory], _device[_current] ?? []);
    }

    private static string NameOf(int device) => $"device-{device}";

    private void Restore(JournalRecord record)
    {
        if (record.Kind == RoundKind.Full)
        {
            if (!_streams.TryGetValue(record.StateFile, out byte[]? stream) || stream.Length != record.StateLength)
            {
                throw new IOException($"{record.StateFile} has {stream?.Length} bytes, the journal says {record.StateLength}");
            }

            _stream = record.StateFile;
            return;
        }

        _stream = null;
        _current = record.StateFile == NameOf(1) ? 1 : 0;
        if (_device[_current] is not { } device || XxHash3.HashToUInt64(device) != record.StateHash)
        {
            throw new IOException($"{record.StateFile} is not what the journal says");
        }
    }
}
