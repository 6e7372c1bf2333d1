using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Text;
using Curling.Linux.Storage;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>A request of a client on its way through the backend, and then its reply on its way out; used again and again.</summary>
/// <remarks>
/// Belongs to one <see cref="NbdConnection"/>, which fills it in and starts it. It is carried on by whichever thread completes what the
/// backend does, and hands itself to the connection when its reply is ready.
/// </remarks>
internal sealed class NbdRequest
{
    private const int MaxExtents = 64;
    private const int HeaderBytes = StructuredReplyBytes + 8 + 4 + (8 * MaxExtents);
    private readonly NbdConnection _connection;
    private readonly PinnedBuffer _header = new(HeaderBytes);
    private readonly Action _continue;
    private DiskExtent[]? _extents;
    private ValueTaskAwaiter _waiting;
    private ValueTaskAwaiter<int> _waitingForExtents;
    private bool _flushing;
    private int _headerLength;
    private int _payloadLength;

    public NbdRequest(NbdConnection connection)
    {
        _connection = connection;
        _continue = Continue;
    }

    /// <summary>The next one among those that are ready, or free.</summary>
    public NbdRequest? Next { get; set; }

    public ushort Command { get; private set; }

    public long Offset { get; private set; }

    public int Length { get; private set; }

    /// <summary>The payload of a write or of the reply to a read; null for other requests.</summary>
    public PinnedBuffer? Buffer { get; set; }

    /// <summary>What the answer was: 0 for success.</summary>
    public uint Error { get; private set; }

    private ushort Flags { get; set; }

    private ulong Cookie { get; set; }

    private uint RangeLength { get; set; }

    /// <summary>Reads a request's header.</summary>
    public void Set(ReadOnlySpan<byte> header)
    {
        Flags = BinaryPrimitives.ReadUInt16BigEndian(header[4..]);
        Command = BinaryPrimitives.ReadUInt16BigEndian(header[6..]);
        Cookie = BinaryPrimitives.ReadUInt64BigEndian(header[8..]);
        ulong offset = BinaryPrimitives.ReadUInt64BigEndian(header[16..]);
        RangeLength = BinaryPrimitives.ReadUInt32BigEndian(header[24..]);
        Offset = (long)Math.Min(offset, long.MaxValue);
        Length = Command is CommandRead or CommandWrite ? (int)Math.Min(RangeLength, int.MaxValue) : 0;
        Error = 0;
        _flushing = false;
        _headerLength = 0;
        _payloadLength = 0;
    }

    /// <summary>Checks what was asked for against the export (nbd: doc/proto.md, "Transmission phase").</summary>
    /// <returns>The error to answer, or 0, and why.</returns>
    public (uint Error, string Why) Examine(IDiskBackend backend, NbdAgreement agreement)
    {
        bool changes = Command is CommandWrite or CommandTrim or CommandWriteZeroes;
        int allowed = CommandFlagFua | Command switch
        {
            CommandRead when agreement.Structured => CommandFlagDf,
            CommandWriteZeroes => CommandFlagNoHole,
            CommandBlockStatus => CommandFlagReqOne,
            _ => 0,
        };
        if (Command > CommandBlockStatus || Command is CommandDisconnect or 5)
        {
            return (ErrorInvalid, "this command is not known here");
        }

        if ((Flags & ~allowed) != 0)
        {
            return (ErrorInvalid, "this command has no such flag here");
        }

        if (Command == CommandFlush)
        {
            return Offset == 0 && RangeLength == 0 ? (0, "") : (ErrorInvalid, "a flush has no range");
        }

        if (changes && backend.IsReadOnly)
        {
            return (ErrorPermission, "this disk may only be read");
        }

        if (Command == CommandBlockStatus && !agreement.Allocation)
        {
            return (ErrorInvalid, "no metadata was negotiated");
        }

        if (Command == CommandRead && RangeLength > MaxPayload)
        {
            return (ErrorOverflow, "a read is longer than 32 MiB");
        }

        if (RangeLength == 0)
        {
            return (ErrorInvalid, "the range is empty");
        }

        return Offset > backend.Length || RangeLength > backend.Length - Offset
            ? (Command is CommandWrite or CommandWriteZeroes ? ErrorNoSpace : ErrorInvalid, "the range goes beyond the end of the disk")
            : (0, "");
    }

    /// <summary>Hands it to the backend. The reply is ready at once or later.</summary>
    public void Start()
    {
        IDiskBackend backend = _connection.Backend;
        CancellationToken cancellation = _connection.Cancellation;
        try
        {
            switch (Command)
            {
                case CommandRead:
                    Await(backend.ReadAsync(Offset, Buffer!.Bytes.AsMemory(0, Length), cancellation));
                    break;
                case CommandWrite:
                    Await(backend.WriteAsync(Offset, Buffer!.Bytes.AsMemory(0, Length), cancellation));
                    break;
                case CommandTrim:
                    Await(backend.TrimAsync(Offset, RangeLength, cancellation));
                    break;
                case CommandWriteZeroes:
                    Await(backend.ZeroAsync(Offset, RangeLength, (Flags & CommandFlagNoHole) == 0, cancellation));
                    break;
                case CommandFlush:
                    Await(backend.FlushAsync(cancellation));
                    break;
                case CommandBlockStatus:
                    _extents ??= new DiskExtent[MaxExtents];
                    int most = (Flags & CommandFlagReqOne) != 0 ? 1 : MaxExtents;
                    AwaitExtents(backend.GetExtentsAsync(Offset, RangeLength, _extents.AsMemory(0, most), cancellation));
                    break;
                default:
                    throw new InvalidOperationException($"{Command} is no command");
            }
        }
        catch (Exception e)
        {
            Fail(e);
        }
    }

    /// <summary>Answers with an error.</summary>
    public void Fail(uint error, string why)
    {
        Error = error;
        Span<byte> header = _header.Bytes;
        _payloadLength = 0;
        if (!_connection.Agreement.Structured)
        {
            SimpleHeader(error);
        }
        else
        {
            Span<byte> text = header[(StructuredReplyBytes + 6)..];
            _ = Encoding.UTF8.TryGetBytes(why.AsSpan(0, Math.Min(why.Length, text.Length / 4)), text, out int length);
            StructuredHeader(ChunkError, 6 + length);
            BinaryPrimitives.WriteUInt32BigEndian(header[StructuredReplyBytes..], error);
            BinaryPrimitives.WriteUInt16BigEndian(header[(StructuredReplyBytes + 4)..], (ushort)length);
            _headerLength = StructuredReplyBytes + 6 + length;
        }

        _connection.Ready(this);
    }

    /// <summary>The reply's bytes, one or two parts.</summary>
    /// <returns>How many parts were put down.</returns>
    public int Parts(Span<BufferPart> into)
    {
        into[0] = new BufferPart(_header, 0, _headerLength);
        if (_payloadLength == 0)
        {
            return 1;
        }

        into[1] = new BufferPart(Buffer!, 0, _payloadLength);
        return 2;
    }

    private void Await(ValueTask task)
    {
        _waiting = task.GetAwaiter();
        if (_waiting.IsCompleted)
        {
            Continue();
        }
        else
        {
            _waiting.UnsafeOnCompleted(_continue);
        }
    }

    private void AwaitExtents(ValueTask<int> task)
    {
        _waitingForExtents = task.GetAwaiter();
        if (_waitingForExtents.IsCompleted)
        {
            Continue();
        }
        else
        {
            _waitingForExtents.UnsafeOnCompleted(_continue);
        }
    }

    /// <summary>Goes on when the backend has done what it was asked.</summary>
    private void Continue()
    {
        try
        {
            if (Command == CommandBlockStatus)
            {
                SucceedWithExtents(_waitingForExtents.GetResult());
                return;
            }

            _waiting.GetResult();
            bool changed = Command is CommandWrite or CommandTrim or CommandWriteZeroes;
            if (changed && (Flags & CommandFlagFua) != 0 && !_flushing)
            {
                _flushing = true;
                Await(_connection.Backend.FlushAsync(_connection.Cancellation));
                return;
            }
        }
        catch (Exception e)
        {
            Fail(e);
            return;
        }

        if (!_connection.Agreement.Structured)
        {
            SimpleHeader(0);
            _payloadLength = Command == CommandRead ? Length : 0;
        }
        else if (Command == CommandRead)
        {
            StructuredHeader(ChunkOffsetData, 8 + Length);
            BinaryPrimitives.WriteInt64BigEndian(_header.Bytes.AsSpan(StructuredReplyBytes), Offset);
            _headerLength = StructuredReplyBytes + 8;
            _payloadLength = Length;
        }
        else
        {
            StructuredHeader(ChunkNone, 0);
        }

        _connection.Ready(this);
    }

    private void SucceedWithExtents(int count)
    {
        Span<byte> at = _header.Bytes.AsSpan(StructuredReplyBytes);
        BinaryPrimitives.WriteUInt32BigEndian(at, BaseAllocationId);
        at = at[4..];
        long left = RangeLength;
        int told = 0;
        for (; told < count && left > 0; told++)
        {
            DiskExtent extent = _extents![told];
            long length = Math.Min(extent.Length, left);
            BinaryPrimitives.WriteUInt32BigEndian(at, (uint)length);
            BinaryPrimitives.WriteUInt32BigEndian(at[4..], extent.IsHole ? StateHole | StateZero : 0);
            at = at[8..];
            left -= length;
        }

        StructuredHeader(ChunkBlockStatus, 4 + (8 * told));
        _headerLength = StructuredReplyBytes + 4 + (8 * told);
        _connection.Ready(this);
    }

    private void Fail(Exception e)
    {
        uint error = e switch
        {
            DiskException { Error: DiskError.NoSpace } => ErrorNoSpace,
            DiskException { Error: DiskError.ReadOnly } => ErrorPermission,
            OperationCanceledException or ObjectDisposedException => ErrorShutdown,
            _ => ErrorIo,
        };
        _connection.Failed(this, error, e);
        Fail(error, e.Message);
    }

    private void SimpleHeader(uint error)
    {
        Span<byte> header = _header.Bytes;
        BinaryPrimitives.WriteUInt32BigEndian(header, SimpleReplyMagic);
        BinaryPrimitives.WriteUInt32BigEndian(header[4..], error);
        BinaryPrimitives.WriteUInt64BigEndian(header[8..], Cookie);
        _headerLength = SimpleReplyBytes;
    }

    private void StructuredHeader(ushort type, int length)
    {
        Span<byte> header = _header.Bytes;
        BinaryPrimitives.WriteUInt32BigEndian(header, StructuredReplyMagic);
        BinaryPrimitives.WriteUInt16BigEndian(header[4..], ChunkDone);
        BinaryPrimitives.WriteUInt16BigEndian(header[6..], type);
        BinaryPrimitives.WriteUInt64BigEndian(header[8..], Cookie);
        BinaryPrimitives.WriteInt32BigEndian(header[16..], length);
        _headerLength = StructuredReplyBytes;
    }
}
