using Curling.Linux.Tracking;

namespace Curling.Linux.Tests.Tracking;

public sealed class ProcessMemoryTests
{
    [SkippableFact]
    public void What_is_written_is_read_and_the_process_sees_it()
    {
        using TrackedProcess process = new();
        byte[] written = new byte[300_000];
        new Random(1).NextBytes(written);
        ProcessMemory.Write(process.Pid, process.Own + 123, written);
        Assert.Equal(written[299_999], process.Read(process.Own + 123 + 299_999));
        process.Write(process.Own + 123, (byte)~written[0]);
        byte[] read = new byte[written.Length];
        ProcessMemory.Read(process.Pid, process.Own + 123, read);
        Assert.Equal([(byte)~written[0], .. written[1..]], read);
        ProcessMemory.Read(process.Pid, process.Own, []);
    }

    [SkippableFact]
    public void All_or_an_error_that_names_process_and_address()
    {
        using TrackedProcess process = new();

        // Nothing is mapped at the first; the second is whatever follows the stack's end, never mapped by a user.
        foreach (ulong address in (ulong[])[0x10000, 0x7fff_ffff_f000])
        {
            IOException read = Assert.Throws<IOException>(() => ProcessMemory.Read(process.Pid, address, new byte[16]));
            IOException write = Assert.Throws<IOException>(() => ProcessMemory.Write(process.Pid, address, new byte[16]));
            foreach (string message in (string[])[read.Message, write.Message])
            {
                Assert.Contains($"{process.Pid}", message, StringComparison.Ordinal);
                Assert.Contains($"0x{address:X}", message, StringComparison.Ordinal);
            }
        }

        // Half of it mapped: the end of a mapping with nothing behind it.
        MapEntry last = ProcessMaps.Read(process.Pid).Last(m => m.Path == "[stack]");
        IOException half = Assert.Throws<IOException>(() => ProcessMemory.Read(process.Pid, last.End - 8, new byte[1 << 20]));
        Assert.Contains("of 1048576", half.Message, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_process_that_is_gone_is_an_error()
    {
        using TrackedProcess process = new();
        process.Kill();
        Assert.Throws<IOException>(() => ProcessMemory.Read(process.Pid, process.Own, new byte[1]));
    }
}
