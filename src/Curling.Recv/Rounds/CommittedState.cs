using System.IO.Hashing;
using Curling.Hosting.Control;
using Curling.Linux.Memory;
using Curling.Protocol;
using Microsoft.Win32.SafeHandles;

namespace Curling.Recv.Rounds;

/// <summary>What the standby is started from: the stream of a full round, or the device state beside its memory.</summary>
/// <remarks>
/// The session's commits write it one after the other; a promotion reads it when no commit is under way. It lies in files of the
/// memory filesystem, two in turn, so that the state before stays whole until the journal names the next. Disposing deletes the
/// stream of a full round; the directory's owner deletes the rest.
/// </remarks>
internal sealed class CommittedState : IDisposable
{
    private readonly string _directory;
    private readonly SafeFileHandle?[] _device = new SafeFileHandle?[2];
    private readonly XxHash3 _hash = new();
    private StreamFile? _stream;
    private int _current;
    private long _length;

    /// <summary>Creates an empty state.</summary>
    /// <param name="directory">Where its files are to be.</param>
    public CommittedState(string directory)
    {
        _directory = directory;
    }

    /// <summary>When the last round was committed.</summary>
    public DateTimeOffset? At { get; private set; }

    /// <summary>The last round.</summary>
    public LastRoundStatus? Last { get; private set; }

    /// <summary>Writes a round's device state beside the one that counts.</summary>
    /// <returns>What the journal has to say about it.</returns>
    /// <exception cref="IOException">There is no room.</exception>
    public JournalRecord WriteDeviceState(IReadOnlyList<Chunk> chunks, JournalRecord record)
    {
        int next = 1 - _current;
        SafeFileHandle handle = _device[next] ??= File.OpenHandle(
            Path.Combine(_directory, Name(next)), FileMode.Create, FileAccess.ReadWrite, FileShare.Read);
        _hash.Reset();
        long length = 0;
        for (int i = 0; i < chunks.Count; i++)
        {
            ReadOnlySpan<byte> payload = chunks[i].Span[..chunks[i].Length];
            DataPrefix prefix = DataPrefix.Read(payload);
            if (prefix.Section == SectionKind.DeviceState)
            {
                ReadOnlySpan<byte> content = prefix.Content(payload);
                _hash.Append(content);
                RandomAccess.Write(handle, content, length);
                length += content.Length;
            }
        }

        return record with { StateFile = Name(next), StateLength = length, StateHash = _hash.GetCurrentHashAsUInt64() };
    }

    /// <summary>What <see cref="WriteDeviceState"/> wrote becomes the state.</summary>
    public void UseDeviceState(JournalRecord record)
    {
        _current = 1 - _current;
        _length = record.StateLength;
        _stream?.Dispose();
        _stream = null;
    }

    /// <summary>A full round becomes the state; the one before is deleted.</summary>
    public void UseStream(StreamFile stream)
    {
        StreamFile? old = _stream;
        _stream = stream;
        old?.Dispose();
    }

    /// <summary>Takes the state of an earlier process over.</summary>
    /// <exception cref="IOException">It is not there, or not what the journal says.</exception>
    public void Restore(JournalRecord record)
    {
        string path = Path.Combine(_directory, record.StateFile);
        if (record.Kind == RoundKind.Full)
        {
            _stream = StreamFile.Open(path, record.StateLength);
        }
        else
        {
            _current = record.StateFile == Name(1) ? 1 : 0;
            SafeFileHandle handle = File.OpenHandle(path, FileMode.Open, FileAccess.ReadWrite, FileShare.Read);
            _device[_current] = handle;
            _length = record.StateLength;
            if (Hash(handle) is var hash && hash != record.StateHash)
            {
                throw new IOException($"{path} has hash {hash:x16}, the journal says {record.StateHash:x16}");
            }
        }

        Note(record);
    }

    /// <summary>Notes what was committed, for status.</summary>
    public void Note(JournalRecord record)
    {
        At = record.At;
        Last = new LastRoundStatus(record.Kind.ToString().ToLowerInvariant(), record.Bytes, record.PauseMicroseconds);
    }

    /// <summary>Reads the state for a promotion.</summary>
    public int Read(Span<byte> destination, long offset)
    {
        if (_stream is { } stream)
        {
            return stream.Read(destination, offset);
        }

        int count = (int)Math.Min(destination.Length, _length - offset);
        return count <= 0 ? 0 : RandomAccess.Read(_device[_current]!, destination[..count], offset);
    }

    /// <summary>Closes everything and leaves the files to a later process.</summary>
    public void Leave()
    {
        _stream?.Close();
        _stream = null;
        CloseDevice();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stream?.Dispose();
        _stream = null;
        CloseDevice();
    }

    private static string Name(int device) => device == 0 ? "device-0" : "device-1";

    private ulong Hash(SafeFileHandle handle)
    {
        byte[] buffer = new byte[64 * 1024];
        _hash.Reset();
        long at = 0;
        for (int count; at < _length && (count = RandomAccess.Read(handle, buffer.AsSpan(0, (int)Math.Min(buffer.Length, _length - at)), at)) > 0;)
        {
            _hash.Append(buffer.AsSpan(0, count));
            at += count;
        }

        return _hash.GetCurrentHashAsUInt64();
    }

    private void CloseDevice()
    {
        _device[0]?.Dispose();
        _device[1]?.Dispose();
        _device[0] = null;
        _device[1] = null;
    }
}
