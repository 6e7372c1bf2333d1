using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Curling.Linux.Processes;
using Curling.TestKit.Daemons;
using Xunit;

namespace Curling.TestKit.Arbiter;

/// <summary>A real etcd on loopback, of one server, that a test starts, kills, silences and starts again on the same data.</summary>
public sealed class EtcdServer : IAsyncDisposable
{
    private readonly string _directory;
    private readonly int _client = FreePort();
    private readonly int _peer = FreePort();
    private readonly string _scheme;
    private readonly string? _place;
    private readonly string _address;
    private readonly string[] _more;
    private TaskCompletionSource _serves = new();
    private Process _process;

    private EtcdServer(string directory, string scheme, string? place, string address, string[] more)
    {
        _directory = directory;
        _scheme = scheme;
        _place = place;
        _address = address;
        _more = more;
        _process = Launch();
    }

    /// <summary>Where its clients find it.</summary>
    public string Url => $"{_scheme}://{_address}:{_client.ToString(CultureInfo.InvariantCulture)}";

    /// <summary>What daemons are given as <c>--arbiter</c>.</summary>
    public string Arbiter => "etcd:" + Url;

    /// <summary>Starts one for a lab, which disposes of it, and waits until it answers; skips the test loudly where there is none.</summary>
    /// <param name="lab">The lab.</param>
    /// <param name="place">The network namespace to start it in, or null.</param>
    /// <param name="address">An address there.</param>
    public static async Task<EtcdServer> StartAsync(Lab lab, string? place = null, string address = "127.0.0.1")
    {
        SkipUnlessInstalled();
        EtcdServer server = new(Path.Combine(lab.Directory, "etcd"), "http", place, address, []);
        lab.Own(server);
        await server.UntilItServesAsync();
        return server;
    }

    /// <summary>Starts one and waits until it answers; skips the test loudly where there is none.</summary>
    /// <param name="directory">Where its data may be; a directory of its own is made in it.</param>
    /// <param name="scheme">http or https.</param>
    /// <param name="more">More options.</param>
    public static async Task<EtcdServer> StartAsync(string directory, string scheme = "http", params string[] more)
    {
        SkipUnlessInstalled();
        EtcdServer server = new(Path.Combine(directory, "etcd"), scheme, null, "127.0.0.1", more);
        await server.UntilItServesAsync();
        return server;
    }

    /// <summary>Ends it at once.</summary>
    public async Task KillAsync()
    {
        _process.Kill();
        await _process.WaitForExitAsync();
    }

    /// <summary>Starts it again on the same data and waits until it answers.</summary>
    public async Task StartAgainAsync()
    {
        _process = Launch();
        await UntilItServesAsync();
    }

    /// <summary>It answers nobody, and closes no connection.</summary>
    public void Silence() => Daemon.Signal(_process.Id, 19);

    /// <summary>It answers again.</summary>
    public void Speak() => Daemon.Signal(_process.Id, 18);

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            await KillAsync();
        }

        _process.Dispose();
    }

    private static void SkipUnlessInstalled() => Skip.If(
        ChildProcess.Find("etcd") is null, "SKIPPED: etcd is not installed; run eng/install-deps: nothing of the arbiter is tested here");

    private static int FreePort()
    {
        using TcpListener listener = new(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    private Process Launch()
    {
        string peer = $"http://127.0.0.1:{_peer.ToString(CultureInfo.InvariantCulture)}";

        // ip becomes etcd: the process keeps its number.
        string[] before = _place is null ? [] : ["netns", "exec", _place, "etcd"];
        ProcessStartInfo start = new(_place is null ? "etcd" : "ip", [
            .. before, "--name", "test", "--data-dir", _directory, "--listen-client-urls", Url, "--advertise-client-urls", Url,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", $"test={peer}", "--unsafe-no-fsync", .. _more])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        TaskCompletionSource serves = _serves = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        List<string> said = [];
        Process process = Process.Start(start)!;
        process.ErrorDataReceived += (_, e) =>
        {
            if (e.Data is { } line)
            {
                said.Add(line);
                if (line.Contains("ready to serve client requests"))
                {
                    serves.TrySetResult();
                }
            }
            else
            {
                serves.TrySetException(new InvalidOperationException("etcd ended by itself:\n" + string.Join('\n', said.TakeLast(10))));
            }
        };
        process.BeginErrorReadLine();
        process.BeginOutputReadLine();
        return process;
    }

    private Task UntilItServesAsync() => _serves.Task.WaitAsync(Daemon.Limit);
}
