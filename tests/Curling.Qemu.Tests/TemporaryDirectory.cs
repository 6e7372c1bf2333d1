namespace Curling.Qemu.Tests;

/// <summary>A directory in memory with a path short enough for sockets; gone when disposed.</summary>
internal sealed class TemporaryDirectory : IDisposable
{
    public TemporaryDirectory()
    {
        Path = Directory.CreateDirectory($"/dev/shm/curling-test-{Guid.NewGuid():N}"[..32]).FullName;
    }

    public string Path { get; }

    public string File(string name) => System.IO.Path.Combine(Path, name);

    public string Write(string name, string text)
    {
        System.IO.File.WriteAllText(File(name), text);
        return File(name);
    }

    public void Dispose() => Directory.Delete(Path, recursive: true);
}
