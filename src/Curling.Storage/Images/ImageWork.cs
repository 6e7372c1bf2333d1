using System.Threading.Tasks.Sources;

namespace Curling.Storage.Images;

/// <summary>What a piece of work does.</summary>
internal enum ImageOperation
{
    Read = 1,
    Write,
    Zero,
    Trim,
    Flush,
    Extents,
}

/// <summary>A request to an image that a worker carries out; used again and again, and the source of its own task.</summary>
/// <remarks>Belongs to one request at a time, from <see cref="RawImage"/>'s pool; goes back there when its result has been taken.</remarks>
internal sealed class ImageWork : IValueTaskSource, IValueTaskSource<int>
{
    private readonly RawImage _image;
    private ManualResetValueTaskSourceCore<int> _core;

    public ImageWork(RawImage image) => _image = image;

    /// <summary>The next one in the queue or in the pool.</summary>
    public ImageWork? Next { get; set; }

    public ImageOperation Operation { get; private set; }

    public long Offset { get; private set; }

    public long Length { get; private set; }

    public bool MayDeallocate { get; private set; }

    public Memory<byte> Into { get; private set; }

    public ReadOnlyMemory<byte> Data { get; private set; }

    public Memory<DiskExtent> Extents { get; private set; }

    public short Version => _core.Version;

    public void Set(ImageOperation operation, long offset, long length, bool mayDeallocate = false)
    {
        Operation = operation;
        Offset = offset;
        Length = length;
        MayDeallocate = mayDeallocate;
    }

    public void SetRead(long offset, Memory<byte> into)
    {
        Set(ImageOperation.Read, offset, into.Length);
        Into = into;
    }

    public void SetWrite(long offset, ReadOnlyMemory<byte> data)
    {
        Set(ImageOperation.Write, offset, data.Length);
        Data = data;
    }

    public void SetExtents(long offset, long length, Memory<DiskExtent> into)
    {
        Set(ImageOperation.Extents, offset, length);
        Extents = into;
    }

    /// <summary>Carries it out and completes its task, whose continuation runs here too.</summary>
    public void Run()
    {
        int result;
        try
        {
            result = _image.Carry(this);
        }
        catch (Exception e)
        {
            _core.SetException(e);
            return;
        }

        _core.SetResult(result);
    }

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
            Data = default;
            Extents = default;
            _image.Return(this);
        }
    }

    /// <inheritdoc/>
    void IValueTaskSource.GetResult(short token) => GetResult(token);

    /// <inheritdoc/>
    public ValueTaskSourceStatus GetStatus(short token) => _core.GetStatus(token);

    /// <inheritdoc/>
    public void OnCompleted(Action<object?> continuation, object? state, short token, ValueTaskSourceOnCompletedFlags flags) =>
        _core.OnCompleted(continuation, state, token, flags);
}
