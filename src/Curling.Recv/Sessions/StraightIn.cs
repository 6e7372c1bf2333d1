using System.Threading.Channels;
using Curling.Linux.Memory;

namespace Curling.Recv.Sessions;

/// <summary>
/// Applies the frames of a round that goes straight in, in a task of its own: while one frame is written, the next is received.
/// </summary>
/// <remarks>One reader uses it, for one round. It owns the frames it was given and returns their chunks.</remarks>
internal sealed class StraightIn : IAsyncDisposable
{
    // Enough to keep both sides busy, few enough to stay in a processor's cache between the socket and the memory.
    private const int Waiting = 2;
    private readonly Channel<Chunk> _frames = Channel.CreateBounded<Chunk>(new BoundedChannelOptions(Waiting) { SingleReader = true });
    private readonly Action<Chunk> _apply;
    private readonly Task _loop;

    /// <summary>Starts the task.</summary>
    public StraightIn(Action<Chunk> apply)
    {
        _apply = apply;
        _loop = Task.Run(RunAsync);
    }

    /// <summary>Hands a frame over.</summary>
    /// <exception cref="IOException">An earlier one could not be applied.</exception>
    public async ValueTask AddAsync(Chunk frame, CancellationToken cancellation)
    {
        try
        {
            await _frames.Writer.WriteAsync(frame, cancellation);
        }
        catch (Exception e)
        {
            frame.Return();
            if (e is ChannelClosedException)
            {
                await _loop;
            }

            throw;
        }
    }

    /// <summary>Waits until everything is applied.</summary>
    /// <exception cref="IOException">A frame could not be applied.</exception>
    public async ValueTask CompleteAsync()
    {
        _frames.Writer.TryComplete();
        await _loop;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _frames.Writer.TryComplete();
        await _loop.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    private async Task RunAsync()
    {
        try
        {
            await foreach (Chunk frame in _frames.Reader.ReadAllAsync())
            {
                try
                {
                    _apply(frame);
                }
                finally
                {
                    frame.Return();
                }
            }
        }
        finally
        {
            _frames.Writer.TryComplete();
            while (_frames.Reader.TryRead(out Chunk? left))
            {
                left.Return();
            }
        }
    }
}
