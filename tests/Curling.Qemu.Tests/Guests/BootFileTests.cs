using Curling.Qemu.Guests;

namespace Curling.Qemu.Tests.Guests;

public class BootFileTests
{
    [Fact]
    public void DescribesEachFileInOrder()
    {
        using TemporaryDirectory directory = new();
        string kernel = directory.Write("k", "abc");
        string initrd = directory.Write("i", "");
        GuestDefinition guest = new() { Name = "g", MemoryBytes = 64 << 20, Kernel = kernel, Initrd = initrd };

        // The two digests are the test vectors of FIPS 180-4 for "abc" and for nothing.
        Assert.Equal(
            [
                new BootFile("kernel", kernel, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
                new BootFile("initrd", initrd, 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            ],
            BootFile.Describe(guest));
    }

    [Fact]
    public void NamesTheFileThatCannotBeRead()
    {
        GuestDefinition guest = new() { Name = "g", MemoryBytes = 64 << 20, Firmware = "/dev/shm/there-is-no-such-file" };
        Assert.Equal("firmware", Assert.Throws<GuestDefinitionException>(() => BootFile.Describe(guest)).Field);
    }
}

public class GuestLimitsTests
{
    private static readonly GuestLimits Limits = new(64 << 20, 2);
    private static readonly GuestDefinition Fits = new() { Name = "g", MemoryBytes = 64 << 20, Vcpus = 2 };

    [Fact]
    public void TakesWhatFits() => Limits.Check(Fits, "guest g");

    [Fact]
    public void RefusesMore()
    {
        GuestDefinitionException memory = Assert.Throws<GuestDefinitionException>(
            () => Limits.Check(Fits with { MemoryBytes = 65 << 20 }, "guest g"));
        Assert.Equal("memory", memory.Field);
        Assert.Contains("--max-guest-memory", memory.Message, StringComparison.Ordinal);
        Assert.Equal("vcpus", Assert.Throws<GuestDefinitionException>(() => Limits.Check(Fits with { Vcpus = 3 }, "guest g")).Field);
    }
}
