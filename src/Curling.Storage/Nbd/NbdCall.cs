using System.Threading.Tasks.Sources;

namespace Curling.Storage.Nbd;

/// <summary>A request of ours on its way to an NBD server and back; used again and again, and the source of its own task.</summary>
/// <remarks>Belongs to one <see cref="NbdClientBackend"/>. Its number is the cookie that the server sends back.</remarks>
internal sealed class NbdCall : IValueTaskSource<int>
{
    private readonly NbdClientBackend _owner;
    private ManualResetValueTaskSourceCore<int> _core = new() { RunContinuationsAsynchronously = true };

    public NbdCall(NbdClientBackend owner, int number)
    {
        _owner = owner;
        Number = number;
    }

    /// <summary>Its place in the table of calls.</summary>
    public int Number { get; }

    /// <summary>What was asked for; 0xFFFF while nothing is.</summary>
    public ushort Command { get; private set; }

    public long Offset { get; private set; }

    public long Length { get; private set; }

    /// <summary>Where the bytes of a read go.</summary>
    public Memory<byte> Into { get; private set; }

    /// <summary>Where the extents go.</summary>
    public Memory<DiskExtent> Extents { get; private set; }

    /// <summary>Whether the server owes an answer; under the owner's lock.</summary>
    public bool IsAsked { get; set; }

    /// <summary>Extents that were received, or bytes of a read.</summary>
    public int Got { get; set; }

    /// <summary>What the server said was wrong, before the last part of its answer has come.</summary>
    public DiskException? Failure { get; set; }

    public void Set(ushort command, long offset, long length, Memory<byte> into, Memory<DiskExtent> extents)
    {
        Command = command;
        Offset = offset;
        Length = length;
        Into = into;
        Extents = extents;
        Got = 0;
        Failure = null;
    }

    public ValueTask<int> Task => new(this, _core.Version);

    public void Succeed(int result) => _core.SetResult(result);

    public void Fail(DiskException e) => _core.SetException(e);

    /// <inheritdoc/>
    public int GetResult(short token)
    {
        try
        {
            return _core.GetResult(token);
        }
        finally
        {
            _core.Reset();
            Into = default;
            Extents = default;
            _owner.Return(this);
        }
    }

    /// <inheritdoc/>
    public ValueTaskSourceStatus GetStatus(short token) => _core.GetStatus(token);

    /// <inheritdoc/>
    public void OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _core.OnCompleted(continuation, state, token, flags);
}
