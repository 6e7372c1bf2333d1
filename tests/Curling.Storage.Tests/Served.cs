using Curling.Storage.Images;
using Curling.Storage.Nbd;
using Microsoft.Extensions.Logging;

namespace Curling.Storage.Tests;

/// <summary>A raw image that is exported, in a directory of its own, with what the export logs.</summary>
internal sealed class Served : IAsyncDisposable
{
    public const string Name = "disk0";

    private Served(TestDirectory directory, IDiskBackend backend, NbdServer server, Recorded log)
    {
        Directory = directory;
        Backend = backend;
        Server = server;
        Log = log;
    }

    public TestDirectory Directory { get; }

    public IDiskBackend Backend { get; }

    public NbdServer Server { get; }

    public Recorded Log { get; }

    public string Socket => Directory.File("disk.sock");

    public string Image => Directory.File("disk.img");

    /// <summary>For QEMU's and libnbd's tools.</summary>
    public string Uri => $"nbd+unix:///?socket={Socket}";

    /// <summary>Exports an image that is all hole.</summary>
    public static Served Start(long bytes, NbdServerOptions? options = null, bool readOnly = false, Func<IDiskBackend, IDiskBackend>? wrap = null)
    {
        TestDirectory directory = new();
        string image = directory.File("disk.img");
        using (FileStream file = File.Create(image))
        {
            file.SetLength(bytes);
        }

        IDiskBackend backend = RawImage.Open(image, readOnly);
        backend = wrap is null ? backend : wrap(backend);
        Recorded log = new();
        return new Served(directory, backend, NbdServer.Start(directory.File("disk.sock"), Name, backend, log, options), log);
    }

    public async ValueTask DisposeAsync()
    {
        await Server.DisposeAsync();
        await Backend.DisposeAsync();
        Assert.False(File.Exists(Socket), "the socket's file is left");
        Assert.DoesNotContain(Log.Lines, l => l.Contains("DiskExportFault", StringComparison.Ordinal));
        Directory.Dispose();
    }
}

/// <summary>A directory of a test's own on a disk's filesystem; gone when disposed.</summary>
internal sealed class TestDirectory : IDisposable
{
    public string Path { get; } = Directory.CreateTempSubdirectory("curling-disk.").FullName;

    public string File(string name) => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}

/// <summary>Keeps what is logged.</summary>
internal sealed class Recorded : ILogger
{
    private readonly List<string> _lines = [];

    public IReadOnlyList<string> Lines
    {
        get
        {
            lock (_lines)
            {
                return [.. _lines];
            }
        }
    }

    public IDisposable? BeginScope<TState>(TState state)
        where TState : notnull => null;

    public bool IsEnabled(LogLevel logLevel) => true;

    public void Log<TState>(LogLevel logLevel, EventId eventId, TState state, Exception? exception, Func<TState, Exception?, string> formatter)
    {
        lock (_lines)
        {
            _lines.Add($"{logLevel} {eventId.Name} {formatter(state, exception)} {exception}");
        }
    }
}
