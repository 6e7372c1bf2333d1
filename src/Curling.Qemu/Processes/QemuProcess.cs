using System.Net;
using System.Net.Sockets;
using System.Text.Json;
using Curling.Linux.Processes;
using Curling.Qemu.Guests;
using Curling.Qemu.Monitor;
using Microsoft.Extensions.Logging;

namespace Curling.Qemu.Processes;

/// <summary>A running QEMU with its two monitors.</summary>
/// <remarks>Thread-safe except <see cref="Cut"/>, which belongs to one thread. Disposing kills QEMU.</remarks>
public sealed partial class QemuProcess : IAsyncDisposable
{
    private static readonly TimeSpan StartLimit = TimeSpan.FromSeconds(60);
    private readonly ChildProcess _child;

    private QemuProcess(ChildProcess child, QmpClient qmp, QmpCutMonitor cut, Version version, QemuLaunch launch)
    {
        _child = child;
        Qmp = qmp;
        Cut = cut;
        Version = version;
        Launch = launch;
    }

    /// <summary>The monitor for everything but the cut.</summary>
    public QmpClient Qmp { get; }

    /// <summary>The monitor for the cut.</summary>
    public QmpCutMonitor Cut { get; }

    /// <summary>QEMU's version.</summary>
    public Version Version { get; }

    /// <summary>What it was started with.</summary>
    public QemuLaunch Launch { get; }

    /// <summary>The process number.</summary>
    public int Pid => _child.Pid;

    /// <summary>Completes when QEMU has ended.</summary>
    public Task<int> Exited => _child.Exited;

    /// <summary>The last that QEMU printed.</summary>
    public string ErrorTail => _child.ErrorTail;

    /// <summary>Starts QEMU and opens its monitors.</summary>
    /// <exception cref="QemuException">It did not start; the message has what it printed.</exception>
    public static async Task<QemuProcess> StartAsync(QemuLaunch launch, ILogger log, CancellationToken cancellation)
    {
        launch = WithSpicePort(launch);
        IReadOnlyList<string> arguments = QemuCommandLine.Build(launch);
        Log.Starting(log, launch.Binary, string.Join(' ', arguments));
        ChildProcess child = QemuBinary.StartChild(new ChildProcessOptions(launch.Binary, arguments)
        {
            LogPath = Path.Combine(launch.Directory, "qemu.log"),
        });
        QmpClient? qmp = null;
        QmpCutMonitor? cut = null;
        try
        {
            qmp = await QmpClient.ConnectAsync(Path.Combine(launch.Directory, "qmp.sock"), StartLimit, child.Exited, cancellation);
            cut = await QmpCutMonitor.ConnectAsync(
                Path.Combine(launch.Directory, "cut.sock"), StartLimit, child.Exited, cancellation);
            Version version = QemuBinary.ReadVersion(await qmp.ExecuteAsync("query-version", cancellation: cancellation));
            return new QemuProcess(child, qmp, cut, version, launch);
        }
        catch (Exception e)
        {
            cut?.Dispose();
            if (qmp is not null)
            {
                await qmp.DisposeAsync();
            }

            // Give a QEMU that is ending the moment it needs to say why.
            await Task.WhenAny(child.Exited, Task.Delay(TimeSpan.FromMilliseconds(500), CancellationToken.None));
            string tail = child.ErrorTail;
            bool ended = child.HasExited;
            await child.DisposeAsync();
            if (e is QmpException && ended)
            {
                throw new QemuException($"QEMU did not start: {(tail.Length > 0 ? tail : "it ended without a word")}", e);
            }

            throw;
        }
    }

    /// <summary>Where the guest's display can be seen, such as <c>127.0.0.1:5900</c>, or null.</summary>
    public async Task<string?> DisplayAddressAsync(CancellationToken cancellation)
    {
        if (Launch.Definition.Display is not { } display)
        {
            return null;
        }

        JsonElement answer = await Qmp.ExecuteAsync(display.Type == "vnc" ? "query-vnc" : "query-spice", cancellation: cancellation);
        string? host = answer.TryGetProperty("host", out JsonElement h) ? h.GetString() : null;
        string? port = answer.TryGetProperty("service", out JsonElement s) ? s.GetString()
            : answer.TryGetProperty("port", out JsonElement p) ? p.ToString() : null;
        return host is null || port is null ? null : $"{host}:{port}";
    }

    /// <summary>Ends QEMU at once.</summary>
    public void Kill() => _child.Kill();

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _child.Kill();
        Cut.Dispose();
        await Qmp.DisposeAsync();
        await _child.DisposeAsync();
    }

    /// <summary>QEMU looks for a free port for VNC, but takes port 0 for a SPICE display that nobody can reach.</summary>
    private static QemuLaunch WithSpicePort(QemuLaunch launch)
    {
        if (launch.Definition.Display is not { Type: "spice" } defined || launch.DisplayListen is { } given && !DisplayDefinition.IsListen(given))
        {
            return launch;
        }

        DisplayDefinition display = defined with { Listen = launch.DisplayListen ?? defined.Listen };
        if (display.Port != 0 || !IPAddress.TryParse(display.Host, out IPAddress? address))
        {
            return launch;
        }

        try
        {
            using TcpListener free = new(address, 0);
            free.Start();
            return launch with { DisplayListen = free.LocalEndpoint.ToString() };
        }
        catch (SocketException e)
        {
            throw new QemuException($"there is no free port for the display on {display.Host}: {e.Message}", e);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "QemuStarting", Level = LogLevel.Debug, Message = "Starting {Binary} {Arguments}")]
        public static partial void Starting(ILogger log, string binary, string arguments);
    }
}
