using System.Buffers;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Curling.Linux.Processes;
using Curling.Storage.Nbd;

namespace Curling.Storage.Images;

/// <summary>A disk in a format of QEMU's, opened by QEMU's own storage daemon (or qemu-nbd) and spoken to over NBD.</summary>
/// <remarks>The tool ends with this object, and with this process however it ends. See <see cref="IDiskBackend"/> for the rest.</remarks>
public sealed class QemuImage : IDiskBackend
{
    private const string Export = "disk";
    private static readonly TimeSpan StartLimit = TimeSpan.FromSeconds(15);
    private static readonly TimeSpan EndLimit = TimeSpan.FromSeconds(10);
    private static int _count;
    private readonly ChildProcess _tool;
    private readonly NbdClientBackend _client;
    private readonly string _socket;
    private readonly string? _monitor;
    private int _disposed;

    private QemuImage(ChildProcess tool, NbdClientBackend client, string socket, string? monitor)
    {
        _tool = tool;
        _client = client;
        _socket = socket;
        _monitor = monitor;
    }

    /// <inheritdoc/>
    public long Length => _client.Length;

    /// <inheritdoc/>
    public bool IsReadOnly => _client.IsReadOnly;

    /// <summary>The tool's process number.</summary>
    public int Pid => _tool.Pid;

    /// <summary>Opens an image; the parameters are those of <see cref="DiskImages.OpenAsync"/>.</summary>
    public static async Task<QemuImage> OpenAsync(
        string path, ImageFormat format, bool readOnly, string directory, CancellationToken cancellation)
    {
        if (!File.Exists(path))
        {
            throw new DiskException(DiskError.Io, Directory.Exists(path) ? $"{path} is a directory; a disk image is a file" : $"there is no image {path}");
        }

        bool daemon = ChildProcess.Find("qemu-storage-daemon") is not null;
        if (!daemon && ChildProcess.Find("qemu-nbd") is null)
        {
            throw new DiskException(
                DiskError.Io,
                $"{path} has the format {DiskImages.Name(format)}, which needs qemu-storage-daemon (package qemu-system-common) or qemu-nbd (package qemu-utils)");
        }

        return await OpenAsync(daemon, path, format, readOnly, directory, cancellation).ConfigureAwait(false);
    }

    /// <summary>The same with one of the two tools, which must be there.</summary>
    internal static async Task<QemuImage> OpenAsync(
        bool daemon, string path, ImageFormat format, bool readOnly, string directory, CancellationToken cancellation)
    {
        string name = Path.Combine(directory, $"image-{Environment.ProcessId}-{Interlocked.Increment(ref _count)}");
        string socket = name + ".nbd";
        string? monitor = daemon ? name + ".qmp" : null;
        ChildProcess tool = ChildProcess.Start(daemon
            ? new ChildProcessOptions("qemu-storage-daemon", DaemonArguments(path, format, readOnly, socket, monitor!))
            : new ChildProcessOptions("qemu-nbd", NbdArguments(path, format, readOnly, socket)));
        try
        {
            NbdClientBackend client = await ConnectAsync(tool, socket, path, cancellation).ConfigureAwait(false);
            return new QemuImage(tool, client, socket, monitor);
        }
        catch
        {
            await tool.DisposeAsync().ConfigureAwait(false);
            Remove(socket, monitor);
            throw;
        }
    }

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, Memory<byte> into, CancellationToken cancellation) => _client.ReadAsync(offset, into, cancellation);

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, ReadOnlyMemory<byte> data, CancellationToken cancellation) =>
        _client.WriteAsync(offset, data, cancellation);

    /// <inheritdoc/>
    public ValueTask ZeroAsync(long offset, long length, bool mayDeallocate, CancellationToken cancellation) =>
        _client.ZeroAsync(offset, length, mayDeallocate, cancellation);

    /// <inheritdoc/>
    public ValueTask TrimAsync(long offset, long length, CancellationToken cancellation) => _client.TrimAsync(offset, length, cancellation);

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation) => _client.FlushAsync(cancellation);

    /// <inheritdoc/>
    public ValueTask<int> GetExtentsAsync(long offset, long length, Memory<DiskExtent> into, CancellationToken cancellation) =>
        _client.GetExtentsAsync(offset, length, into, cancellation);

    /// <summary>Flushes, lets the tool close the image in good order, and ends it.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        if (!_tool.HasExited && !IsReadOnly)
        {
            try
            {
                using CancellationTokenSource limit = new(EndLimit);
                await _client.FlushAsync(limit.Token).AsTask().WaitAsync(EndLimit).ConfigureAwait(false);
            }
            catch (Exception e) when (e is DiskException or TimeoutException or OperationCanceledException)
            {
                // Whoever needed it flushed has asked for it, and been told.
            }
        }

        await _client.DisposeAsync().ConfigureAwait(false);
        await QuitAsync().ConfigureAwait(false);
        await _tool.DisposeAsync().ConfigureAwait(false);
        Remove(_socket, _monitor);
    }

    private static async Task<NbdClientBackend> ConnectAsync(ChildProcess tool, string socket, string path, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(StartLimit);
        while (true)
        {
            if (tool.HasExited)
            {
                throw new DiskException(DiskError.Io, $"{path} cannot be opened: {LastLine(tool.ErrorTail)}");
            }

            try
            {
                return NbdClientBackend.Connect(socket, Export, path);
            }
            catch (SocketException)
            {
                // Not yet.
            }

            try
            {
                await Task.WhenAny(tool.Exited, Task.Delay(10, limit.Token)).ConfigureAwait(false);
                limit.Token.ThrowIfCancellationRequested();
            }
            catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
            {
                throw new DiskException(DiskError.Io, $"{path}: QEMU's tool has not opened it after {StartLimit.TotalSeconds} s: {tool.ErrorTail}");
            }
        }
    }

    private static List<string> DaemonArguments(string path, ImageFormat format, bool readOnly, string socket, string monitor) =>
    [
        "--blockdev", Node("file", "file", path, null, readOnly),
        "--blockdev", Node(DiskImages.Name(format), Export, null, "file", readOnly),
        "--nbd-server", $"addr.type=unix,addr.path={Escape(socket)}",
        "--chardev", $"socket,id=monitor,path={Escape(monitor)},server=on,wait=off",
        "--monitor", "chardev=monitor",
        "--export", $"type=nbd,id=export,node-name={Export},name={Export},writable={(readOnly ? "off" : "on")}",
    ];

    private static List<string> NbdArguments(string path, ImageFormat format, bool readOnly, string socket)
    {
        List<string> arguments =
        [
            $"--socket={socket}", $"--export-name={Export}", "--discard=unmap", "--image-opts",
            $"driver={DiskImages.Name(format)},file.driver=file,file.filename={Escape(path)}",
        ];
        if (readOnly)
        {
            arguments.Insert(0, "--read-only");
        }

        return arguments;
    }

    private static string Node(string driver, string name, string? path, string? below, bool readOnly)
    {
        ArrayBufferWriter<byte> text = new();
        using (Utf8JsonWriter writer = new(text))
        {
            writer.WriteStartObject();
            writer.WriteString("driver", driver);
            writer.WriteString("node-name", name);
            if (path is not null)
            {
                writer.WriteString("filename", path);
            }

            if (below is not null)
            {
                writer.WriteString("file", below);
            }

            writer.WriteBoolean("read-only", readOnly);
            writer.WriteString("discard", "unmap");
            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(text.WrittenSpan);
    }

    /// <summary>A comma separates QEMU's options; a doubled one is one.</summary>
    private static string Escape(string value) => value.Replace(",", ",,", StringComparison.Ordinal);

    private static string LastLine(string text) => text.Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault() ?? "its tool said nothing";

    private static void Remove(string socket, string? monitor)
    {
        File.Delete(socket);
        if (monitor is not null)
        {
            File.Delete(monitor);
        }
    }

    /// <summary>Asks the tool to close the image: qemu-nbd does when its client has left, the daemon when it is told.</summary>
    private async Task QuitAsync()
    {
        try
        {
            if (_monitor is not null && !_tool.HasExited)
            {
                using CancellationTokenSource limit = new(EndLimit);
                using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(_monitor), limit.Token).ConfigureAwait(false);
                await socket.SendAsync("{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"quit\"}\n"u8.ToArray(), limit.Token).ConfigureAwait(false);
                await _tool.WaitAsync(EndLimit, limit.Token).ConfigureAwait(false);
            }
            else
            {
                await _tool.WaitAsync(EndLimit, CancellationToken.None).ConfigureAwait(false);
            }
        }
        catch (Exception e) when (e is SocketException or TimeoutException or OperationCanceledException)
        {
            // It is killed then; what was flushed is in the image.
        }
    }
}
