using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using static Curling.Storage.Nbd.NbdProtocol;

namespace Curling.Storage.Nbd;

/// <summary>What a client and the server have agreed on.</summary>
/// <param name="Structured">Replies are structured.</param>
/// <param name="Allocation">The client asks for the extents of <c>base:allocation</c>.</param>
internal readonly record struct NbdAgreement(bool Structured, bool Allocation);

/// <summary>The server's side of the fixed newstyle negotiation (nbd: doc/proto.md, "Fixed newstyle negotiation").</summary>
/// <remarks>For one thread, before the first request. Blocks on the socket, within the time limit.</remarks>
internal sealed class NbdHandshake
{
    // Longer than any option that this server knows: two strings of the longest kind and their lengths.
    private const int MaxOption = (2 * MaxString) + 64;
    private const int MaxOptions = 64;
    private const int MaxSkipped = 1 << 20;

    private readonly Socket _socket;
    private readonly NbdReceiver _receiver;
    private readonly string _exportName;
    private readonly IDiskBackend _backend;
    private readonly TimeSpan _limit;
    private readonly long _began = Stopwatch.GetTimestamp();
    private bool _structured;
    private bool _allocation;
    private bool _noZeroes;

    public NbdHandshake(Socket socket, NbdReceiver receiver, string exportName, IDiskBackend backend, TimeSpan limit)
    {
        _socket = socket;
        _receiver = receiver;
        _exportName = exportName;
        _backend = backend;
        _limit = limit;
    }

    /// <summary>Negotiates.</summary>
    /// <returns>What was agreed on; null when the client left.</returns>
    /// <exception cref="NbdViolationException">The client broke the protocol.</exception>
    /// <exception cref="IOException">The connection is broken.</exception>
    public NbdAgreement? Run()
    {
        _socket.ReceiveTimeout = _socket.SendTimeout = (int)_limit.TotalMilliseconds;
        Span<byte> greeting = stackalloc byte[GreetingBytes];
        BinaryPrimitives.WriteUInt64BigEndian(greeting, Magic);
        BinaryPrimitives.WriteUInt64BigEndian(greeting[8..], OptionMagic);
        BinaryPrimitives.WriteUInt16BigEndian(greeting[16..], HandshakeFixedNewstyle | HandshakeNoZeroes);
        Send(greeting);
        if (!Need(4, atBoundary: true))
        {
            return null;
        }

        uint flags = BinaryPrimitives.ReadUInt32BigEndian(_receiver.Here);
        _receiver.Take(4);
        if ((flags & ~(uint)(HandshakeFixedNewstyle | HandshakeNoZeroes)) != 0)
        {
            throw new NbdViolationException(NbdViolation.ClientFlags, $"the client's flags 0x{flags:x} are not known");
        }

        _noZeroes = (flags & HandshakeNoZeroes) != 0;
        for (int count = 0; count < MaxOptions; count++)
        {
            if (!Need(OptionHeaderBytes, atBoundary: true))
            {
                return null;
            }

            ReadOnlySpan<byte> header = _receiver.Here;
            if (BinaryPrimitives.ReadUInt64BigEndian(header) != OptionMagic)
            {
                throw new NbdViolationException(NbdViolation.OptionMagic, "an option does not begin with IHAVEOPT");
            }

            uint option = BinaryPrimitives.ReadUInt32BigEndian(header[8..]);
            uint length = BinaryPrimitives.ReadUInt32BigEndian(header[12..]);
            _receiver.Take(OptionHeaderBytes);
            if (length > MaxOption)
            {
                Skip(option, length);
                continue;
            }

            Need((int)length, atBoundary: false);
            ReadOnlySpan<byte> data = _receiver.Here[..(int)length];
            bool? done = Answer(option, data);
            _receiver.Take((int)length);
            if (done is { } agreed)
            {
                _socket.ReceiveTimeout = _socket.SendTimeout = 0;
                return agreed ? new NbdAgreement(_structured, _allocation) : null;
            }
        }

        throw new NbdViolationException(NbdViolation.TooManyOptions, $"the client sent {MaxOptions} options and did not come to an end");
    }

    /// <summary>Answers an option.</summary>
    /// <returns>Null while the negotiation goes on; true when it is complete, false when the client leaves.</returns>
    private bool? Answer(uint option, ReadOnlySpan<byte> data)
    {
        switch (option)
        {
            case OptionExportName:
                AnswerExportName(data);
                return true;
            case OptionAbort:
                Reply(option, ReplyAck);
                return false;
            case OptionList when data.Length == 0:
                AnswerList();
                return null;
            case OptionStructuredReply when data.Length == 0:
                _structured = true;
                Reply(option, ReplyAck);
                return null;
            case OptionStartTls when data.Length == 0:
                Refuse(option, ReplyErrorPolicy, "this server has no TLS: its socket is one of this host's filesystem");
                return null;
            case OptionList or OptionStructuredReply or OptionStartTls:
                Refuse(option, ReplyErrorInvalid, "this option has no data");
                return null;
            case OptionInfo or OptionGo:
                return AnswerGo(option, data);
            case OptionListMetaContext or OptionSetMetaContext:
                AnswerContexts(option, data);
                return null;
            default:
                Refuse(option, ReplyErrorUnsupported, "this option is not known here");
                return null;
        }
    }

    private void AnswerExportName(ReadOnlySpan<byte> name)
    {
        if (!IsExport(name))
        {
            throw new NbdViolationException(
                NbdViolation.UnknownExport, $"the client asked for the export '{Printable(name)}'; this one is called '{_exportName}'");
        }

        Span<byte> reply = stackalloc byte[10 + ExportNamePadding];
        reply.Clear();
        BinaryPrimitives.WriteInt64BigEndian(reply, _backend.Length);
        BinaryPrimitives.WriteUInt16BigEndian(reply[8..], TransmissionFlags());
        Send(_noZeroes ? reply[..10] : reply);
    }

    private void AnswerList()
    {
        byte[] name = Encoding.UTF8.GetBytes(_exportName);
        byte[] entry = new byte[4 + name.Length];
        BinaryPrimitives.WriteInt32BigEndian(entry, name.Length);
        name.CopyTo(entry, 4);
        Reply(OptionList, ReplyServer, entry);
        Reply(OptionList, ReplyAck);
    }

    private bool? AnswerGo(uint option, ReadOnlySpan<byte> data)
    {
        if (!TryString(ref data, out ReadOnlySpan<byte> name) || data.Length < 2
            || data.Length != 2 + (2 * BinaryPrimitives.ReadUInt16BigEndian(data)))
        {
            Refuse(option, ReplyErrorInvalid, "the option's lengths do not fit together");
            return null;
        }

        if (!IsExport(name))
        {
            Refuse(option, ReplyErrorUnknown, $"there is no such export; this one is called '{_exportName}'");
            return null;
        }

        Span<byte> export = stackalloc byte[12];
        BinaryPrimitives.WriteUInt16BigEndian(export, InfoExport);
        BinaryPrimitives.WriteInt64BigEndian(export[2..], _backend.Length);
        BinaryPrimitives.WriteUInt16BigEndian(export[10..], TransmissionFlags());
        Reply(option, ReplyInfo, export);
        Span<byte> sizes = stackalloc byte[14];
        BinaryPrimitives.WriteUInt16BigEndian(sizes, InfoBlockSize);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[2..], 1);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[6..], 4096);
        BinaryPrimitives.WriteUInt32BigEndian(sizes[10..], MaxPayload);
        Reply(option, ReplyInfo, sizes);
        data = data[2..];
        for (; data.Length > 0; data = data[2..])
        {
            if (BinaryPrimitives.ReadUInt16BigEndian(data) == InfoName)
            {
                byte[] told = new byte[2 + Encoding.UTF8.GetByteCount(_exportName)];
                BinaryPrimitives.WriteUInt16BigEndian(told, InfoName);
                Encoding.UTF8.GetBytes(_exportName, told.AsSpan(2));
                Reply(option, ReplyInfo, told);
                break;
            }
        }

        Reply(option, ReplyAck);
        return option == OptionGo ? true : null;
    }

    private void AnswerContexts(uint option, ReadOnlySpan<byte> data)
    {
        if (option == OptionSetMetaContext)
        {
            // Whatever becomes of this one, it takes the place of the one before.
            _allocation = false;
        }

        if (!_structured)
        {
            Refuse(option, ReplyErrorInvalid, "metadata needs structured replies; negotiate them first");
            return;
        }

        if (!TryString(ref data, out ReadOnlySpan<byte> name) || data.Length < 4)
        {
            Refuse(option, ReplyErrorInvalid, "the option's lengths do not fit together");
            return;
        }

        uint queries = BinaryPrimitives.ReadUInt32BigEndian(data);
        data = data[4..];
        bool wanted = option == OptionListMetaContext && queries == 0;
        for (uint i = 0; i < queries; i++)
        {
            if (!TryString(ref data, out ReadOnlySpan<byte> query))
            {
                Refuse(option, ReplyErrorInvalid, "the option's lengths do not fit together");
                return;
            }

            wanted |= query.SequenceEqual("base:allocation"u8) || (option == OptionListMetaContext && query.SequenceEqual("base:"u8));
        }

        if (data.Length > 0)
        {
            Refuse(option, ReplyErrorInvalid, "the option's lengths do not fit together");
            return;
        }

        if (!IsExport(name))
        {
            Refuse(option, ReplyErrorUnknown, $"there is no such export; this one is called '{_exportName}'");
            return;
        }

        if (wanted)
        {
            Span<byte> context = stackalloc byte[4 + BaseAllocation.Length];
            BinaryPrimitives.WriteUInt32BigEndian(context, option == OptionSetMetaContext ? BaseAllocationId : 0);
            Encoding.ASCII.GetBytes(BaseAllocation, context[4..]);
            Reply(option, ReplyMetaContext, context);
            _allocation |= option == OptionSetMetaContext;
        }

        Reply(option, ReplyAck);
    }

    private ushort TransmissionFlags()
    {
        // Several connections share one backend, and a flush on one covers what was answered on all. FAST_ZERO is not offered: whether
        // zeroing is fast depends on the filesystem, and is not known before it has been tried.
        int flags = FlagHasFlags | FlagSendFlush | FlagSendFua | FlagCanMultiConn;
        flags |= _backend.IsReadOnly ? FlagReadOnly : FlagSendTrim | FlagSendWriteZeroes;
        flags |= _structured ? FlagSendDf : 0;
        return (ushort)flags;
    }

    private bool IsExport(ReadOnlySpan<byte> name) => name.Length == 0 || name.SequenceEqual(Encoding.UTF8.GetBytes(_exportName));

    private static bool TryString(ref ReadOnlySpan<byte> data, out ReadOnlySpan<byte> text)
    {
        text = default;
        if (data.Length < 4)
        {
            return false;
        }

        uint length = BinaryPrimitives.ReadUInt32BigEndian(data);
        if (length > MaxString || length > data.Length - 4)
        {
            return false;
        }

        text = data.Slice(4, (int)length);
        data = data[(4 + (int)length)..];
        return true;
    }

    private static string Printable(ReadOnlySpan<byte> name) =>
        string.Concat(Encoding.UTF8.GetString(name[..Math.Min(name.Length, 64)]).Select(c => char.IsControl(c) ? '?' : c));

    private void Skip(uint option, uint length)
    {
        if (length > MaxSkipped || option == OptionExportName)
        {
            throw new NbdViolationException(NbdViolation.OptionTooLong, $"the option {option} is {length} bytes long");
        }

        for (int left = (int)length; left > 0;)
        {
            Need(1, atBoundary: false);
            int part = Math.Min(left, _receiver.Here.Length);
            _receiver.Take(part);
            left -= part;
        }

        Refuse(option, ReplyErrorTooBig, "this option is longer than any that is known here");
    }

    /// <summary>Waits until that many bytes are here.</summary>
    /// <returns>False when the stream has ended where it may.</returns>
    private bool Need(int count, bool atBoundary)
    {
        while (_receiver.Here.Length < count)
        {
            if (Stopwatch.GetElapsedTime(_began) > _limit)
            {
                throw new NbdViolationException(NbdViolation.HandshakeTimeout, $"the negotiation is not complete after {_limit.TotalSeconds} s");
            }

            if (!_receiver.Receive())
            {
                return atBoundary && _receiver.Here.Length == 0
                    ? false
                    : throw new NbdViolationException(NbdViolation.Truncated, "the stream ended in the middle of the negotiation");
            }
        }

        return true;
    }

    private void Refuse(uint option, uint error, string why) => Reply(option, error, Encoding.UTF8.GetBytes(why));

    private void Reply(uint option, uint type, ReadOnlySpan<byte> data = default)
    {
        byte[] reply = new byte[OptionReplyHeaderBytes + data.Length];
        BinaryPrimitives.WriteUInt64BigEndian(reply, OptionReplyMagic);
        BinaryPrimitives.WriteUInt32BigEndian(reply.AsSpan(8), option);
        BinaryPrimitives.WriteUInt32BigEndian(reply.AsSpan(12), type);
        BinaryPrimitives.WriteInt32BigEndian(reply.AsSpan(16), data.Length);
        data.CopyTo(reply.AsSpan(OptionReplyHeaderBytes));
        Send(reply);
    }

    private void Send(ReadOnlySpan<byte> data)
    {
        try
        {
            while (data.Length > 0)
            {
                data = data[_socket.Send(data)..];
            }
        }
        catch (SocketException e)
        {
            throw new IOException(e.Message, e);
        }
    }
}
