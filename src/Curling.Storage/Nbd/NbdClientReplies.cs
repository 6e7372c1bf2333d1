using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>Receives a server's replies and hands what they carry to the calls that wait for it.</summary>
/// <remarks>For one thread. No length of the server's is trusted before it was held against what was asked for.</remarks>
internal sealed class NbdClientReplies
{
    private const int MaxErrorBytes = 4096;
    private const int MaxDescriptors = 1 << 16;
    private readonly Socket _socket;
    private readonly string _name;
    private readonly Func<ulong, NbdCall> _find;
    private readonly Action<NbdCall> _finish;
    private readonly byte[] _header = new byte[StructuredReplyBytes];
    private readonly byte[] _small = new byte[8 << 10];

    public NbdClientReplies(Socket socket, string name, Func<ulong, NbdCall> find, Action<NbdCall> finish)
    {
        _socket = socket;
        _name = name;
        _find = find;
        _finish = finish;
    }

    /// <summary>Receives one reply, or one part of one.</summary>
    /// <exception cref="NbdViolationException">The server broke the protocol.</exception>
    /// <exception cref="IOException">The connection is broken.</exception>
    public void ReceiveOne()
    {
        Receive(_header.AsSpan(0, SimpleReplyBytes));
        uint magic = BinaryPrimitives.ReadUInt32BigEndian(_header);
        NbdCall call = _find(BinaryPrimitives.ReadUInt64BigEndian(_header.AsSpan(8)));
        switch (magic)
        {
            case SimpleReplyMagic:
                uint error = BinaryPrimitives.ReadUInt32BigEndian(_header.AsSpan(4));
                if (error != 0)
                {
                    call.Failure = Translate(call, error, "");
                }
                else if (call.Command == CommandRead)
                {
                    Receive(call.Into.Span);
                }

                _finish(call);
                break;
            case StructuredReplyMagic:
                Receive(_header.AsSpan(SimpleReplyBytes));
                ushort flags = BinaryPrimitives.ReadUInt16BigEndian(_header.AsSpan(4));
                ReceiveChunk(call, BinaryPrimitives.ReadUInt16BigEndian(_header.AsSpan(6)), BinaryPrimitives.ReadUInt32BigEndian(_header.AsSpan(16)));
                if ((flags & ChunkDone) != 0)
                {
                    if (call is { Command: CommandRead, Failure: null } && call.Got != call.Length)
                    {
                        throw Wrong($"a read of {call.Length} bytes got {call.Got}");
                    }

                    if (call is { Command: CommandBlockStatus, Failure: null, Got: 0 })
                    {
                        throw Wrong("no extents came where some were asked for");
                    }

                    _finish(call);
                }

                break;
            default:
                throw Wrong("a reply does not begin with the magic number of one");
        }
    }

    private static NbdViolationException Wrong(string what) => new(NbdViolation.Reply, what);

    private void ReceiveChunk(NbdCall call, ushort type, uint length)
    {
        switch (type)
        {
            case ChunkNone when length == 0:
                break;
            case ChunkOffsetData when call.Command == CommandRead && length is > 8 and <= MaxPayload + 8:
                Receive(_small.AsSpan(0, 8));
                Receive(Place(call, BinaryPrimitives.ReadInt64BigEndian(_small), (int)length - 8));
                break;
            case ChunkOffsetHole when call.Command == CommandRead && length == 12:
                Receive(_small.AsSpan(0, 12));
                uint hole = BinaryPrimitives.ReadUInt32BigEndian(_small.AsSpan(8));
                Place(call, BinaryPrimitives.ReadInt64BigEndian(_small), (int)Math.Min(hole, int.MaxValue)).Clear();
                break;
            case ChunkBlockStatus when call.Command == CommandBlockStatus && length >= 12 && (length - 4) % 8 == 0 && length <= MaxDescriptors * 8:
                ReceiveExtents(call, (int)(length - 4) / 8);
                break;
            case >= 0x8000 when length is >= 6 and <= MaxErrorBytes:
                Receive(_small.AsSpan(0, (int)length));
                int text = Math.Min(BinaryPrimitives.ReadUInt16BigEndian(_small.AsSpan(4)), (int)length - 6);
                call.Failure = Translate(call, BinaryPrimitives.ReadUInt32BigEndian(_small), Encoding.UTF8.GetString(_small, 6, text));
                break;
            default:
                throw Wrong($"a part of a reply has the type {type} and {length} bytes, which does not fit what was asked");
        }
    }

    private static Span<byte> Place(NbdCall call, long offset, int length)
    {
        if (offset < call.Offset || length == 0 || length > call.Length || offset - call.Offset > call.Length - length
            || call.Got + (long)length > call.Length)
        {
            throw Wrong("a part of a read lies outside of what was asked for");
        }

        call.Got += length;
        return call.Into.Span.Slice((int)(offset - call.Offset), length);
    }

    private void ReceiveExtents(NbdCall call, int count)
    {
        Receive(_small.AsSpan(0, 4));
        long left = call.Length;
        for (int i = 0; i < count; i++)
        {
            Receive(_small.AsSpan(0, 8));
            long length = Math.Min(BinaryPrimitives.ReadUInt32BigEndian(_small), left);
            bool isHole = (BinaryPrimitives.ReadUInt32BigEndian(_small.AsSpan(4)) & StateZero) != 0;
            if (length == 0 || call.Got == call.Extents.Length)
            {
                continue;
            }

            call.Extents.Span[call.Got++] = new DiskExtent(length, isHole);
            left -= length;
        }
    }

    private DiskException Translate(NbdCall call, uint error, string text)
    {
        DiskError kind = error switch
        {
            ErrorNoSpace => DiskError.NoSpace,
            ErrorPermission => DiskError.ReadOnly,
            _ => DiskError.Io,
        };
        return new DiskException(kind, $"{_name}: QEMU's tool failed a request at {call.Offset} with error {error}{(text.Length > 0 ? ": " + text : "")}");
    }

    private void Receive(Span<byte> into) => NbdClientHandshake.ReceiveAll(_socket, into);
}
