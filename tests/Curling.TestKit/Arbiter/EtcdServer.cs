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
    private readonly string[] _more;
    private Process _process;

    private EtcdServer(string directory, string[] more)
    {
        _directory = directory;
        _more = more;
        _process = Launch();
    }

    /// <summary>What daemons are given as <c>--arbiter</c>.</summary>
    public string Arbiter => $"etcd:http://127.0.0.1:{_client.ToString(CultureInfo.InvariantCulture)}";

    /// <summary>The port of its clients.</summary>
    public int Port => _client;

    /// <summary>Starts one and waits until it answers; skips the test loudly where there is none.</summary>
    /// <param name="lab">Where its data may be, and who disposes of it.</param>
    /// <param name="more">More options.</param>
    public static async Task<EtcdServer> StartAsync(Lab lab, params string[] more)
    {
        Skip.If(ChildProcess.Find("etcd") is null, "SKIPPED: etcd is not installed; run eng/install-deps: nothing of the arbiter is tested here");
        EtcdServer server = new(Path.Combine(lab.Directory, "etcd"), more);
        lab.Own(server);
        await server.UntilItAnswersAsync();
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
        await UntilItAnswersAsync();
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

    private static int FreePort()
    {
        using TcpListener listener = new(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    private Process Launch()
    {
        string client = $"http://127.0.0.1:{_client.ToString(CultureInfo.InvariantCulture)}";
        string peer = $"http://127.0.0.1:{_peer.ToString(CultureInfo.InvariantCulture)}";
        ProcessStartInfo start = new("etcd", [
            "--name", "test", "--data-dir", _directory, "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", $"test={peer}", "--unsafe-no-fsync", .. _more])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        };
        Process process = Process.Start(start)!;
        process.BeginErrorReadLine();
        process.BeginOutputReadLine();
        return process;
    }

    private async Task UntilItAnswersAsync()
    {
        using HttpClient http = new() { Timeout = TimeSpan.FromSeconds(2) };
        long start = Stopwatch.GetTimestamp();
        while (true)
        {
            try
            {
                string health = await http.GetStringAsync(new Uri($"http://127.0.0.1:{_client.ToString(CultureInfo.InvariantCulture)}/health"));
                if (health.Contains("\"true\""))
                {
                    return;
                }
            }
            catch (Exception e) when (e is HttpRequestException or OperationCanceledException && Stopwatch.GetElapsedTime(start) < Daemon.Limit)
            {
                Assert.False(_process.HasExited, "etcd ended by itself");
            }

            await Task.Delay(50);
        }
    }
}
