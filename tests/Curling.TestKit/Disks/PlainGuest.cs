using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Curling.Linux.Processes;
using Curling.TestKit.Guests;

namespace Curling.TestKit.Disks;

/// <summary>The Linux guest with a disk on plain QEMU: its own file driver and its own network, nothing of Curling.</summary>
public sealed class PlainGuest : IAsyncDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);
    private readonly ChildProcess _process;
    private readonly string _serial;

    private PlainGuest(ChildProcess process, string serial, int port)
    {
        _process = process;
        _serial = serial;
        Port = port;
    }

    /// <summary>A port on loopback that leads to the guest's service.</summary>
    public int Port { get; }

    /// <summary>What it printed so far.</summary>
    public string Serial => File.Exists(_serial) ? ReadShared(_serial) : "";

    /// <summary>Starts it.</summary>
    /// <param name="qemu">The QEMU.</param>
    /// <param name="image">A raw image.</param>
    /// <param name="append">The switches of the disk program, for example <c>curling.disk=log</c>.</param>
    /// <param name="service">The guest's port that is wanted.</param>
    /// <param name="export">An NBD export of the image on a Unix socket, to be used in place of the file driver.</param>
    public static PlainGuest Start(string qemu, string image, string append, int service, string? export = null)
    {
        (string kernel, string initrd) = TestGuests.DiskKernel();
        int port = FreePort();
        string serial = string.Create(CultureInfo.InvariantCulture, $"{image}.{port}.serial");
        return new PlainGuest(
            ChildProcess.Start(new ChildProcessOptions(qemu,
            [
                "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "192M", "-kernel", kernel, "-initrd", initrd,
                "-append", $"console=ttyS0 quiet no_timer_check counter.ws=1 counter.rate=1 curling.ip=10.0.2.15/24 {append}", "-serial", "file:" + serial,
                "-blockdev", export is null
                    ? $"driver=file,filename={image},node-name=disk0,discard=unmap,cache.direct=off"
                    : $"driver=nbd,server.type=unix,server.path={export},node-name=disk0,discard=unmap",
                "-device", "virtio-blk-pci,drive=disk0",
                "-netdev", string.Create(CultureInfo.InvariantCulture, $"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:{service}"),
                "-device", "virtio-net-pci,netdev=n0,romfile=",
            ])),
            serial, port);
    }

    /// <summary>Waits until it has printed a text.</summary>
    public async Task UntilSaysAsync(string text)
    {
        long start = Stopwatch.GetTimestamp();
        while (!Serial.Contains(text, StringComparison.Ordinal))
        {
            if (_process.HasExited || Stopwatch.GetElapsedTime(start) > Limit)
            {
                throw new TimeoutException($"the guest does not say \"{text}\": {_process.ErrorTail} {Serial}");
            }

            await Task.Delay(20);
        }
    }

    /// <summary>Ends it at once, as a crash of its host would.</summary>
    public async Task KillAsync()
    {
        using Process process = Process.GetProcessById(_process.Pid);
        process.Kill();
        await _process.Exited.WaitAsync(Limit);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _process.DisposeAsync();

    private static string ReadShared(string path)
    {
        using FileStream stream = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(stream);
        return reader.ReadToEnd();
    }

    /// <summary>A port on loopback that nobody has now.</summary>
    public static int FreePort()
    {
        using Socket socket = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return ((IPEndPoint)socket.LocalEndPoint!).Port;
    }
}
