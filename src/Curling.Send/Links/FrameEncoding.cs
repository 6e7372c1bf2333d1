using System.Diagnostics;
using Curling.Hosting.Pages;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;

namespace Curling.Send.Links;

/// <summary>The stage of the line that makes memory frames smaller, as asked or as the link makes worth while.</summary>
/// <remarks>The line's task uses it; <see cref="Current"/> may be read from anywhere. It works for one connection.</remarks>
internal sealed class FrameEncoding : IDisposable
{
    private const long LinkKnownFrom = 2 << 20;
    private readonly CompressChoice _choice;
    private readonly PageEncoder _encoder;
    private readonly bool _deltas;
    private readonly CompressionChooser _chooser;
    private readonly ChunkPool _pool = new(DataFrame.ChunkBytes, DataFrame.ChunkBytes);
    private readonly Chunk _encoded;
    private int _current;
    private bool _cacheIsCurrent;

    private FrameEncoding(CompressChoice choice, bool lz4, bool zstd, bool deltas)
    {
        _choice = choice;
        _deltas = deltas;
        _encoder = new PageEncoder(deltas ? PageEncoder.DefaultCacheBytes : 0);
        _chooser = new CompressionChooser(lz4, zstd);
        _current = choice == CompressChoice.Auto ? 0 : (int)choice;
        _pool.TryRent(out _encoded);
    }

    /// <summary>What is used now.</summary>
    public PageCompression Current => (PageCompression)Volatile.Read(ref _current);

    /// <summary>Called when the choice changed, with the link's bytes a second.</summary>
    public Action<PageCompression, long>? Changed { get; set; }

    /// <summary>Makes the stage for a connection; null when nothing is to be done or the receiver takes nothing.</summary>
    public static FrameEncoding? For(CompressChoice choice, IReadOnlyList<string> capabilities)
    {
        bool lz4 = capabilities.Contains(Handshake.Lz4);
        bool zstd = capabilities.Contains(Handshake.Zstd);
        bool possible = choice switch
        {
            CompressChoice.Lz4 => lz4,
            CompressChoice.Zstd => zstd,
            CompressChoice.Auto => lz4 || zstd,
            _ => false,
        };
        return possible ? new FrameEncoding(choice, lz4, zstd, capabilities.Contains(Handshake.Delta)) : null;
    }

    /// <summary>Encodes a memory frame.</summary>
    /// <param name="frame">Room for a header, then the payload.</param>
    /// <param name="connection">Where it will be sent.</param>
    /// <returns>The frame to send instead, the same or one that is valid until the next call.</returns>
    public Memory<byte> Encode(Memory<byte> frame, FrameConnection connection)
    {
        if (_choice == CompressChoice.Auto)
        {
            Decide(connection);
        }

        PageCompression way = _choice == CompressChoice.Auto ? _chooser.ForNextFrame() : (PageCompression)_choice;
        if (way == PageCompression.None)
        {
            // What is sent past the cache makes it stale.
            _cacheIsCurrent = false;
            _chooser.SawFrame(way, frame.Length, frame.Length, 0);
            return frame;
        }

        bool trial = _choice == CompressChoice.Auto && way != _chooser.Current;
        bool deltas = _deltas && !(trial && _chooser.Current == PageCompression.None);
        if (!deltas)
        {
            _cacheIsCurrent = false;
        }
        else if (!_cacheIsCurrent)
        {
            _encoder.Forget();
            _cacheIsCurrent = true;
        }

        long start = Stopwatch.GetTimestamp();
        int length = _encoder.Encode(
            frame.Span[DataFrame.PayloadAt..], way, deltas, _encoded.Span[DataFrame.PayloadAt..]);
        if (_choice == CompressChoice.Auto)
        {
            _chooser.SawFrame(way, frame.Length, DataFrame.PayloadAt + length, Stopwatch.GetElapsedTime(start).TotalSeconds);
        }

        return _encoded.Memory[..(DataFrame.PayloadAt + length)];
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _encoder.Dispose();
        _encoded.Return();
        _pool.Dispose();
    }

    private void Decide(FrameConnection connection)
    {
        // What the kernel says of the link after a greeting and a few small frames is the pace of those, not of the link.
        if (connection.BytesSent >= LinkKnownFrom)
        {
            _chooser.SawLink(connection.DeliveryRate());
        }

        if (_chooser.Decide())
        {
            Volatile.Write(ref _current, (int)_chooser.Current);
            Changed?.Invoke(_chooser.Current, (long)_chooser.LinkBytesPerSecond);
        }
    }
}
