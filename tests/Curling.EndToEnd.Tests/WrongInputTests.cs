using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Curling.Protocol;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests;

/// <summary>Wrong input gets a clear error, a non-zero exit and leaves nothing behind.</summary>
public sealed class WrongInputTests(ITestOutputHelper output)
{
    [SkippableTheory]
    [InlineData("curling-send", "--target tcp:127.0.0.1:7 --bogus", "--bogus")]
    [InlineData("curling-send", "", "--target")]
    [InlineData("curling-send", "--target localhost:7711", "does not begin with tcp:")]
    [InlineData("curling-send", "--target tcp:localhost", "has no port")]
    [InlineData("curling-send", "--target tcp:localhost:99999", "is not a port")]
    [InlineData("curling-send", "--target tcp:127.0.0.1:7 --bandwidth fast", "\"fast\" is not a rate")]
    [InlineData("curling-send", "--target tcp:127.0.0.1:7 --rounds some", "\"some\" is none of auto, full, incremental")]
    [InlineData("curling-send", "--target tcp:127.0.0.1:7 --interval soon", "--interval")]
    [InlineData("curling-send", "--target tcp:127.0.0.1:7 --max-overhead 200%", "--max-overhead")]
    [InlineData("curling-recv", "--listen tcp:127.0.0.1:0 --on-failure maybe", "\"maybe\" is none of promote, hold")]
    [InlineData("curling-recv", "--listen tcp:127.0.0.1:0 --max-guest-memory lots", "\"lots\" is not a size")]
    [InlineData("curling-recv", "--listen tcp:127.0.0.1:0 --failure-timeout never", "\"never\" is not a time")]
    [InlineData("curling-recv", "--listen tcp:127.0.0.1:0 --max-guests 0", "--max-guests")]
    [InlineData("curling-recv", "promotes", "promotes")]
    public async Task Command_line(string program, string arguments, string expected)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (int code, _, string error) = await lab.RunAsync(program, arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries));
        Assert.Equal(2, code);
        Assert.Contains(expected, error);
        Assert.Contains("--help", error);
        Assert.DoesNotContain("   at ", error);
    }

    [SkippableTheory]
    [InlineData("{ \"name\": \"x\", \"memory\": ", "not JSON at line 1")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"64MiB\", \"colour\": 1 }", "field \"colour\": it is unknown")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"12XB\" }", "field \"memory\": \"12XB\" is not a size")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"9TiB\" }", "more than this host has")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"64MiB\", \"kernel\": \"/no/such/kernel\" }", "field \"kernel\": there is no file /no/such/kernel")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"64MiB\", \"machine\": \"virt\" }", "field \"machine\"")]
    [InlineData("{ \"name\": \"x\", \"memory\": \"64MiB\", \"disks\": [ {} ] }", "field \"disks[0]")]
    [InlineData(null, "cannot be read")]
    public async Task Guest_file(string? json, string expected)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string path = Path.Combine(lab.Directory, "guest.json");
        if (json is not null)
        {
            await File.WriteAllTextAsync(path, json);
        }

        (int code, _, string error) = await lab.RunAsync("curling-send", "--target", "tcp:127.0.0.1:7", "--guest", path);
        Assert.Equal(1, code);
        Assert.Contains(expected, error);
        Assert.Contains("guest.json", error);
        Assert.DoesNotContain("   at ", error);
    }

    [SkippableFact]
    public async Task Qemu_that_is_missing_or_something_else()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        foreach (string program in (string[])["curling-send", "curling-recv"])
        {
            string[] where = program == "curling-send" ? ["--target", "tcp:127.0.0.1:7"] : ["--listen", "tcp:127.0.0.1:0"];
            (int code, _, string error) = await lab.RunAsync(program, [.. where, "--qemu", "/no/such/qemu"]);
            Assert.Equal(1, code);
            Assert.Contains("QEMU was not found (/no/such/qemu); install", error);
            (code, _, error) = await lab.RunAsync(program, [.. where, "--qemu", "/bin/false"]);
            Assert.Equal(1, code);
            Assert.Contains("/bin/false", error);
        }
    }

    [SkippableFact]
    public async Task Qemu_that_is_too_old()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));

        // A monitor that says 6.2: what an old QEMU would answer.
        string fake = Path.Combine(lab.Directory, "old-qemu");
        await File.WriteAllTextAsync(fake, """
            #!/usr/bin/env python3
            import json, re, socket, sys
            path = re.search(r"path=([^,]*)", " ".join(sys.argv)).group(1)
            s = socket.socket(socket.AF_UNIX); s.bind(path); s.listen(1)
            c, _ = s.accept(); f = c.makefile("rw")
            f.write('{"QMP": {}}\n'); f.flush()
            for line in f:
                r = json.loads(line)
                v = {"qemu": {"major": 6, "minor": 2, "micro": 0}} if r["execute"] == "query-version" else {}
                f.write(json.dumps({"return": v, "id": r["id"]}) + "\n"); f.flush()
            """);
        File.SetUnixFileMode(fake, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        (int code, _, string error) = await lab.RunAsync("curling-recv", "--listen", "tcp:127.0.0.1:0", "--qemu", fake);
        Skip.If(error.Contains("env:"), "there is no python3 to play an old QEMU with");
        Assert.Equal(1, code);
        Assert.Contains("is QEMU 6.2.0; Curling needs 7.2 or newer", error);
    }

    [SkippableFact]
    public async Task Port_in_use()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        (int code, _, string error) = await lab.RunAsync("curling-recv", "--listen", receiver.Endpoint);
        Assert.Equal(1, code);
        Assert.Contains("the port is in use", error);
    }

    [SkippableFact]
    public async Task Log_file_that_cannot_be_written()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (int code, _, string error) = await lab.RunAsync(
            "curling-recv", "--listen", "tcp:127.0.0.1:0", "--log-file", Path.Combine(lab.Directory, "no", "such", "log"));
        Assert.Equal(1, code);
        Assert.Contains("the log file", error);
    }

    [SkippableFact]
    public async Task Status_with_no_daemon()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        (int code, _, string error) = await lab.RunAsync("curling-recv", "status");
        Assert.Equal(1, code);
        Assert.Contains("no curling-recv runs here", error);
        (code, _, error) = await lab.RunAsync("curling-send", "status", "--control", Path.Combine(lab.Directory, "none.sock"));
        Assert.Equal(1, code);
        Assert.Contains("no daemon answers", error);
    }

    [SkippableFact]
    public async Task Memory_filesystem_without_room()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string small = Path.Combine(lab.Directory, "small");
        Directory.CreateDirectory(small);
        (int mounted, _, _) = await Shell("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small);
        Skip.If(mounted != 0, "a small filesystem cannot be mounted: not root");
        string shm = lab.Memory;
        try
        {
            Receiver receiver = await lab.StartReceiverAsync();
            lab.Memory = small;
            Sender sender = lab.StartSender(receiver.Endpoint, null);
            Assert.Equal(1, await sender.ExitAsync());
            await sender.UntilLogAsync("no room in ");

            // And the other way round: the receiver has no room, the sender is told.
            Receiver tight = await lab.StartReceiverAsync();
            lab.Memory = shm;
            Sender other = lab.StartSender(tight.Endpoint, null);
            Assert.Equal(1, await other.ExitAsync());
            await other.UntilLogAsync("no room in ");
            await tight.UntilLogAsync("is refused: no room in ");
            await tight.StopAsync();
            await receiver.StopAsync();
            Assert.Empty(Directory.EnumerateFileSystemEntries(small));
        }
        finally
        {
            lab.Memory = shm;
            await Shell("umount", small);
        }
    }

    [SkippableFact]
    public async Task Peer_that_is_not_curling_and_one_of_a_newer_version()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        using (TcpClient http = new())
        {
            await http.ConnectAsync(IPAddress.Loopback, receiver.Port);
            await http.GetStream().WriteAsync("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"u8.ToArray());
            await receiver.UntilLogAsync("the peer is not Curling");
        }

        byte[] newer = new byte[FrameHeader.Bytes];
        new FrameHeader(FrameType.Hello, 0, 0, FrameHeader.HashOf([])).Write(newer);
        newer[4] = ProtocolLimits.Version + 1;
        using (TcpClient future = new())
        {
            await future.ConnectAsync(IPAddress.Loopback, receiver.Port);
            await future.GetStream().WriteAsync(newer);
            await receiver.UntilLogAsync("upgrade Curling here");
        }

        // A sender whose receiver is something else goes on trying, and says what it met.
        using TcpListener listener = new(IPAddress.Loopback, 0);
        listener.Start();
        Task serving = ServeAsync(listener);
        int port = ((IPEndPoint)listener.LocalEndpoint).Port;
        Sender sender = lab.StartSender(string.Create(CultureInfo.InvariantCulture, $"tcp:127.0.0.1:{port}"), null);
        await sender.UntilLogAsync("the peer is not Curling");
        await sender.StopAsync();
        listener.Stop();
        await serving;
        Assert.False(receiver.HasExited);
    }

    [SkippableTheory]
    [InlineData("--max-guest-memory", "32MiB", "more than the receiver allows")]
    [InlineData("--max-round-bytes", "16MiB", "--max-round-bytes")]
    public async Task Receiver_that_is_too_small(string option, string value, string expected)
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        string guest = TestGuests.WriteBuiltin(lab.Directory, "large", memory: "128MiB", append: "ws=64M rate=100000");
        Receiver receiver = await lab.StartReceiverAsync(option, value);
        Sender sender = lab.StartSender(receiver.Endpoint, guest, "--rounds", "full", "--interval", "3s");
        await receiver.UntilAsync(() => receiver.Log.Any(l => l.Contains(expected)), "the receiver says so");
        await sender.UntilLogAsync(expected);
        Assert.False(receiver.HasExited);
    }

    [SkippableFact]
    public async Task Hundred_connections_that_say_nothing_or_nonsense_keep_nobody_out()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync();
        using CancellationTokenSource stop = new();
        Task[] hostile = [.. Enumerable.Range(0, 100).Select(i => BotherAsync(receiver.Port, i, stop.Token))];
        await receiver.UntilLogAsync("connections are open and say nothing");
        Sender sender = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "served"));
        await sender.UntilProtectedAsync();
        await sender.UntilFreshRoundAsync();
        sender.Signal(19); // SIGSTOP: no goodbye, and back again
        await Task.Delay(200);
        sender.Signal(18); // SIGCONT
        await sender.UntilFreshRoundAsync();
        await stop.CancelAsync();
        await Task.WhenAll(hostile);
        Assert.False(receiver.HasExited);
    }

    private static async Task BotherAsync(int port, int number, CancellationToken stop)
    {
        byte[] nonsense = new byte[64];
        new Random(number).NextBytes(nonsense);
        while (!stop.IsCancellationRequested)
        {
            using System.Net.Sockets.Socket socket = new(System.Net.Sockets.SocketType.Stream, System.Net.Sockets.ProtocolType.Tcp);
            try
            {
                await socket.ConnectAsync(System.Net.IPAddress.Loopback, port, stop);
                if (number % 4 == 0)
                {
                    await socket.SendAsync(nonsense, stop);
                }

                // Open until the receiver closes it.
                while (await socket.ReceiveAsync(nonsense, stop) > 0)
                {
                }

                await Task.Delay(20, stop);
            }
            catch (Exception e) when (e is OperationCanceledException or System.Net.Sockets.SocketException)
            {
                // Turned away.
            }
        }
    }

    [SkippableFact]
    public async Task Too_many_guests_and_a_name_that_is_taken()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync("--max-guests", "1");
        Sender first = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "one"));
        await first.UntilProtectedAsync();
        Sender taken = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "one"));
        Assert.Equal(1, await taken.ExitAsync());
        Assert.Contains(taken.Log, l => l.Contains("of another sender"));
        Sender second = lab.StartSender(receiver.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "two"));
        Assert.Equal(1, await second.ExitAsync());
        Assert.Contains(second.Log, l => l.Contains("--max-guests"));
        await first.UntilFreshRoundAsync();
    }

    private static async Task ServeAsync(TcpListener listener)
    {
        try
        {
            while (true)
            {
                using TcpClient client = await listener.AcceptTcpClientAsync();
                byte[] hello = new byte[FrameHeader.Bytes];
                await client.GetStream().ReadExactlyAsync(hello);
                byte[] rest = new byte[BinaryPrimitives.ReadInt32LittleEndian(hello.AsSpan(8))];
                await client.GetStream().ReadExactlyAsync(rest);
                await client.GetStream().WriteAsync("220 mail.example.net ESMTP ready; how may I be of service?\r\n"u8.ToArray());
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or IOException or InvalidOperationException)
        {
            // The test is over.
        }
    }

    private static async Task<(int Code, string Output, string Error)> Shell(string program, params string[] arguments)
    {
        using System.Diagnostics.Process process = System.Diagnostics.Process.Start(
            new System.Diagnostics.ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        string output = await process.StandardOutput.ReadToEndAsync();
        await process.WaitForExitAsync();
        return (process.ExitCode, output, await process.StandardError.ReadToEndAsync());
    }
}
