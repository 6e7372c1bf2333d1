using System.Buffers.Binary;
using System.IO.Hashing;
using Curling.Protocol;

namespace Curling.Simulation.Guest;

/// <summary>One instant of a guest: everything that belongs together.</summary>
/// <param name="Memory">The hash of its memory.</param>
/// <param name="Device">Its device state.</param>
/// <param name="FramesSent">The frames that it had sent.</param>
internal sealed record Instant(ulong Memory, byte[] Device, long FramesSent)
{
    public bool Is(ulong memory, ReadOnlySpan<byte> device) => memory == Memory && device.SequenceEqual(Device);
}

/// <summary>
/// A guest with a few pages of memory, a device state and frames that it sends. Every step of it changes memory and device state, so no
/// two instants are alike, and which instant some memory is of can be told.
/// </summary>
internal sealed class SimulatedGuest(History history, int number)
{
    public const int Pages = 8;
    public const int MemoryBytes = Pages * ProtocolLimits.PageBytes;
    private const int DeviceBytes = 48;
    private readonly bool[] _dirty = new bool[Pages];
    private long _steps;
    private long _framesSent;

    public byte[] Memory { get; } = new byte[MemoryBytes];

    /// <summary>Frames that it sent.</summary>
    public long FramesSent => _framesSent;

    public static ulong HashOf(ReadOnlySpan<byte> memory) => XxHash3.HashToUInt64(memory);

    /// <summary>The frames that a guest had sent which is in this device state.</summary>
    public static long FramesSentIn(ReadOnlySpan<byte> device) => BinaryPrimitives.ReadInt64LittleEndian(device[8..]);

    /// <summary>Runs for a moment.</summary>
    public void Run()
    {
        _steps++;
        int page = (int)(_steps % 2 == 0 ? 0 : history.Between(0, Pages - 1));
        int at = page * ProtocolLimits.PageBytes;
        if (history.Chance(4))
        {
            Memory.AsSpan(at, ProtocolLimits.PageBytes).Clear();
        }
        else
        {
            // Now and then what stood there before comes back: a delta against the wrong content shows only then.
            bool again = history.Chance(30);
            int offset = (again ? history.Between(0, 3) : history.Between(4, (ProtocolLimits.PageBytes / 8) - 1)) * 8;
            BinaryPrimitives.WriteInt64LittleEndian(Memory.AsSpan(at + offset), again ? offset + 1 : (_steps << 8) + number);
        }

        _dirty[page] = true;
    }

    /// <summary>Sends a frame.</summary>
    /// <returns>Its number.</returns>
    public long Send()
    {
        _steps++;
        return _framesSent++;
    }

    /// <summary>The device state as it is now.</summary>
    public byte[] DeviceState()
    {
        byte[] state = new byte[DeviceBytes];
        BinaryPrimitives.WriteInt64LittleEndian(state, _steps);
        BinaryPrimitives.WriteInt64LittleEndian(state.AsSpan(8), _framesSent);
        BinaryPrimitives.WriteInt64LittleEndian(state.AsSpan(16), number);
        BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(DeviceBytes - 8), XxHash3.HashToUInt64(state.AsSpan(0, DeviceBytes - 8)));
        return state;
    }

    public Instant Now() => new(HashOf(Memory), DeviceState(), _framesSent);

    /// <summary>The pages written since they were last taken; with <paramref name="all"/> every page.</summary>
    public List<int> TakeDirty(bool all)
    {
        List<int> pages = [];
        for (int i = 0; i < Pages; i++)
        {
            if (all || _dirty[i])
            {
                pages.Add(i);
                _dirty[i] = false;
            }
        }

        return pages;
    }
}
