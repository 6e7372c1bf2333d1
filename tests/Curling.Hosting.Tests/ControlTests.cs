using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Curling.Hosting.Control;
using Curling.Hosting.Network;
using Curling.Hosting.Options;

namespace Curling.Hosting.Tests;

/// <summary>The control socket with real sockets, and the names that programs rely on.</summary>
public sealed class ControlTests : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("cc");

    private string Path => System.IO.Path.Combine(_directory.FullName, "control.sock");

    public void Dispose() => _directory.Delete(recursive: true);

    [Fact]
    public async Task Question_is_answered()
    {
        await using ControlServer server = ControlServer.Start(Path, (r, _) => Task.FromResult(ControlReply.Success(r.Command + " " + r.Guest)));
        ControlReply reply = await ControlClient.CallAsync(Path, new ControlRequest("promote", "web"), Limit);
        Assert.True(reply.Ok);
        Assert.Equal("promote web", reply.Done);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path));
    }

    [Theory]
    [InlineData("nonsense\n", "not JSON")]
    [InlineData("{}\n", "names no command")]
    [InlineData("[]\n", "not JSON")]
    public async Task Nonsense_is_answered_with_what_is_wrong(string sent, string expected)
    {
        await using ControlServer server = ControlServer.Start(Path, (_, _) => Task.FromResult(ControlReply.Success("done")));
        Assert.Contains(expected, await SayAsync(Encoding.UTF8.GetBytes(sent)));
        Assert.True((await ControlClient.CallAsync(Path, new ControlRequest("status"), Limit)).Ok);
    }

    [Fact]
    public async Task Endless_line_and_client_that_leaves_do_not_stop_others()
    {
        await using ControlServer server = ControlServer.Start(Path, (_, _) => Task.FromResult(ControlReply.Success("done")));
        Assert.Contains("longer than", await SayAsync(new byte[100_000]));
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path));
            await socket.SendAsync("{\"comm"u8.ToArray());
        }

        Assert.True((await ControlClient.CallAsync(Path, new ControlRequest("status"), Limit)).Ok);
    }

    [Fact]
    public async Task Error_of_the_handler_is_the_answer()
    {
        await using ControlServer server = ControlServer.Start(Path, (_, _) => throw new OperatorException("no such guest"));
        Assert.Equal("no such guest", (await ControlClient.CallAsync(Path, new ControlRequest("promote"), Limit)).Error);
    }

    [Fact]
    public async Task Who_is_being_answered_when_the_daemon_ends_gets_the_answer()
    {
        TaskCompletionSource asked = new();
        TaskCompletionSource go = new();
        ControlServer server = ControlServer.Start(Path, async (_, _) =>
        {
            asked.SetResult();
            await go.Task;
            return ControlReply.Success("moved");
        });
        Task<ControlReply> call = ControlClient.CallAsync(Path, new ControlRequest("switchover"), Limit);
        await asked.Task.WaitAsync(Limit);
        ValueTask ending = server.DisposeAsync();
        go.SetResult();
        await ending;
        Assert.Equal("moved", (await call).Done);
        Assert.False(File.Exists(Path));
    }

    [Fact]
    public async Task Status_is_told_while_something_else_takes_its_time_and_that_is_done_alone()
    {
        using SemaphoreSlim go = new(0);
        int acting = 0;
        int most = 0;
        await using ControlServer server = ControlServer.Start(Path, async (r, c) =>
        {
            if (r.Command != "status")
            {
                most = Math.Max(most, Interlocked.Increment(ref acting));
                await go.WaitAsync(c);
                Interlocked.Decrement(ref acting);
            }

            return ControlReply.Success(r.Command);
        });
        Task<ControlReply>[] moves = [.. Enumerable.Range(0, 3).Select(_ => ControlClient.CallAsync(Path, new ControlRequest("switchover"), Limit))];
        for (int i = 0; i < 20; i++)
        {
            Assert.Equal("status", (await ControlClient.CallAsync(Path, new ControlRequest("status"), Limit)).Done);
        }

        Assert.DoesNotContain(moves, m => m.IsCompleted);
        go.Release(3);
        await Task.WhenAll(moves);
        Assert.Equal(1, most);
    }

    [Fact]
    public async Task What_was_asked_by_someone_who_left_before_its_turn_does_not_happen()
    {
        using SemaphoreSlim go = new(0);
        List<string?> done = [];
        await using ControlServer server = ControlServer.Start(Path, async (r, c) =>
        {
            done.Add(r.Guest);
            await go.WaitAsync(c);
            return ControlReply.Success("done");
        });
        Task<ControlReply> first = ControlClient.CallAsync(Path, new ControlRequest("promote", "first"), Limit);
        while (done.Count == 0)
        {
            await Task.Delay(5);
        }

        using CancellationTokenSource leave = new(TimeSpan.FromMilliseconds(200));
        await Assert.ThrowsAnyAsync<OperationCanceledException>(
            () => ControlClient.CallAsync(Path, new ControlRequest("promote", "left"), Limit, leave.Token));
        go.Release(2);
        Assert.True((await first).Ok);
        Assert.True((await ControlClient.CallAsync(Path, new ControlRequest("promote", "last"), Limit)).Ok);
        Assert.Equal(["first", "last"], done);
    }

    [Fact]
    public async Task Error_that_nobody_thought_of_is_told_and_does_not_stop_the_others()
    {
        await using ControlServer server = ControlServer.Start(
            Path, (r, _) => r.Command == "status" ? Task.FromResult(ControlReply.Success("fine")) : throw new InvalidOperationException("oh"));
        Assert.Contains("oh", (await ControlClient.CallAsync(Path, new ControlRequest("promote"), Limit)).Error);
        Assert.True((await ControlClient.CallAsync(Path, new ControlRequest("status"), Limit)).Ok);
    }

    [Fact]
    public async Task Clients_that_say_nothing_keep_nobody_from_asking()
    {
        await using ControlServer server = ControlServer.Start(Path, (_, _) => Task.FromResult(ControlReply.Success("done")));
        List<Socket> silent = [];
        try
        {
            for (int i = 0; i < 40; i++)
            {
                Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                silent.Add(socket);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path)).WaitAsync(Limit);
            }

            Assert.True((await ControlClient.CallAsync(Path, new ControlRequest("status"), Limit)).Ok);
        }
        finally
        {
            silent.ForEach(s => s.Dispose());
        }
    }

    [Fact]
    public async Task Socket_of_a_dead_daemon_is_replaced_and_of_a_living_one_refused()
    {
        using (Socket dead = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            dead.Bind(new UnixDomainSocketEndPoint(Path));
        }

        File.WriteAllText(Path + ".other", "");
        await using ControlServer server = ControlServer.Start(Path, (_, _) => Task.FromResult(ControlReply.Success("done")));
        Assert.Contains("another daemon uses", Assert.Throws<OperatorException>(() => ControlServer.Start(Path, (_, _) => null!)).Message);
    }

    [Fact]
    public async Task Missing_daemon_is_named()
    {
        OperatorException e = await Assert.ThrowsAsync<OperatorException>(() => ControlClient.CallAsync(Path, new ControlRequest("status"), Limit));
        Assert.Contains(Path, e.Message);
    }

    [Fact]
    public void Names_in_json_are_stable()
    {
        ReceiverStatus receiver = new("tcp:h:1", [new SessionStatus("web", "protected", 7, null, 1, 42, new LastRoundStatus("full", 9, 3), null, false, null, null, null, null)
        {
            Right = new RightStatus("etcd:http://a:1", "receiver on h", 2, 3, false, true, 4, "p"),
        }])
        {
            Process = new ProcessStatus(1, 2, 3, 4),
        };
        Assert.Equal(
            "{\"role\":\"receiver\",\"listen\":\"tcp:h:1\",\"sessions\":[{\"guest\":\"web\",\"state\":\"protected\",\"committedRound\":7,"
            + "\"committedAt\":null,\"generation\":1,\"standbyPid\":42,\"lastRound\":{\"kind\":\"full\",\"bytes\":9,\"pauseMicroseconds\":3},"
            + "\"sender\":null,\"held\":false,\"serial\":null,\"display\":null,\"base\":null,\"reason\":null,\"network\":null,\"replicas\":null,\"next\":null,"
            + "\"right\":{\"arbiter\":\"etcd:http://a:1\",\"holder\":\"receiver on h\",\"generation\":2,\"validForMilliseconds\":3,\"vouched\":false,"
            + "\"suspended\":true,\"silentForMilliseconds\":4,\"problem\":\"p\"}}],"
            + "\"process\":{\"pid\":1,\"managedAllocatedBytes\":2,\"anonymousBytes\":3,\"sharedBytes\":4}}",
            JsonSerializer.Serialize(receiver, ControlJson.Default.ReceiverStatus));
        SenderStatus sender = new("web", "base", 3, 2, 42, new PauseStatus(1, 2, 3), 4, "tcp:h:1", "full", 0.5, 1, null, null, new BaseProgress(50, 6, 7), null)
        {
            Process = new ProcessStatus(1, 2, 3, 4),
            Sent = new SentStatus(5, 6, 7, 8, "lz4"),
            Output = new OutputStatus("output", true, 1, 2, 9, 3, 4, 5, [new PortCounters("52:54:00:00:00:01", "bridge:br0", "curling0", 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)]),
        };
        Assert.Equal(
            "{\"role\":\"sender\",\"guest\":\"web\",\"state\":\"base\",\"round\":3,\"committedRound\":2,\"guestPid\":42,"
            + "\"pauseMicroseconds\":{\"last\":1,\"p50\":2,\"p99\":3},\"bytesPerSecond\":4,\"target\":\"tcp:h:1\",\"rounds\":\"full\","
            + "\"roundsPerSecond\":0.5,\"generation\":1,\"serial\":null,\"display\":null,"
            + "\"base\":{\"percent\":50,\"bytesPerSecond\":6,\"secondsLeft\":7},\"reason\":null,"
            + "\"process\":{\"pid\":1,\"managedAllocatedBytes\":2,\"anonymousBytes\":3,\"sharedBytes\":4},"
            + "\"sent\":{\"memoryBytes\":5,\"encodedMemoryBytes\":6,\"deviceStateBytes\":7,\"totalBytes\":8,\"compression\":\"lz4\"},"
            + "\"output\":{\"sync\":\"output\",\"held\":true,\"heldMicrosecondsP50\":1,\"heldMicrosecondsP99\":2,\"ackMicrosecondsP50\":9,\"inboundCopiedFrames\":3,"
            + "\"inboundCopiedBytes\":4,\"inboundLeftOutFrames\":5,\"networks\":[{\"mac\":\"52:54:00:00:00:01\",\"attach\":\"bridge:br0\","
            + "\"device\":\"curling0\",\"heldFrames\":6,\"heldBytes\":7,\"releasedFrames\":8,\"releasedBytes\":9,\"droppedMisfits\":10,"
            + "\"droppedNoCable\":11,\"passedFrames\":12,\"passedBytes\":13,\"hostDroppedFrames\":14,\"overruns\":15}]},\"disks\":null,\"right\":null}",
            JsonSerializer.Serialize(sender, ControlJson.Default.SenderStatus));
        Assert.Contains("held: curling-recv promote web", StatusText.Format(receiver with { Sessions = [receiver.Sessions[0] with { Held = true }] }, DateTimeOffset.UtcNow));
        Assert.Contains("SUSPENDED", StatusText.Format(receiver, DateTimeOffset.UtcNow));
        Assert.Contains("50 %", StatusText.Format(sender));
        Assert.Contains("52:54:00:00:00:01 on curling0 (bridge:br0)", StatusText.Format(sender));
        Assert.Contains("stopped 15 times with no room", StatusText.Format(sender));
    }

    private async Task<string> SayAsync(byte[] bytes)
    {
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path));
        await socket.SendAsync(bytes);
        byte[] buffer = new byte[4096];
        using CancellationTokenSource limit = new(Limit);
        int count = await socket.ReceiveAsync(buffer, limit.Token);
        return Encoding.UTF8.GetString(buffer, 0, count);
    }
}
