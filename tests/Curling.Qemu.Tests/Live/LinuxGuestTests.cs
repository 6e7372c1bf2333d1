using System.Runtime.InteropServices;
using Curling.Linux.Memory;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.TestKit.Guests;
using Microsoft.Win32.SafeHandles;

namespace Curling.Qemu.Tests.Live;

/// <summary>The Linux guest of the end-to-end tests: that it boots, counts, and would say so if its memory were torn.</summary>
[Collection(LiveCollection.Name)]
public class LinuxGuestTests
{
    private const int PageBytes = 4096;

    [SkippableTheory]
    [InlineData("7.2")]
    [InlineData("10.0")]
    public async Task CountsAndFindsAPageOfAnEarlierInstant(string version)
    {
        string binary = QemuUnderTest.Require(version);
        using TemporaryDirectory directory = new();
        string definition = TestGuests.WriteLinux(directory.Path, "linux");

        // A first sweep of 16 seconds of the guest's time: pages that it has passed hold 1 and then nothing but zeros
        // up to the last word.
        (QemuLaunch launch, SharedMapping memory) = await QemuUnderTest.PrepareAsync(
            binary,
            directory,
            _ => GuestDefinitionReader.Load(definition) with { Append = "console=ttyS0 quiet counter.ws=32 counter.rate=500" });
        using SharedMapping mapped = memory;
        await using QemuProcess qemu = await QemuUnderTest.StartAsync(launch);
        string log = directory.File("serial.log");
        GuestLine line = await QemuUnderTest.WaitForLineAsync(log, l => l.Count >= 3);
        Assert.True(line.Consistent);
        await qemu.Qmp.ExecuteAsync("stop");

        using SafeFileHandle ram = File.OpenHandle(memory.Path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        List<long> passed = FindPassedPages(ram, launch.Definition.MemoryBytes);
        Assert.True(passed.Count >= line.Page, $"{passed.Count} pages of the working set were found, the guest speaks of {line.Page}");
        RandomAccess.Write(ram, new byte[PageBytes], passed[passed.Count / 2]);
        await qemu.Qmp.ExecuteAsync("cont");
        await QemuUnderTest.WaitForLineAsync(log, l => !l.Consistent);
    }

    private static List<long> FindPassedPages(SafeFileHandle ram, long length)
    {
        List<long> found = [];
        byte[] chunk = new byte[1 << 20];
        for (long at = 0; at < length; at += chunk.Length)
        {
            Assert.Equal(chunk.Length, RandomAccess.Read(ram, chunk, at));
            for (int offset = 0; offset < chunk.Length; offset += PageBytes)
            {
                ReadOnlySpan<uint> words = MemoryMarshal.Cast<byte, uint>(chunk.AsSpan(offset, PageBytes));
                if (words[0] == 1 && words[^1] % 2 == 1 && words[^1] < 2 * 8192 && words[1..^1].IndexOfAnyExcept(0u) < 0)
                {
                    found.Add(at + offset);
                }
            }
        }

        return found;
    }
}
