using System.Text.Json;
using Curling.Hosting.Instances;
using Curling.Hosting.Options;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Recv;
using Curling.Recv.Rounds;
using Curling.Recv.Sessions;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Pair.Tests;

/// <summary>Which rounds may be written into the standby's memory before they are whole.</summary>
public sealed class StraightInTests
{
    /// <summary>
    /// A sender that loses its connection right after its first round begins anew while that round's commit may still be under
    /// way: nothing is committed yet, and all the same the memory is that of a round the sender was told is complete.
    /// </summary>
    [Fact]
    public async Task Round_after_one_that_is_whole_is_buffered_though_nothing_is_committed_yet()
    {
        GuestDefinition guest = new() { Name = "straight", MemoryBytes = 1 << 20, Accelerator = "tcg" };
        using JsonDocument json = JsonDocument.Parse(GuestDefinitionReader.Serialize(guest));
        Hello hello = new("s", 1, json.RootElement, "pc-q35-7.2", "tcg", "7.2.0", [], [], [new HelloBlock("ram", guest.MemoryBytes)]);
        InstanceDirectory directory = InstanceDirectory.Create("recv");
        SharedMapping memory = SharedMapping.Create(Path.Combine(directory.MemoryPath, "ram"), guest.MemoryBytes);
        QemuLaunch launch = new()
        {
            Binary = "none",
            Definition = guest,
            MachineType = hello.MachineType,
            Accelerator = "tcg",
            Directory = directory.RuntimePath,
            MemoryPath = memory.Path,
        };
        ReceiverOptions options = new(
            new Endpoint("127.0.0.1", 0), FailureAction.Hold, TimeSpan.FromSeconds(30), 1, 1L << 30, 1L << 24, null, null, null);
        await using GuestSession session = new(
            options, guest, hello, launch, directory, memory, PlayedStandby.Starter([]), null, TimeProvider.System, NullLogger.Instance);
        RoundContent broken = session.Open(new RoundBegin(1, 0, RoundKind.Base, 0));
        Assert.True(broken.GoesStraightIn);
        broken.Dispose();
        RoundContent first = session.Open(new RoundBegin(2, 0, RoundKind.Base, 0));
        Assert.True(first.GoesStraightIn);
        session.Whole(null!, first, new RoundEnd(2, false, 0, default, default));
        RoundContent second = session.Open(new RoundBegin(3, 0, RoundKind.Base, 0));
        Assert.False(second.GoesStraightIn);
        second.Dispose();
    }
}
