using Curling.Hosting.Transport;
using Curling.Protocol;

namespace Curling.Recv.Sessions;

/// <summary>One connection of a sender that was accepted for a guest.</summary>
internal sealed class Link(FrameConnection connection, LinkWriter writer, Hello hello, string peer) : IAsyncDisposable
{
    private int _disposed;

    /// <summary>The frames.</summary>
    public FrameConnection Connection { get; } = connection;

    /// <summary>The way back.</summary>
    public LinkWriter Writer { get; } = writer;

    /// <summary>What the sender said first.</summary>
    public Hello Hello { get; } = hello;

    /// <summary>The sender's address, for logs.</summary>
    public string Peer { get; } = peer;

    /// <summary>Whether the reader waits for room here: the sender's silence is then our doing.</summary>
    public volatile bool WaitsForRoom;

    /// <summary>Writes what is queued, then closes.</summary>
    public async Task CloseAsync()
    {
        await Writer.CompleteAsync(TimeSpan.FromSeconds(2));
        await DisposeAsync();
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) == 0)
        {
            await Connection.DisposeAsync();
            await Writer.DisposeAsync();
        }
    }
}
