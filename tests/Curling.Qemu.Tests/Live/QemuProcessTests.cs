using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Text.Json;
using Curling.Linux.Memory;
using Curling.Qemu.Guests;
using Curling.Qemu.Memory;
using Curling.Qemu.Monitor;
using Curling.Qemu.Processes;

namespace Curling.Qemu.Tests.Live;

[Collection(LiveCollection.Name)]
public class QemuProcessTests
{
    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task TheProbeTellsWhatThisQemuIs(string version)
    {
        string binary = QemuUnderTest.Require(version);
        using TemporaryDirectory directory = new();
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);
        QemuFacts facts = await QemuBinary.ProbeAsync(binary, directory.Path, limit.Token);
        Assert.True(facts.Version >= QemuBinary.Oldest);
        Assert.StartsWith("pc-q35-", facts.ResolveMachine("q35"), StringComparison.Ordinal);
        Assert.StartsWith("pc-i440fx-", facts.ResolveMachine("pc"), StringComparison.Ordinal);
        Assert.Equal("pc-q35-7.2", facts.ResolveMachine("pc-q35-7.2"));
        Assert.Throws<QemuException>(() => facts.ResolveMachine("pc-q35-99.0"));
        Assert.Empty(Directory.GetFileSystemEntries(directory.Path));
    }

    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task RunsAGuestStopsItAndLetsItGoOn(string version)
    {
        string binary = QemuUnderTest.Require(version);
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, directory);
        using SharedMapping mapped = memory;
        await using QemuProcess qemu = await QemuUnderTest.StartAsync(launch);
        string log = directory.File("serial.log");
        await QemuUnderTest.WaitForLineAsync(log, l => l.Count >= 2 && l.Consistent);
        Assert.Equal("running", await StatusAsync(qemu));

        string state = directory.File("state");
        for (int round = 0; round < 3; round++)
        {
            await Task.Run(() => qemu.Cut.StopAndSave(state, QemuUnderTest.Limit));
            Assert.Equal("paused", await StatusAsync(qemu));
            byte[] saved = await File.ReadAllBytesAsync(state);
            byte[] composed = new byte[DeviceState.ComposedLength(saved.Length, launch.MachineType)];
            Assert.Equal(composed.Length, DeviceState.Compose(saved, launch.MachineType, composed));
            await Task.Run(() => qemu.Cut.Continue(QemuUnderTest.Limit));
            Assert.Equal("running", await StatusAsync(qemu));
            Assert.True(qemu.Cut.QemuResumeMicros >= qemu.Cut.QemuStopMicros && qemu.Cut.QemuStopMicros > 0);
        }

        // Both monitors hear of the stops.
        Assert.True(qemu.Qmp.Events.TryRead(out QmpEvent? first));
        Assert.Equal("STOP", first.Name);

        // The guest goes on behind the last cut.
        long before = GuestLinesIn(log);
        await QemuUnderTest.WaitForLineAsync(log, l => l.Count > before + 1 && l.Consistent);
    }

    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task ASaveThatCannotBeWrittenIsNamedAndTheGuestCanGoOn(string version)
    {
        string binary = QemuUnderTest.Require(version);
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, directory);
        using SharedMapping mapped = memory;
        await using QemuProcess qemu = await QemuUnderTest.StartAsync(launch);
        QmpException e = await Assert.ThrowsAsync<QmpException>(
            () => Task.Run(() => qemu.Cut.StopAndSave(directory.File("no/such/directory"), QemuUnderTest.Limit)));
        Assert.Equal("GenericError", e.ErrorClass);
        Assert.Contains("xen-save-devices-state", e.Message, StringComparison.Ordinal);
        Assert.Equal("paused", await StatusAsync(qemu));
        await Task.Run(() => qemu.Cut.Continue(QemuUnderTest.Limit));
        Assert.Equal("running", await StatusAsync(qemu));
    }

    [SkippableFact]
    public async Task ACommaInAPathIsPartOfThePath()
    {
        string binary = QemuUnderTest.Require("7.2");
        using TemporaryDirectory parent = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, parent);
        using SharedMapping mapped = memory;
        string odd = Directory.CreateDirectory(parent.File("a,b=c")).FullName;
        string ram = Path.Combine(odd, "ram");
        using SharedMapping oddMemory = SharedMapping.Create(ram, launch.Definition.MemoryBytes);
        await using QemuProcess qemu = await QemuUnderTest.StartAsync(launch with { Directory = odd, MemoryPath = ram });
        await QemuUnderTest.WaitForLineAsync(Path.Combine(odd, "serial.log"), l => l.Consistent);
    }

    [SkippableFact]
    public async Task WhenItDoesNotStartTheErrorHasQemusOwnWords()
    {
        string binary = QemuUnderTest.Require("7.2");
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(
            binary, directory, g => g with { Cpu = "there-is-no-such-cpu" });
        using SharedMapping mapped = memory;
        QemuException e = await Assert.ThrowsAnyAsync<QemuException>(() => QemuUnderTest.StartAsync(launch));
        Assert.Contains("there-is-no-such-cpu", e.Message, StringComparison.Ordinal);
        Assert.Contains("there-is-no-such-cpu", await File.ReadAllTextAsync(directory.File("qemu.log")), StringComparison.Ordinal);
    }

    [SkippableFact]
    public async Task WhenQemuIsKilledEveryoneHearsOfIt()
    {
        string binary = QemuUnderTest.Require("7.2");
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, directory);
        using SharedMapping mapped = memory;
        await using QemuProcess qemu = await QemuUnderTest.StartAsync(launch);
        using (Process process = Process.GetProcessById(qemu.Pid))
        {
            process.Kill();
        }

        Assert.NotEqual(0, await qemu.Exited.WaitAsync(QemuUnderTest.Limit));
        await Assert.ThrowsAsync<QmpException>(() => qemu.Qmp.ExecuteAsync("query-status", limit: QemuUnderTest.Limit));
        Assert.Throws<QmpException>(() => qemu.Cut.Stop(QemuUnderTest.Limit));
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);
        await foreach (QmpEvent e in qemu.Qmp.Events.ReadAllAsync(limit.Token))
        {
            Assert.NotEqual("SHUTDOWN", e.Name);
        }
    }

    [SkippableFact]
    public async Task DisposingLeavesNoProcess()
    {
        string binary = QemuUnderTest.Require("7.2");
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, directory);
        using SharedMapping mapped = memory;
        QemuProcess qemu = await QemuUnderTest.StartAsync(launch);
        int pid = qemu.Pid;
        await qemu.DisposeAsync();
        Assert.True(qemu.Exited.IsCompleted);
        Assert.False(Directory.Exists($"/proc/{pid}"));
    }

    [SkippableTheory]
    [InlineData("7.2", "vnc")]
    [InlineData("10.0", "vnc")]
    [InlineData("7.2", "spice")]
    public async Task ADisplayOnAnyFreePortCanBeReached(string version, string type)
    {
        string binary = QemuUnderTest.Require(version);
        using TemporaryDirectory directory = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(
            binary, directory, g => g with { Display = new DisplayDefinition(type, "127.0.0.1:0") });
        using SharedMapping mapped = memory;
        QemuProcess qemu;
        try
        {
            qemu = await QemuUnderTest.StartAsync(launch);
        }
        catch (QemuException e) when (type == "spice" && e.Message.Contains("spice", StringComparison.OrdinalIgnoreCase))
        {
            throw new SkipException($"NOT TESTED: this QEMU has no SPICE: {e.Message}");
        }

        await using QemuProcess running = qemu;
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);
        string address = (await running.DisplayAddressAsync(limit.Token))!;
        int colon = address.LastIndexOf(':');
        using TcpClient viewer = new();
        await viewer.ConnectAsync(address[..colon], int.Parse(address[(colon + 1)..], CultureInfo.InvariantCulture), limit.Token);

        // Everything that a standby needs of a guest with a screen can be found.
        (_, IReadOnlyList<RamBlock> located) = await RamBlocks.LocateAsync(running.Qmp, running.Pid, launch.MemoryPath, limit.Token);
        Assert.Equal(RamBlock.Ram, located[0].Name);
        Assert.Contains(located, b => b.Name.EndsWith("vga.vram", StringComparison.Ordinal));
        Assert.Contains(located, b => b.Name == "pc.bios");
        Assert.All(located, b => Assert.NotEqual(0UL, b.Address));
        Assert.Equal(located.Count, located.Select(b => b.Address).Distinct().Count());
    }

    private static async Task<string> StatusAsync(QemuProcess qemu)
    {
        JsonElement status = await qemu.Qmp.ExecuteAsync("query-status", limit: QemuUnderTest.Limit);
        return status.GetProperty("status").GetString()!;
    }

    private static long GuestLinesIn(string log)
    {
        long last = 0;
        foreach (string line in File.ReadAllLines(log))
        {
            last = BuiltinGuest.GuestLine.TryParse(line, out BuiltinGuest.GuestLine read) ? read.Count : last;
        }

        return last;
    }
}
