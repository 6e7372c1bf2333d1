using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using Curling.Linux.Memory;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Processes;
using Curling.TestKit.Guests;
using Microsoft.Win32.SafeHandles;

namespace Curling.Qemu.Tests.Live;

/// <summary>The built-in guest is what every other test believes, so it must be right itself: also when it says TORN.</summary>
[Collection(LiveCollection.Name)]
public class BuiltinGuestTests
{
    private const int PageBytes = 4096;
    private const long WorkingSet = 16 << 20;

    public static TheoryData<string, string, string> Machines()
    {
        TheoryData<string, string, string> all = new();
        foreach (string version in TestGuests.Versions)
        {
            foreach (string machine in (string[])["q35", "pc"])
            {
                all.Add(version, machine, "tcg");
                all.Add(version, machine, "kvm");
            }
        }

        return all;
    }

    [SkippableFact]
    public async Task TheImageIsWhatItsSourceSays()
    {
        string? nasm = Linux.Processes.ChildProcess.Find("nasm");
        Skip.If(nasm is null, "NOT TESTED: nasm is not installed; run eng/install-deps test");
        string root = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(root, "Curling.sln")))
        {
            root = Path.GetDirectoryName(root) ?? throw new InvalidOperationException("the tests do not run inside the source tree");
        }

        using TemporaryDirectory directory = new();
        string output = directory.File("fresh.bin");
        using Process build = Process.Start(Path.Combine(root, "eng", "build-builtin-guest"), [output]);
        using CancellationTokenSource limit = new(QemuUnderTest.Limit);
        await build.WaitForExitAsync(limit.Token);
        Assert.Equal(0, build.ExitCode);

        byte[] fresh = await File.ReadAllBytesAsync(output, limit.Token);
        Assert.Equal(BuiltinGuestImage.Bytes, fresh.Length);
        Assert.True(fresh.AsSpan().SequenceEqual(BuiltinGuestImage.Read()), "builtin-guest.bin is old; run eng/build-builtin-guest");
    }

    [SkippableTheory]
    [MemberData(nameof(Machines))]
    public async Task CountsAndFindsItsMemoryConsistent(string version, string machine, string accelerator)
    {
        await using Running guest = await Running.StartAsync("ws=2M rate=3000", version: version, machine: machine, accelerator: accelerator);

        // 512 pages and 300 a line: the sweep turns over several times.
        string[] text = await guest.LinesAsync(9);
        Assert.Equal("curling-guest: started, working set 512 pages, 3000 pages/s", text[0]);
        List<GuestLine> lines = Parse(text);
        Assert.Equal(Enumerable.Range(1, lines.Count).Select(n => (long)n), lines.Select(l => l.Count));
        foreach (GuestLine line in lines)
        {
            Assert.True(line.Consistent, line.ToString());
            Assert.Equal(line.Pages, ((line.Sweep - 1) * 512) + line.Page);
        }

        // Counted, not timed: a line stands for a tenth of a second of the guest's own time, for two when it was held up.
        double perLine = (double)(lines[^1].Pages - lines[0].Pages) / (lines.Count - 1);
        Assert.InRange(perLine, 290, 610);
    }

    [SkippableTheory]
    [InlineData("ws=64K rate=70", "16 pages, 70 pages/s")]
    [InlineData("rate=9 ws=1m", "256 pages, 9 pages/s")]
    [InlineData("ws=40960", "10 pages, 500 pages/s")]
    [InlineData("ws=1", "1 pages, 500 pages/s")]
    [InlineData("something=else, rate=12", "2048 pages, 12 pages/s")]
    [InlineData(null, "2048 pages, 500 pages/s")]
    [InlineData("ws=4000M rate=0", "12288 pages, 0 pages/s")]
    public async Task TakesItsSettings(string? append, string expected)
    {
        await using Running guest = await Running.StartAsync(append);
        string[] text = await guest.LinesAsync(3);
        Assert.Equal("curling-guest: started, working set " + expected, text[0]);
        Assert.All(Parse(text), line => Assert.True(line.Consistent, line.ToString()));
    }

    [SkippableFact]
    public async Task RateZeroIsAsFastAsItCan()
    {
        await using Running guest = await Running.StartAsync("ws=1M rate=0");
        List<GuestLine> lines = Parse(await guest.LinesAsync(5));
        Assert.True(lines[^1].Pages - lines[0].Pages > 2000, lines[^1].ToString());
        Assert.All(lines, line => Assert.True(line.Consistent, line.ToString()));
    }

    [SkippableFact]
    public async Task MoreThanFourBillionPagesAreNotLostCount()
    {
        await using Running guest = await Running.StartAsync("ws=64K rate=1000");
        await guest.LinesAsync(2);
        await guest.StopAsync();
        ulong pages = guest.Read64(BuiltinGuestImage.HeaderAddress + BuiltinGuestImage.HeaderPagesOffset);
        guest.Write64(BuiltinGuestImage.HeaderAddress + BuiltinGuestImage.HeaderPagesOffset, pages + 12_345_000_000_000);
        await guest.ContinueAsync();
        GuestLine line = await guest.UntilAsync(l => l.Pages > 3_000_000_000);
        Assert.InRange(line.Pages, 12_345_000_000_000, 12_345_001_000_000);
    }

    [SkippableFact]
    public async Task WithoutRoomForAWorkingSetItSaysSo()
    {
        await using Running guest = await Running.StartAsync(null, memoryMiB: 16);
        string[] text = await guest.LinesAsync(1);
        Assert.Equal("curling-guest: more than 16 MiB of memory are needed", text[0]);
    }

    [SkippableFact]
    public async Task TheHeaderTellsAnObserverWhatTheLinesTell()
    {
        await using Running guest = await Running.StartAsync("ws=1M rate=1000");
        GuestLine line = await guest.UntilAsync(l => l.Count >= 3);
        await guest.StopAsync();
        const long Header = BuiltinGuestImage.HeaderAddress;
        Assert.Equal("CURLGST1"u8.ToArray(), guest.ReadBytes(Header, 8));
        Assert.True(guest.Read64(Header + 8) >= (ulong)line.Count);
        ulong pages = guest.Read64(Header + BuiltinGuestImage.HeaderPagesOffset);
        Assert.True(pages >= (ulong)line.Pages);
        Assert.Equal(pages, ((guest.Read32(Header + 24) - 1) * 256) + guest.Read32(Header + 28));
        Assert.Equal(256u, guest.Read32(Header + 32));
        Assert.Equal(0u, guest.Read32(Header + 36));
    }

    [SkippableTheory]
    [InlineData("whole page")]
    [InlineData("first word")]
    [InlineData("last word")]
    [InlineData("word between")]
    public async Task FindsAPageOfAnEarlierInstant(string what)
    {
        const uint Pages = 4096;
        await using Running guest = await Running.StartAsync("ws=16M rate=5000");
        await guest.UntilAsync(l => l.Sweep >= 2);
        await guest.StopAsync();
        uint sweep = guest.Read32(BuiltinGuestImage.HeaderAddress + 24);
        uint cursor = guest.Read32(BuiltinGuestImage.HeaderAddress + 28);

        // Far from the cursor: the guest checks it before the sweep comes by again.
        uint page = (cursor + (Pages / 2)) % Pages;
        uint holds = page < cursor ? sweep : sweep - 1;
        long address = WorkingSet + (page * (long)PageBytes);
        long between = address + (page * 24 & 0xFE0) + 8;
        Assert.Equal(holds, guest.Read32(address));
        Assert.Equal(unchecked(holds * ((2 * page) + 1)), guest.Read32(address + PageBytes - 4));
        Assert.Equal(unchecked(holds * 0x9E3779B1), guest.Read32(between));

        // The right content changes nothing ...
        long lines = (await guest.UntilAsync(_ => true, last: true)).Count;
        guest.Write32(address, holds);
        await guest.ContinueAsync();
        Assert.True((await guest.UntilAsync(l => l.Count >= lines + 2)).Consistent);
        await guest.StopAsync();

        // ... and an older one is seen, in every part of it.
        sweep = guest.Read32(BuiltinGuestImage.HeaderAddress + 24);
        cursor = guest.Read32(BuiltinGuestImage.HeaderAddress + 28);
        page = (cursor + (Pages / 2)) % Pages;
        holds = page < cursor ? sweep : sweep - 1;
        address = WorkingSet + (page * (long)PageBytes);
        between = address + (page * 24 & 0xFE0) + 8;
        uint found = 0;
        if (what is "word between" or "whole page")
        {
            guest.Write32(between, found = unchecked((holds - 1) * 0x9E3779B1));
        }

        if (what is "last word" or "whole page")
        {
            guest.Write32(address + PageBytes - 4, found = unchecked((holds - 1) * ((2 * page) + 1)));
        }

        if (what is "first word" or "whole page")
        {
            guest.Write32(address, found = holds - 1);
        }

        await guest.ContinueAsync();
        GuestLine torn = await guest.UntilAsync(l => !l.Consistent);
        string text = (await guest.TextAsync()).First(l => l.Contains("TORN", StringComparison.Ordinal));
        Assert.EndsWith(
            string.Create(CultureInfo.InvariantCulture, $" memory=TORN page={page} expected={holds} found={found}"), text, StringComparison.Ordinal);

        // It does not forget, also when the sweep has mended the page.
        GuestLine later = await guest.UntilAsync(l => l.Sweep > sweep + 1 && l.Count > torn.Count);
        Assert.False(later.Consistent);
        Assert.Equal(1u, guest.Read32(BuiltinGuestImage.HeaderAddress + 36));
    }

    [SkippableFact]
    public async Task FindsHalfOfItsMemoryFromAnotherInstant()
    {
        await using Running guest = await Running.StartAsync("ws=4M rate=2000");
        await guest.UntilAsync(l => l.Count >= 3);
        await guest.StopAsync();
        byte[] earlier = guest.ReadBytes(WorkingSet, 2 << 20);
        uint sweep = guest.Read32(BuiltinGuestImage.HeaderAddress + 24);
        await guest.ContinueAsync();
        GuestLine line = await guest.UntilAsync(l => l.Sweep > sweep);
        Assert.True(line.Consistent);
        await guest.StopAsync();
        guest.WriteBytes(WorkingSet, earlier);
        await guest.ContinueAsync();
        await guest.UntilAsync(l => !l.Consistent);
    }

    [SkippableTheory]
    [InlineData("tcg")]
    [InlineData("kvm")]
    public async Task AResetBeginsANewLife(string accelerator)
    {
        await using Running guest = await Running.StartAsync("ws=1M rate=2000", accelerator: accelerator);
        await guest.UntilAsync(l => l.Sweep >= 2);
        await guest.ExecuteAsync("system_reset");
        string[] text = await guest.UntilTextAsync(all => Parse(SecondLife(all)).Count >= 3);
        List<GuestLine> lines = Parse(SecondLife(text));
        Assert.Equal([1, 2, 3], lines.Take(3).Select(l => l.Count));
        Assert.Equal(1, lines[0].Sweep);
        Assert.All(lines, line => Assert.True(line.Consistent, line.ToString()));

        static string[] SecondLife(string[] all) =>
            all[(Array.FindLastIndex(all, l => l.Contains("started", StringComparison.Ordinal)) is var at and > 0 ? at : all.Length)..];
    }

    private static List<GuestLine> Parse(string[] text)
    {
        List<GuestLine> lines = [];
        foreach (string line in text)
        {
            if (GuestLine.TryParse(line, out GuestLine parsed))
            {
                lines.Add(parsed);
            }
        }

        return lines;
    }

    /// <summary>A built-in guest that runs, its serial log and its memory from outside.</summary>
    private sealed class Running : IAsyncDisposable
    {
        private readonly TemporaryDirectory _directory;
        private readonly SharedMapping _memory;
        private readonly SafeFileHandle _ram;
        private readonly QemuProcess _qemu;

        private Running(TemporaryDirectory directory, SharedMapping memory, QemuProcess qemu)
        {
            _directory = directory;
            _memory = memory;
            _ram = File.OpenHandle(memory.Path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
            _qemu = qemu;
        }

        public static async Task<Running> StartAsync(
            string? append, string version = "7.2", string machine = "q35", string accelerator = "tcg", int memoryMiB = 64)
        {
            string binary = QemuUnderTest.Require(version);
            if (accelerator == "kvm")
            {
                TestGuests.NeedsKvm();
            }

            TemporaryDirectory directory = new();
            SharedMapping? memory = null;
            try
            {
                (QemuLaunch launch, memory) = await QemuUnderTest.PrepareAsync(binary, directory, guest => guest with
                {
                    Machine = machine,
                    Accelerator = accelerator,
                    MemoryBytes = (long)memoryMiB << 20,
                    Append = append,
                });
                return new Running(directory, memory, await QemuUnderTest.StartAsync(launch));
            }
            catch
            {
                memory?.Dispose();
                directory.Dispose();
                throw;
            }
        }

        public byte[] ReadBytes(long address, int count)
        {
            byte[] bytes = new byte[count];
            Assert.Equal(count, RandomAccess.Read(_ram, bytes, address));
            return bytes;
        }

        public uint Read32(long address) => BinaryPrimitives.ReadUInt32LittleEndian(ReadBytes(address, 4));

        public ulong Read64(long address) => BinaryPrimitives.ReadUInt64LittleEndian(ReadBytes(address, 8));

        public void WriteBytes(long address, ReadOnlySpan<byte> bytes) => RandomAccess.Write(_ram, bytes, address);

        public void Write32(long address, uint value)
        {
            byte[] bytes = new byte[4];
            BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
            WriteBytes(address, bytes);
        }

        public void Write64(long address, ulong value)
        {
            byte[] bytes = new byte[8];
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
            WriteBytes(address, bytes);
        }

        public Task StopAsync() => ExecuteAsync("stop");

        public Task ContinueAsync() => ExecuteAsync("cont");

        public async Task ExecuteAsync(string command) => await _qemu.Qmp.ExecuteAsync(command);

        /// <summary>The whole lines printed so far.</summary>
        public async Task<string[]> TextAsync()
        {
            string log = _directory.File("serial.log");
            string text = File.Exists(log) ? await File.ReadAllTextAsync(log) : "";
            return [.. text.Split('\n').SkipLast(1).Select(l => l.TrimEnd('\r'))];
        }

        public Task<string[]> LinesAsync(int count) => UntilTextAsync(all => all.Length >= count);

        public async Task<string[]> UntilTextAsync(Func<string[], bool> enough)
        {
            using CancellationTokenSource limit = new(QemuUnderTest.Limit);
            while (true)
            {
                string[] lines = await TextAsync();
                if (enough(lines))
                {
                    return lines;
                }

                Assert.False(
                    limit.IsCancellationRequested,
                    $"the guest did not print what was waited for: {string.Join('\n', lines.TakeLast(5))}; QEMU: {_qemu.ErrorTail}");
                await Task.Delay(10);
            }
        }

        /// <summary>Waits for a line that satisfies; the first such, or the last.</summary>
        public async Task<GuestLine> UntilAsync(Func<GuestLine, bool> wanted, bool last = false)
        {
            List<GuestLine> lines = [.. Parse(await UntilTextAsync(all => Parse(all).Any(wanted))).Where(wanted)];
            return last ? lines[^1] : lines[0];
        }

        public async ValueTask DisposeAsync()
        {
            await _qemu.DisposeAsync();
            _ram.Dispose();
            _memory.Dispose();
            _directory.Dispose();
        }
    }
}
