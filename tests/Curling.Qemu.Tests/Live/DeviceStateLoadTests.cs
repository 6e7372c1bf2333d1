using System.Net.Sockets;
using System.Text.Json;
using Curling.Linux.Memory;
using Curling.Linux.Tracking;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Memory;
using Curling.Qemu.Monitor;
using Curling.Qemu.Processes;

namespace Curling.Qemu.Tests.Live;

/// <summary>A composed device state makes a waiting QEMU the guest that was cut.</summary>
[Collection(LiveCollection.Name)]
public class DeviceStateLoadTests
{
    [SkippableTheory]
    [InlineData("7.2", "7.2")]
    [InlineData("10.0", "10.0")]
    [InlineData("7.2", "10.0")]
    public async Task AnotherQemuGoesOnWhereTheFirstWasCut(string from, string to)
    {
        string first = QemuUnderTest.Require(from);
        string second = QemuUnderTest.Require(to);
        using TemporaryDirectory here = new();
        using TemporaryDirectory there = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(first, here);
        using SharedMapping source = memory;
        using SharedMapping target = SharedMapping.Create(there.File("ram"), source.Length);
        QemuLaunch waiting = launch with
        {
            Binary = second,
            Directory = there.Path,
            MemoryPath = target.Path,
            Incoming = true,
        };
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);

        await using QemuProcess primary = await QemuUnderTest.StartAsync(launch);
        await using QemuProcess standby = await QemuUnderTest.StartAsync(waiting);
        GuestLine before = await QemuUnderTest.WaitForLineAsync(here.File("serial.log"), l => l.Pages > 100);

        string state = here.File("state");
        await Task.Run(() => primary.Cut.StopAndSave(state, QemuUnderTest.Limit));
        source.Span(0, (int)source.Length).CopyTo(target.Span(0, (int)target.Length));
        await CopyOtherBlocksAsync(primary, standby, limit.Token);
        GuestLine last = LastLine(here.File("serial.log"));
        primary.Kill();

        byte[] saved = await File.ReadAllBytesAsync(state);
        byte[] composed = new byte[DeviceState.ComposedLength(saved.Length, launch.MachineType)];
        DeviceState.Compose(saved, launch.MachineType, composed);
        await LoadAsync(standby, there.File("in.sock"), composed, limit.Token);
        await Task.Run(() => standby.Cut.Continue(QemuUnderTest.Limit));

        // Not a guest that begins anew, nor one that lost something: it counts on from the cut, its memory in one piece.
        GuestLine after = await QemuUnderTest.WaitForLineAsync(there.File("serial.log"), l => l.Count > last.Count + 1);
        Assert.True(after.Consistent);
        Assert.True(after.Pages >= last.Pages && last.Pages >= before.Pages, $"{before} {last} {after}");
        string all = await File.ReadAllTextAsync(there.File("serial.log"));
        Assert.DoesNotContain("TORN", all, StringComparison.Ordinal);
        Assert.InRange(FirstLine(there.File("serial.log")).Count, last.Count, last.Count + 2);
    }

    [SkippableFact]
    public async Task AStateOfAnotherMachineTypeIsRefused()
    {
        string binary = QemuUnderTest.Require("7.2");
        using TemporaryDirectory here = new();
        using TemporaryDirectory there = new();
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(binary, here);
        using SharedMapping source = memory;
        using SharedMapping target = SharedMapping.Create(there.File("ram"), source.Length);
        await using QemuProcess primary = await QemuUnderTest.StartAsync(launch);
        string state = here.File("state");
        await Task.Run(() => primary.Cut.StopAndSave(state, QemuUnderTest.Limit));
        byte[] saved = await File.ReadAllBytesAsync(state);
        byte[] composed = new byte[DeviceState.ComposedLength(saved.Length, "pc-q35-6.2")];
        DeviceState.Compose(saved, "pc-q35-6.2", composed);

        await using QemuProcess standby = await QemuUnderTest.StartAsync(launch with
        {
            Directory = there.Path,
            MemoryPath = target.Path,
            Incoming = true,
        });
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);
        try
        {
            await LoadAsync(standby, there.File("in.sock"), composed, limit.Token);
        }
        catch (Exception e) when (e is QmpException or SocketException)
        {
            // QEMU ends when it refuses a state; whether a question reaches it before that is a matter of luck.
        }

        Assert.NotEqual(0, await standby.Exited.WaitAsync(QemuUnderTest.Limit));
        Assert.Contains("pc-q35-6.2", standby.ErrorTail, StringComparison.Ordinal);
    }

    private static async Task CopyOtherBlocksAsync(QemuProcess from, QemuProcess to, CancellationToken cancellation)
    {
        (_, IReadOnlyList<RamBlock> sources) = await RamBlocks.LocateAsync(from.Qmp, from.Pid, from.Launch.MemoryPath, cancellation);
        (_, IReadOnlyList<RamBlock> targets) = await RamBlocks.LocateAsync(to.Qmp, to.Pid, to.Launch.MemoryPath, cancellation);
        foreach (RamBlock source in sources.Where(b => b.Name != RamBlock.Ram))
        {
            if (targets.FirstOrDefault(b => b.Name == source.Name) is { } target)
            {
                byte[] content = new byte[source.UsedBytes];
                ProcessMemory.Read(from.Pid, source.Address, content);
                ProcessMemory.Write(to.Pid, target.Address, content);
            }
        }
    }

    private static async Task LoadAsync(QemuProcess standby, string path, byte[] state, CancellationToken cancellation)
    {
        await standby.Qmp.ExecuteAsync("migrate-incoming", w => w.WriteString("uri", "unix:" + path), cancellation: cancellation);
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellation);
            for (int sent = 0; sent < state.Length;)
            {
                sent += await socket.SendAsync(state.AsMemory(sent), SocketFlags.None, cancellation);
            }

            socket.Shutdown(SocketShutdown.Send);
            while (true)
            {
                JsonElement status = await standby.Qmp.ExecuteAsync("query-status", cancellation: cancellation);
                if (status.GetProperty("status").GetString() != "inmigrate")
                {
                    return;
                }

                await Task.Delay(5, cancellation);
            }
        }
    }

    private static IEnumerable<GuestLine> Lines(string log)
    {
        foreach (string line in File.ReadLines(log))
        {
            if (GuestLine.TryParse(line, out GuestLine read))
            {
                yield return read;
            }
        }
    }

    private static GuestLine FirstLine(string log) => Lines(log).First();

    private static GuestLine LastLine(string log) => Lines(log).Last();
}
