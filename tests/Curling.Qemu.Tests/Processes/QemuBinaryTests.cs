using System.Text.Json;
using Curling.Qemu.Processes;

namespace Curling.Qemu.Tests.Processes;

public class QemuBinaryTests
{
    [Fact]
    public void SaysWhatToDoWhenThereIsNoQemu()
    {
        QemuException e = Assert.Throws<QemuException>(() => QemuBinary.Find("/there/is/none"));
        Assert.Contains("/there/is/none", e.Message, StringComparison.Ordinal);
        Assert.Contains("qemu-system-x86", e.Message, StringComparison.Ordinal);
        Assert.Contains("--qemu", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TakesWhatIsGiven() => Assert.Equal("/bin/sh", QemuBinary.Find("/bin/sh"));

    [Fact]
    public async Task SaysWhenAProgramIsNotQemu()
    {
        using TemporaryDirectory directory = new();
        string script = directory.Write("not-qemu", "#!/bin/sh\necho 'I am a teapot' >&2\nexit 3\n");
        File.SetUnixFileMode(script, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(60));
        QemuException e = await Assert.ThrowsAnyAsync<QemuException>(() => QemuBinary.ProbeAsync(script, directory.Path, limit.Token));
        Assert.Contains("I am a teapot", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("""{"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "x"}""", "7.2.22")]
    [InlineData("""{"qemu": {"major": 10, "minor": 0, "micro": 0}}""", "10.0.0")]
    [InlineData("""{"qemu": {"major": -1, "minor": 0, "micro": 0}}""", null)]
    [InlineData("""{"qemu": {"major": 7, "minor": 2}}""", null)]
    [InlineData("""{"qemu": {"major": "7", "minor": 2, "micro": 0}}""", null)]
    [InlineData("""{"qemu": []}""", null)]
    [InlineData("[]", null)]
    public void ReadsTheVersionOrSaysThatThereIsNone(string answer, string? version)
    {
        JsonElement json = JsonDocument.Parse(answer).RootElement;
        if (version is null)
        {
            Assert.Throws<QemuException>(() => QemuBinary.ReadVersion(json));
        }
        else
        {
            Assert.Equal(Version.Parse(version), QemuBinary.ReadVersion(json));
        }
    }

    [Fact]
    public void ReadsMachineTypesAndTheirAliases()
    {
        using JsonDocument answer = JsonDocument.Parse(
            """[{"name": "pc-q35-7.2", "alias": "q35", "cpu-max": 288}, {"name": "none"}, {"name": 5}, 7]""");
        Assert.Equal(
            new Dictionary<string, string> { ["pc-q35-7.2"] = "pc-q35-7.2", ["q35"] = "pc-q35-7.2", ["none"] = "none" },
            QemuBinary.ReadMachines(answer.RootElement));
        Assert.Throws<QemuException>(() => QemuBinary.ReadMachines(JsonDocument.Parse("{}").RootElement));
    }

    [Fact]
    public void ResolvesMachinesOrSaysWhatToDo()
    {
        QemuFacts facts = new(new Version(7, 2, 22), new Dictionary<string, string> { ["q35"] = "pc-q35-7.2", ["pc-q35-7.2"] = "pc-q35-7.2" });
        Assert.Equal("pc-q35-7.2", facts.ResolveMachine("q35"));
        Assert.Equal("pc-q35-7.2", facts.ResolveMachine("pc-q35-7.2"));
        QemuException e = Assert.Throws<QemuException>(() => facts.ResolveMachine("pc-q35-10.0"));
        Assert.Contains("7.2.22", e.Message, StringComparison.Ordinal);
        Assert.Contains("pc-q35-10.0", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ChoosesTheAccelerator()
    {
        Assert.Equal("tcg", QemuBinary.ChooseAccelerator("tcg"));
        Assert.Equal(QemuBinary.KvmUsable() ? "kvm" : "tcg", QemuBinary.ChooseAccelerator("auto"));
        if (QemuBinary.KvmUsable())
        {
            Assert.Equal("kvm", QemuBinary.ChooseAccelerator("kvm"));
        }
        else
        {
            Assert.Contains("/dev/kvm", Assert.Throws<QemuException>(() => QemuBinary.ChooseAccelerator("kvm")).Message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void KnowsTheHostsMemory()
    {
        long bytes = HostMemory.TotalBytes();
        Assert.InRange(bytes, 64L << 20, 1L << 50);

        // What the runtime may use is at most what there is.
        Assert.True(bytes >= GC.GetGCMemoryInfo().TotalAvailableMemoryBytes);
    }
}
