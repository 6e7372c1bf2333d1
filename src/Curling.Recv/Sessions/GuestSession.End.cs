namespace Curling.Recv.Sessions;

/// <summary>The end of a session: what is under way comes to its own end first, then everything is freed or left for a later receiver.</summary>
internal sealed partial class GuestSession
{
    /// <summary>How long a commit that hangs is waited for when the session ends.</summary>
    private static readonly TimeSpan CommitLimit = TimeSpan.FromSeconds(10);

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => EndAsync(keep: false);

    /// <summary>Ends everything.</summary>
    /// <param name="keep">Whether the files stay for a later receiver.</param>
    public async ValueTask EndAsync(bool keep)
    {
        _keep = keep;
        await StopProtectionAsync();
        await _cancellation.CancelAsync();
        _inputs.Writer.TryComplete();
        await _loop;
        if (_link is { } link)
        {
            await link.CloseAsync();
        }

        Task[] work;
        lock (_work)
        {
            work = [.. _work];
        }

        // What came of each was told where it was done; the session's own end must not hang on it.
        await Task.WhenAll(work).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);

        // A promotion that was under way may have got further than it seemed.
        keep &= !_mayHaveRun;
        _keep = keep;
        try
        {
            await FreeAsync();
        }
        catch (Exception e)
        {
            // What is left of it must be freed all the same, and other sessions must end too.
            Log.Unexpected(_log, Guest.Name, "its session ended", e);
        }

        if (_right is { } right)
        {
            await right.DisposeAsync();
        }

        _unfinished?.Dispose();
        _pool.Dispose();
        _memory.Dispose();
        _journal.Dispose();
        _shadows.ForEach(s => s.Dispose());
        if (keep)
        {
            if (_unfinished is null)
            {
                File.Delete(Path.Combine(_directory.MemoryPath, PrefetchFile));
            }

            _directory.Leave();
        }
        else
        {
            _directory.Dispose();
        }
    }
}
