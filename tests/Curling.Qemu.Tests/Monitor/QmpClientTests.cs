using System.Globalization;
using System.Text;
using System.Text.Json;
using CsCheck;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Tests.Monitor;

public class QmpClientTests
{
    [Fact]
    public async Task MatchesAnswersByIdAndNotByOrder()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement[] commands = [await talk.HearAsync(), await talk.HearAsync(), await talk.HearAsync()];
            foreach (JsonElement command in commands.Reverse())
            {
                await talk.TellAsync("NOISE");
                await talk.AnswerAsync(command, $"\"{FakeMonitor.Command(command)}\"");
            }

            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        string[] names = ["a", "b", "c"];
        JsonElement[] answers = await Task.WhenAll(names.Select(n => client.ExecuteAsync(n, limit: FakeMonitor.Limit)));
        Assert.Equal(names, answers.Select(a => a.GetString()));
    }

    [Fact]
    public async Task WritesArgumentsAsJson()
    {
        JsonElement heard = default;
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            heard = await talk.HearAsync();
            await talk.AnswerAsync(heard, "{}");
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        await client.ExecuteAsync("x", w => w.WriteString("path", "a\"b\n,é"));
        Assert.Equal("a\"b\n,é", heard.GetProperty("arguments").GetProperty("path").GetString());
    }

    [Fact]
    public async Task SaysWhatQemuRefusedAndGoesOn()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.RefuseAsync(await talk.HearAsync(), "CommandNotFound", "no such thing");
            await talk.AnswerAsync(await talk.HearAsync(), "7");
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        QmpException e = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("frobnicate"));
        Assert.Equal("CommandNotFound", e.ErrorClass);
        Assert.Contains("frobnicate", e.Message, StringComparison.Ordinal);
        Assert.Contains("no such thing", e.Message, StringComparison.Ordinal);
        Assert.Equal(7, (await client.ExecuteAsync("next")).GetInt32());
    }

    [Fact]
    public async Task ALateAnswerIsNobodysAnswer()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement slow = await talk.HearAsync();
            JsonElement next = await talk.HearAsync();
            await talk.AnswerAsync(slow, "\"late\"");
            await talk.AnswerAsync(next, "\"right\"");
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        QmpException e = await Assert.ThrowsAsync<QmpException>(
            () => client.ExecuteAsync("slow", limit: TimeSpan.FromMilliseconds(50)));
        Assert.Contains("slow: QEMU did not answer within 0.05 s", e.Message, StringComparison.Ordinal);
        Assert.Equal("right", (await client.ExecuteAsync("next")).GetString());
    }

    [Fact]
    public async Task CancellingStopsTheWait()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(talk => talk.WaitForEndAsync());
        await using QmpClient client = await ConnectAsync(monitor);
        using CancellationTokenSource cancel = new();
        Task<JsonElement> waiting = client.ExecuteAsync("slow", limit: FakeMonitor.Limit, cancellation: cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => waiting);
    }

    [Fact]
    public async Task HandsEventsOverInOrder()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.TellAsync("STOP", 1700000000, 123456);
            await talk.TellAsync("SHUTDOWN", 1700000001, 7, "{\"guest\": true}");
            await talk.SayAsync("""{"event": "ODD"}""");
        });
        await using QmpClient client = await ConnectAsync(monitor);
        List<QmpEvent> events = [];
        using CancellationTokenSource limit = new(FakeMonitor.Limit);
        await foreach (QmpEvent e in client.Events.ReadAllAsync(limit.Token))
        {
            events.Add(e);
        }

        Assert.Equal(["STOP", "SHUTDOWN", "ODD"], events.Select(e => e.Name));
        Assert.Equal([1700000000123456, 1700000001000007, 0], events.Select(e => e.Micros));
        Assert.True(events[1].Data.GetProperty("guest").GetBoolean());
        Assert.Equal(JsonValueKind.Object, events[2].Data.ValueKind);
    }

    [Fact]
    public async Task WhenQemuClosesEveryOpenCommandFailsAndLaterOnesToo()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.HearAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        Task<JsonElement>[] open = [client.ExecuteAsync("one", limit: FakeMonitor.Limit), client.ExecuteAsync("two", limit: FakeMonitor.Limit)];
        foreach ((Task<JsonElement> task, string name) in open.Zip(["one", "two"]))
        {
            QmpException e = await Assert.ThrowsAsync<QmpException>(() => task);
            Assert.Contains("QEMU closed its monitor", e.Message, StringComparison.Ordinal);
            Assert.Contains(name, e.Message, StringComparison.Ordinal);
        }

        QmpException later = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("three"));
        Assert.Contains("three", later.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("hello")]
    [InlineData("[]")]
    [InlineData("{\"event\": 5}")]
    [InlineData("{\"event\": \"\\ud800\"}")]
    [InlineData("{\"return\": {}} trailing")]
    public async Task WhatIsNotQmpEndsTheConversationWithAReason(string line)
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.SayAsync(line);
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        QmpException e = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("x", limit: FakeMonitor.Limit));
        Assert.Contains("not QMP", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ACommandThatQemuCouldNotReadEndsTheConversation()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.SayAsync("""{"error": {"class": "GenericError", "desc": "JSON parse error"}}""");
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        QmpException e = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("x", limit: FakeMonitor.Limit));
        Assert.Contains("JSON parse error", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ALineWithoutEndIsGivenUp()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            byte[] block = Encoding.ASCII.GetBytes(new string('x', 1 << 20));
            for (int i = 0; i < 17; i++)
            {
                await talk.SayBytesAsync(block);
            }

            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        QmpException e = await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("x", limit: FakeMonitor.Limit));
        Assert.Contains(QmpClient.MaxLineBytes.ToString(CultureInfo.InvariantCulture), e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task TakesALongLineInManyPieces()
    {
        string text = new('y', 3 << 20);
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.AnswerAsync(await talk.HearAsync(), $"\"{text}\"");
            await talk.WaitForEndAsync();
        });
        await using QmpClient client = await ConnectAsync(monitor);
        Assert.Equal(text, await client.HumanAsync("info everything"));
    }

    [Fact]
    public async Task AQemuThatReadsNothingDoesNotHoldACallForEver()
    {
        // The socket's buffer fills up, so that the command itself cannot be sent.
        await using FakeMonitor monitor = FakeMonitor.Start(talk => talk.DoNothingAsync());
        await using QmpClient client = await ConnectAsync(monitor);
        string large = new('z', 8 << 20);
        QmpException e = await Assert.ThrowsAsync<QmpException>(
            () => client.ExecuteAsync("huge", w => w.WriteString("a", large), TimeSpan.FromMilliseconds(200)).WaitAsync(FakeMonitor.Limit));
        Assert.Contains("huge: QEMU did not answer", e.Message, StringComparison.Ordinal);

        // Half a command is on its way: the conversation must not go on.
        await Assert.ThrowsAsync<QmpException>(() => client.ExecuteAsync("next", limit: FakeMonitor.Limit).WaitAsync(FakeMonitor.Limit));
    }

    [Fact]
    public async Task GivesUpWhenNobodyOpensTheSocket()
    {
        using TemporaryDirectory directory = new();
        QmpException e = await Assert.ThrowsAsync<QmpException>(
            () => QmpClient.ConnectAsync(directory.File("no.sock"), TimeSpan.FromMilliseconds(50)));
        Assert.Contains("no.sock", e.Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<QmpException>(
            () => QmpClient.ConnectAsync(directory.File("no.sock"), FakeMonitor.Limit, gaveUp: Task.CompletedTask));
    }

    [Fact]
    public async Task DisposingFailsWhatIsOpen()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(talk => talk.WaitForEndAsync());
        QmpClient client = await ConnectAsync(monitor);
        Task<JsonElement> open = client.ExecuteAsync("x", limit: FakeMonitor.Limit);
        await client.DisposeAsync();
        await Assert.ThrowsAsync<QmpException>(() => open);
    }

    [Fact]
    public void WhateverQemuSaysACallEndsWithAnAnswerOrAQmpError() => Noise.Lines.Sample(
        line => SayAsync(line).GetAwaiter().GetResult(), iter: 200, threads: 1);

    private static async Task SayAsync(byte[] line)
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.SayBytesAsync(line);
        });
        await using QmpClient client = await ConnectAsync(monitor);
        try
        {
            await client.ExecuteAsync("x", limit: FakeMonitor.Limit).WaitAsync(FakeMonitor.Limit);
        }
        catch (QmpException)
        {
            // Named.
        }

        // Events end too, or whoever watches them would wait for ever.
        using CancellationTokenSource limit = new(FakeMonitor.Limit);
        await foreach (QmpEvent e in client.Events.ReadAllAsync(limit.Token))
        {
            Assert.NotNull(e.Name);
        }
    }

    private static Task<QmpClient> ConnectAsync(FakeMonitor monitor) => QmpClient.ConnectAsync(monitor.Path, FakeMonitor.Limit);
}
