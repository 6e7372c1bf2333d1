using System.Text.Json;
using CsCheck;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Tests.Monitor;

public class QmpCutMonitorTests
{
    private static readonly TimeSpan Short = TimeSpan.FromMilliseconds(50);

    [Fact]
    public async Task SendsStopAndSaveBeforeEitherIsAnswered()
    {
        JsonElement stop = default;
        JsonElement save = default;
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            stop = await talk.HearAsync();
            save = await talk.HearAsync(); // would wait for ever were the save sent only after the answer to stop
            await talk.TellAsync("STOP", 100, 5);
            await talk.AnswerAsync(stop, "{}");
            await talk.TellAsync("NOISE");
            await talk.AnswerAsync(save, "{}");
            JsonElement cont = await talk.HearAsync();
            Assert.Equal("cont", FakeMonitor.Command(cont));
            await talk.TellAsync("RESUME", 100, 3005);
            await talk.AnswerAsync(cont, "{}");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        cut.StopAndSave("/dev/shm/a \"b\"\n,é", FakeMonitor.Limit);
        Assert.Equal(100_000_005, cut.QemuStopMicros);
        Assert.True(cut.StoppedAt > 0);
        Assert.Equal(0, cut.QemuResumeMicros);
        cut.Continue(FakeMonitor.Limit);
        Assert.Equal(100_003_005, cut.QemuResumeMicros);
        Assert.True(cut.ResumedAt >= cut.StoppedAt);

        Assert.Equal("stop", FakeMonitor.Command(stop));
        Assert.Equal("xen-save-devices-state", FakeMonitor.Command(save));
        Assert.Equal("/dev/shm/a \"b\"\n,é", save.GetProperty("arguments").GetProperty("filename").GetString());
        Assert.False(save.GetProperty("arguments").GetProperty("live").GetBoolean());
    }

    [Fact]
    public async Task ContinueWaitsInQemuBehindTheSave()
    {
        bool copied = false;
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement stop = await talk.HearAsync();
            JsonElement save = await talk.HearAsync();
            await talk.TellAsync("STOP", 100, 5);
            await talk.AnswerAsync(stop, "{}");
            JsonElement cont = await talk.HearAsync(); // would wait for ever were it sent only after the save
            Assert.Equal("cont", FakeMonitor.Command(cont));
            Assert.True(Volatile.Read(ref copied), "the guest may run before everything is copied");
            await talk.AnswerAsync(save, "{}");
            await talk.TellAsync("RESUME", 100, 905);
            await talk.AnswerAsync(cont, "{}");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        cut.StopAndSave("/a", FakeMonitor.Limit, () => Volatile.Write(ref copied, true), thenContinue: true);
        Assert.Equal(900, cut.QemuResumeMicros - cut.QemuStopMicros);
    }

    [Fact]
    public async Task WhatFailsWhileSavingLeavesTheGuestStopped()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement stop = await talk.HearAsync();
            JsonElement save = await talk.HearAsync();
            await talk.AnswerAsync(stop, "{}");
            await talk.AnswerAsync(save, "{}");
            JsonElement next = await talk.HearAsync();
            Assert.Equal("stop", FakeMonitor.Command(next));
            await talk.AnswerAsync(next, "{}");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        Assert.Throws<TimeoutException>(() => cut.StopAndSave(
            "/a", FakeMonitor.Limit, () => throw new TimeoutException("no room"), thenContinue: true));
        cut.Stop(FakeMonitor.Limit);
    }

    [Fact]
    public async Task SaveThatFailsStillLetsTheGuestRun()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement stop = await talk.HearAsync();
            JsonElement save = await talk.HearAsync();
            await talk.AnswerAsync(stop, "{}");
            JsonElement cont = await talk.HearAsync();
            await talk.RefuseAsync(save, "GenericError", "disk full");
            await talk.TellAsync("RESUME", 100, 905);
            await talk.AnswerAsync(cont, "{}");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        QmpException refused = Assert.Throws<QmpException>(() => cut.StopAndSave("/a", FakeMonitor.Limit, thenContinue: true));
        Assert.Contains("disk full", refused.Message, StringComparison.Ordinal);
        Assert.Equal(100_000_905, cut.QemuResumeMicros);
    }

    [Fact]
    public async Task AnAnswerThatComesLateIsNotTheNextCommandsAnswer()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement[] late = [await talk.HearAsync(), await talk.HearAsync()];
            JsonElement[] next = [await talk.HearAsync(), await talk.HearAsync()];
            await talk.AnswerAsync(late[0], "{}");
            await talk.AnswerAsync(late[1], "{}");
            await talk.AnswerAsync(next[0], "{}");
            await talk.RefuseAsync(next[1], "GenericError", "disk full");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        Assert.Throws<QmpException>(() => cut.StopAndSave("/a", Short));
        QmpException e = Assert.Throws<QmpException>(() => cut.StopAndSave("/b", FakeMonitor.Limit));
        Assert.Contains("disk full", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task NamesTheCommandThatQemuRefused()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement stop = await talk.HearAsync();
            JsonElement save = await talk.HearAsync();
            await talk.AnswerAsync(stop, "{}");
            await talk.RefuseAsync(save, "CommandNotFound", "no Xen here");
            stop = await talk.HearAsync();
            save = await talk.HearAsync();
            await talk.RefuseAsync(stop, "GenericError", "cannot stop");
            await talk.AnswerAsync(save, "{}");
            await talk.AnswerAsync(await talk.HearAsync(), "{}");
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        QmpException save = Assert.Throws<QmpException>(() => cut.StopAndSave("/a", FakeMonitor.Limit));
        Assert.Equal("CommandNotFound", save.ErrorClass);
        Assert.Contains("xen-save-devices-state", save.Message, StringComparison.Ordinal);
        QmpException stop = Assert.Throws<QmpException>(() => cut.StopAndSave("/a", FakeMonitor.Limit));
        Assert.Contains("stop: cannot stop", stop.Message, StringComparison.Ordinal);
        cut.Continue(FakeMonitor.Limit);
    }

    [Fact]
    public async Task SaysWhenNothingComesOrQemuEnds()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.HearAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        QmpException late = Assert.Throws<QmpException>(() => cut.Stop(Short));
        Assert.Contains("stop: QEMU did not answer in time", late.Message, StringComparison.Ordinal);
        QmpException closed = Assert.Throws<QmpException>(() => cut.Continue(FakeMonitor.Limit));
        Assert.Contains("cont: QEMU closed its monitor", closed.Message, StringComparison.Ordinal);
        QmpException after = Assert.Throws<QmpException>(() => cut.Save("/a", FakeMonitor.Limit));
        Assert.Contains("QEMU closed its monitor", after.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("nonsense", "not QMP")]
    [InlineData("""{"event": 3}""", "not QMP")]
    [InlineData("""{"error": {"class": "GenericError", "desc": "JSON parse error"}}""", "JSON parse error")]
    public async Task WhatIsNotQmpEndsTheConversation(string line, string says)
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            await talk.HearAsync();
            await talk.SayAsync(line);
            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        Assert.Contains(says, Assert.Throws<QmpException>(() => cut.Stop(FakeMonitor.Limit)).Message, StringComparison.Ordinal);
        Assert.Contains(says, Assert.Throws<QmpException>(() => cut.Continue(FakeMonitor.Limit)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task ABadPathLeavesNothingHalfSent()
    {
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            JsonElement command = await talk.HearAsync();
            await talk.AnswerAsync(command, "{}");
            Assert.Equal("cont", FakeMonitor.Command(command));
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        Assert.Throws<ArgumentException>(() => cut.StopAndSave(new string('a', 5000), FakeMonitor.Limit));
        cut.Continue(FakeMonitor.Limit);
        await monitor.Script;
    }

    [Fact]
    public async Task ACutAllocatesNothing()
    {
        const int Warm = 200;
        const int Cuts = 500;
        await using FakeMonitor monitor = FakeMonitor.Start(async talk =>
        {
            for (int i = 0; i < Warm + Cuts; i++)
            {
                JsonElement stop = await talk.HearAsync();
                JsonElement save = await talk.HearAsync();
                await talk.TellAsync("STOP");
                await talk.AnswerAsync(stop, "{}");
                await talk.AnswerAsync(save, "{}");
                JsonElement cont = await talk.HearAsync();
                await talk.TellAsync("RESUME");
                await talk.AnswerAsync(cont, "{}");
            }

            await talk.WaitForEndAsync();
        });
        using QmpCutMonitor cut = await ConnectAsync(monitor);
        long allocated = -1;
        Thread thread = new(() =>
        {
            long before = 0;
            for (int i = 0; i < Warm + Cuts; i++)
            {
                before = i == Warm ? GC.GetAllocatedBytesForCurrentThread() : before;
                cut.StopAndSave("/dev/shm/state", FakeMonitor.Limit);
                cut.Continue(FakeMonitor.Limit);
            }

            allocated = GC.GetAllocatedBytesForCurrentThread() - before;
        });
        thread.Start();
        Assert.True(await Task.Run(() => thread.Join(FakeMonitor.Limit)));
        Assert.Equal(0, allocated);
    }

    [Fact]
    public void WhateverQemuSaysALineIsReadOrRefused()
    {
        QmpCutMessage message = new();
        Noise.Lines.Sample(
            line =>
            {
                try
                {
                    message.Read(line);
                }
                catch (Exception e) when (e is JsonException or InvalidOperationException)
                {
                    // The two that the monitor turns into a named error.
                }
            },
            iter: 20000,
            threads: 1);
    }

    [Theory]
    [InlineData("""{"return": {"id": 9, "error": 1, "event": "STOP"}, "id": 4}""", "Return", 4)]
    [InlineData("""{"id": 4, "return": []}""", "Return", 4)]
    [InlineData("""{"id": "4", "return": []}""", "Return", -1)]
    [InlineData("""{"id": {"id": 5}, "return": []}""", "Return", -1)]
    [InlineData("""{"data": {"event": "RESUME", "id": 1}, "event": "STOP"}""", "Stop", -1)]
    [InlineData("""{"timestamp": [1], "event": "RESUME"}""", "Resume", -1)]
    [InlineData("""{"error": "x", "id": 4}""", "Error", 4)]
    [InlineData("""{}""", "Other", -1)]
    public void OnlyTheOuterFieldsCount(string line, string kind, long id)
    {
        QmpCutMessage message = new();
        message.Read(System.Text.Encoding.UTF8.GetBytes(line));
        Assert.Equal((kind, id), (message.Kind.ToString(), message.Id));
    }

    private static Task<QmpCutMonitor> ConnectAsync(FakeMonitor monitor) =>
        QmpCutMonitor.ConnectAsync(monitor.Path, FakeMonitor.Limit, new TaskCompletionSource().Task, CancellationToken.None);
}
