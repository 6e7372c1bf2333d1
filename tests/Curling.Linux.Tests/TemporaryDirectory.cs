namespace Curling.Linux.Tests;

/// <summary>A directory in memory; gone when disposed.</summary>
internal sealed class TemporaryDirectory : IDisposable
{
    public TemporaryDirectory(string parent = "/dev/shm") =>
        Path = Directory.CreateDirectory(System.IO.Path.Combine(parent, $"curling-test-{Guid.NewGuid():N}"[..32])).FullName;

    public string Path { get; }

    public string File(string name) => System.IO.Path.Combine(Path, name);

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
