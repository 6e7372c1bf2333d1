using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Curling.Linux.Processes;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Curling.TestKit.Network;

/// <summary>
/// Two hosts and a client, each in a network namespace of its own, on one switch; and a cable between the two hosts for the rounds.
/// Each host has a bridge <c>br0</c> with its port to the switch. The client has the address 10.77.0.1, guests take others of
/// 10.77.0.0/24; the hosts have 10.78.0.1 and 10.78.0.2 on their own cable.
/// </summary>
/// <remarks>Disposing removes everything; what a killed test left, the next one's creation removes.</remarks>
public sealed class NetworkLab : IDisposable
{
    /// <summary>The primary's host, on the cable between the hosts.</summary>
    public const string PrimaryAddress = "10.78.0.1";

    /// <summary>The standby's host, on the cable between the hosts.</summary>
    public const string StandbyAddress = "10.78.0.2";

    private const string Prefix = "curl-";
    private const int NewNetwork = 0x40000000;
    private readonly string _name = string.Create(CultureInfo.InvariantCulture, $"{Prefix}{Environment.ProcessId}-{Random.Shared.Next(10000)}");

    /// <summary>Makes the namespaces; skips the test loudly where that is not allowed.</summary>
    public NetworkLab()
    {
        Skip.If(Environment.UserName != "root", "SKIPPED: network namespaces need root: nothing of the network is tested here");
        RemoveLeftovers();
        Skip.IfNot(File.Exists("/dev/net/tun"), "SKIPPED: there is no /dev/net/tun: nothing of the network is tested here");
        Try("netns", "add", Switch);
        Try("-n", Switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0");
        Ip("-n", Switch, "link", "set", "br0", "up");
        foreach (string host in (ReadOnlySpan<string>)[Primary, Standby, Client])
        {
            Try("netns", "add", host);
            Ip("-n", host, "link", "set", "lo", "up");
            string port = "p" + host[^1];
            Try("-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", Switch);
            Ip("-n", Switch, "link", "set", port, "master", "br0", "up");
            Ip("-n", host, "link", "set", "eth0", "up");
        }

        foreach (string host in (ReadOnlySpan<string>)[Primary, Standby])
        {
            Ip("-n", host, "link", "add", "br0", "type", "bridge", "forward_delay", "0", "mcast_snooping", "0");
            Ip("-n", host, "link", "set", "br0", "up");
            Ip("-n", host, "link", "set", "eth0", "master", "br0");
        }

        Ip("-n", Client, "addr", "add", "10.77.0.1/24", "dev", "eth0");
        Ip("-n", Primary, "link", "add", "rounds", "type", "veth", "peer", "name", "rounds", "netns", Standby);
        Ip("-n", Primary, "addr", "add", PrimaryAddress + "/24", "dev", "rounds");
        Ip("-n", Standby, "addr", "add", StandbyAddress + "/24", "dev", "rounds");
        Ip("-n", Primary, "link", "set", "rounds", "up");
        Ip("-n", Standby, "link", "set", "rounds", "up");
    }

    /// <summary>The namespace of the primary's host.</summary>
    public string Primary => _name + "a";

    /// <summary>The namespace of the standby's host.</summary>
    public string Standby => _name + "b";

    /// <summary>The namespace of the client.</summary>
    public string Client => _name + "c";

    /// <summary>The namespace of the switch between them.</summary>
    public string Switch => _name + "s";

    /// <summary>Creates a TCP socket that stands in the client's namespace.</summary>
    public Socket TcpSocket()
    {
        Socket socket = InClient(() => new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp));
        socket.NoDelay = true;
        return socket;
    }

    /// <summary>Creates a UDP socket that stands in the client's namespace.</summary>
    public Socket UdpSocket() => InClient(() => new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp));

    /// <summary>Connects to a service of a guest; tries again while there is nobody yet.</summary>
    public async Task<Socket> ConnectAsync(string address, int port, CancellationToken cancellation)
    {
        while (true)
        {
            Socket socket = TcpSocket();
            try
            {
                using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
                limit.CancelAfter(TimeSpan.FromSeconds(1));
                await socket.ConnectAsync(IPAddress.Parse(address), port, limit.Token);
                return socket;
            }
            catch (Exception e) when (e is SocketException or OperationCanceledException && !cancellation.IsCancellationRequested)
            {
                socket.Dispose();
                await Task.Delay(50, cancellation);
            }
        }
    }

    /// <summary>Starts a program in the client's namespace and waits for its end.</summary>
    /// <returns>What it printed.</returns>
    /// <exception cref="TimeoutException">It did not end.</exception>
    public async Task<string> RunInClientAsync(string program, params string[] arguments)
    {
        Skip.If(ChildProcess.Find(program) is null, $"SKIPPED: {program} is not installed; run eng/install-deps");
        using Process process = Process.Start(new ProcessStartInfo("ip", ["netns", "exec", Client, program, .. arguments])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        })!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        try
        {
            await process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(60));
        }
        catch (TimeoutException)
        {
            process.Kill();
            throw;
        }

        return await output + await error;
    }

    /// <summary>Runs <c>ip</c>, which must succeed.</summary>
    public static void Ip(params string[] arguments)
    {
        (int code, string error) = Run("ip", arguments);
        Assert.True(code == 0, $"ip {string.Join(' ', arguments)}: {error}");
    }

    /// <summary>Does something on a thread that stands in the client's namespace: sockets made there stay there.</summary>
    public T InClient<T>(Func<T> make) => In(Client, make);

    /// <summary>Does something on a thread that stands in a namespace.</summary>
    public static T In<T>(string name, Func<T> make)
    {
        T? made = default;
        Exception? failure = null;

        // The thread ends afterwards: no other work can find itself in there.
        Thread thread = new(() =>
        {
            try
            {
                // A namespace's file cannot be sought in, which a FileStream would want to.
                using SafeFileHandle file = new(Open("/run/netns/" + name, 0), ownsHandle: true);
                if (SetNamespace((int)file.DangerousGetHandle(), NewNetwork) != 0)
                {
                    throw new IOException($"the namespace {name} cannot be entered: error {Marshal.GetLastPInvokeError()}");
                }

                made = make();
            }
            catch (Exception e)
            {
                failure = e;
            }
        });
        thread.Start();
        thread.Join();
        return failure is null ? made! : throw new InvalidOperationException(failure.Message, failure);
    }

    /// <summary>Does what some hosts do not allow; skips the test loudly there.</summary>
    private void Try(params string[] arguments)
    {
        (int code, string error) = Run("ip", arguments);
        if (code != 0)
        {
            Dispose();
            Skip.If(true, $"SKIPPED: ip {string.Join(' ', arguments)}: {error.Trim()}: nothing of the network is tested here");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (string host in (ReadOnlySpan<string>)[Primary, Standby, Client, Switch])
        {
            _ = Run("ip", "netns", "del", host);
        }
    }

    private static void RemoveLeftovers()
    {
        if (!Directory.Exists("/run/netns"))
        {
            return;
        }

        foreach (string path in Directory.GetFiles("/run/netns", Prefix + "*"))
        {
            string name = Path.GetFileName(path);
            if (int.TryParse(name.Split('-')[1], CultureInfo.InvariantCulture, out int pid) && !ProcessInfo.Exists(pid))
            {
                _ = Run("ip", "netns", "del", name);
            }
        }
    }

    private static (int Code, string Error) Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, error);
    }

    [DllImport("libc", EntryPoint = "open", SetLastError = true)]
    private static extern int Open([MarshalAs(UnmanagedType.LPUTF8Str)] string path, int flags);

    [DllImport("libc", EntryPoint = "setns", SetLastError = true)]
    private static extern int SetNamespace(int descriptor, int kind);
}
