using System.Text;
using Curling.Qemu.Guests;

namespace Curling.Qemu.Tests.Guests;

public class GuestDefinitionReaderTests
{
    private const string Minimal = "\"name\":\"g\",\"memory\":\"64MiB\"";

    [Fact]
    public void ReadsEveryField()
    {
        GuestDefinition guest = Parse(
            """
            {
              "$schema": "guest.schema.json", // for the editor
              "name": "web-1", "machine": "pc-q35-7.2", "accelerator": "tcg", "cpu": "host,-arch-capabilities",
              "vcpus": 3, "memory": "1.5GiB", "kernel": "boot/vmlinuz", "initrd": "/abs/initrd", "append": "a=1, \"b\" é",
              "serial": false, "display": { "type": "vnc", "listen": "[::1]:5901" }, "disks": [], "networks": [],
            }
            """,
            "/base");

        Assert.Equal("web-1", guest.Name);
        Assert.Equal("pc-q35-7.2", guest.Machine);
        Assert.Equal("tcg", guest.Accelerator);
        Assert.Equal("host,-arch-capabilities", guest.Cpu);
        Assert.Equal(3, guest.Vcpus);
        Assert.Equal(1536L << 20, guest.MemoryBytes);
        Assert.Equal("/base/boot/vmlinuz", guest.Kernel);
        Assert.Equal("/abs/initrd", guest.Initrd);
        Assert.Equal("a=1, \"b\" é", guest.Append);
        Assert.Null(guest.Firmware);
        Assert.False(guest.Serial);
        Assert.Equal(new DisplayDefinition("vnc", "[::1]:5901"), guest.Display);
        Assert.Equal("::1", guest.Display!.Host);
        Assert.Equal(5901, guest.Display.Port);
    }

    [Fact]
    public void FillsInWhatIsLeftOut()
    {
        GuestDefinition guest = Parse("{" + Minimal + "}");
        Assert.Equal(new GuestDefinition { Name = "g", MemoryBytes = 64 << 20 }, guest);
        Assert.Equal(
            ("q35", "auto", "qemu64", 1, true), (guest.Machine, guest.Accelerator, guest.Cpu, guest.Vcpus, guest.Serial));
    }

    [Fact]
    public void LeavesPathsAloneWithoutABaseDirectory() =>
        Assert.Equal("../k", Parse("{" + Minimal + ",\"kernel\":\"../k\"}").Kernel);

    [Fact]
    public void TakesTheMarkOfAnEditor() =>
        Assert.Equal("g", GuestDefinitionReader.Parse((byte[])[0xEF, 0xBB, 0xBF, .. Encoding.UTF8.GetBytes("{" + Minimal + "}")], "x", null).Name);

    [Fact]
    public void NetworksTravelWithEverythingThatWasLeftOut()
    {
        GuestDefinition guest = Parse("""
            {"name":"g","memory":"64MiB","networks":[{}, {"mac":"52:54:00:AB:00:01","model":"e1000","attach":"tap:t0","standbyAttach":"none"},
             {"attach":"bridge:br0","mtu":9000}]}
            """);
        Assert.Equal(NetworkDefinition.MacFor("g", 0), guest.Networks[0].Mac);
        Assert.Equal(new NetworkDefinition(NetworkDefinition.MacFor("g", 0), "virtio-net-pci", "none", "none", 1500), guest.Networks[0]);
        Assert.Equal(new NetworkDefinition("52:54:00:ab:00:01", "e1000", "tap:t0", "none", 1500), guest.Networks[1]);
        Assert.Equal("bridge:br0", guest.Networks[2].StandbyAttach);
        GuestDefinition there = GuestDefinitionReader.Parse(GuestDefinitionReader.Serialize(guest), "peer", baseDirectory: null);
        Assert.Equal(guest, there);
        Assert.NotEqual(guest, guest with { Networks = new NetworkList(guest.Networks.Take(2)) });
    }

    [Theory]
    [InlineData("name", """{"memory":"64MiB"}""", "missing")]
    [InlineData("name", """{"name":"","memory":"64MiB"}""", "")]
    [InlineData("name", """{"name":"a b","memory":"64MiB"}""", "a b")]
    [InlineData("name", """{"name":"../up","memory":"64MiB"}""", "../up")]
    [InlineData("name", """{"name":7,"memory":"64MiB"}""", "a number")]
    [InlineData("name", """{"name":"\ud800","memory":"64MiB"}""", "Unicode")]
    [InlineData("name", """{"name":"g","name":"h","memory":"64MiB"}""", "twice")]
    [InlineData("name", """{"name":"g","na\u006de":"h","memory":"64MiB"}""", "twice")]
    [InlineData("memory", """{"name":"g"}""", "512MiB")]
    [InlineData("memory", """{"name":"g","memory":"12XB"}""", "\"12XB\" is not a size; write for example \"512MiB\"")]
    [InlineData("memory", """{"name":"g","memory":"-1MiB"}""", "is not a size")]
    [InlineData("memory", """{"name":"g","memory":"\ud800"}""", "Unicode")]
    [InlineData("memory", """{"name":"g","memory":true}""", "is not a size")]
    [InlineData("memory", """{"name":"g","memory":"512KiB"}""", "1 MiB")]
    [InlineData("memory", """{"name":"g","memory":"17TiB"}""", "16 TiB")]
    [InlineData("memory", """{"name":"g","memory":1048577}""", "whole number of MiB")]
    [InlineData("machine", """{"name":"g","memory":"64MiB","machine":"virt"}""", "virt")]
    [InlineData("machine", """{"name":"g","memory":"64MiB","machine":"q35,accel=kvm"}""", "q35,accel=kvm")]
    [InlineData("machine", """{"name":"g","memory":"64MiB","machine":"pc-q35-"}""", "pc-q35-")]
    [InlineData("accelerator", """{"name":"g","memory":"64MiB","accelerator":"xen"}""", "xen")]
    [InlineData("cpu", """{"name":"g","memory":"64MiB","cpu":"a b"}""", "qemu64")]
    [InlineData("vcpus", """{"name":"g","memory":"64MiB","vcpus":0}""", "1 to 255")]
    [InlineData("vcpus", """{"name":"g","memory":"64MiB","vcpus":256}""", "1 to 255")]
    [InlineData("vcpus", """{"name":"g","memory":"64MiB","vcpus":1.5}""", "1 to 255")]
    [InlineData("vcpus", """{"name":"g","memory":"64MiB","vcpus":"2"}""", "1 to 255")]
    [InlineData("kernel", """{"name":"g","memory":"64MiB","kernel":"a\u0000b"}""", "control")]
    [InlineData("kernel", """{"name":"g","memory":"64MiB","kernel":""}""", "0 characters")]
    [InlineData("initrd", """{"name":"g","memory":"64MiB","initrd":"i"}""", "kernel")]
    [InlineData("firmware", """{"name":"g","memory":"64MiB","kernel":"k","firmware":"f"}""", "not both")]
    [InlineData("append", """{"name":"g","memory":"64MiB","append":"a\nb"}""", "control")]
    [InlineData("serial", """{"name":"g","memory":"64MiB","serial":"yes"}""", "true or false")]
    [InlineData("display", """{"name":"g","memory":"64MiB","display":"vnc"}""", "not an object")]
    [InlineData("display.type", """{"name":"g","memory":"64MiB","display":{}}""", "missing")]
    [InlineData("display.type", """{"name":"g","memory":"64MiB","display":{"type":"sdl"}}""", "sdl")]
    [InlineData("display.listen", """{"name":"g","memory":"64MiB","display":{"type":"vnc","listen":"localhost"}}""", "localhost")]
    [InlineData("display.listen", """{"name":"g","memory":"64MiB","display":{"type":"vnc","listen":"127.0.0.1:80"}}""", "5900")]
    [InlineData("display.listen", """{"name":"g","memory":"64MiB","display":{"type":"vnc","listen":"127.0.0.1:65536"}}""", "65536")]
    [InlineData("display.listen", """{"name":"g","memory":"64MiB","display":{"type":"vnc","listen":"1.2.3.4,sasl=on:0"}}""", "sasl")]
    [InlineData("display.password", """{"name":"g","memory":"64MiB","display":{"type":"vnc","password":"x"}}""", "unknown")]
    [InlineData("disks[0].path", """{"name":"g","memory":"64MiB","disks":[{}]}""", "path")]
    [InlineData("disks[0].id", """{"name":"g","memory":"64MiB","disks":[{"id":"d"}]}""", "unknown")]
    [InlineData("disks[1].path", """{"name":"g","memory":"64MiB","disks":[{"path":"/d"},{"path":"/d"}]}""", "another disk's already")]
    [InlineData("disks[0].format", """{"name":"g","memory":"64MiB","disks":[{"path":"d","format":"floppy"}]}""", "none of auto, raw")]
    [InlineData("disks[0].standbyPath", """{"name":"g","memory":"64MiB","disks":[{"path":"d","standbyPath":"d"}]}""", "begins with /")]
    [InlineData("disks", """{"name":"g","memory":"64MiB","disks":{}}""", "disks")]
    [InlineData("networks[0]", """{"name":"g","memory":"64MiB","networks":[1]}""", "not an object")]
    [InlineData("networks", """{"name":"g","memory":"64MiB","networks":{}}""", "not a list")]
    [InlineData("networks", """{"name":"g","memory":"64MiB","networks":[{},{},{},{},{},{},{},{},{}]}""", "at most 8")]
    [InlineData("networks[0].mac", """{"name":"g","memory":"64MiB","networks":[{"mac":"52:54:00:12:34"}]}""", "52:54:00:12:34:56")]
    [InlineData("networks[0].mac", """{"name":"g","memory":"64MiB","networks":[{"mac":"53:54:00:12:34:56"}]}""", "not a card's address")]
    [InlineData("networks[0].mac", """{"name":"g","memory":"64MiB","networks":[{"mac":"52:54:00:12:34:56,x=y"}]}""", "not a card's address")]
    [InlineData("networks[1].mac", """{"name":"g","memory":"64MiB","networks":[{"mac":"52:54:00:12:34:5a"},{"mac":"52:54:00:12:34:5A"}]}""", "another network's")]
    [InlineData("networks[0].model", """{"name":"g","memory":"64MiB","networks":[{"model":"ne2k"}]}""", "virtio-net-pci")]
    [InlineData("networks[0].attach", """{"name":"g","memory":"64MiB","networks":[{"attach":"br0"}]}""", "bridge:NAME")]
    [InlineData("networks[0].attach", """{"name":"g","memory":"64MiB","networks":[{"attach":"bridge:a/b"}]}""", "bridge:NAME")]
    [InlineData("networks[0].standbyAttach", """{"name":"g","memory":"64MiB","networks":[{"standbyAttach":"tap:a-name-too-long-"}]}""", "15 characters")]
    [InlineData("networks[0].mtu", """{"name":"g","memory":"64MiB","networks":[{"mtu":100}]}""", "576 to 9216")]
    [InlineData("networks[0].mtu", """{"name":"g","memory":"64MiB","networks":[{"mtu":9000,"model":"e1000"}]}""", "only virtio-net-pci")]
    [InlineData("networks[0].vlan", """{"name":"g","memory":"64MiB","networks":[{"vlan":7}]}""", "unknown")]
    [InlineData("colour", """{"name":"g","memory":"64MiB","colour":"red"}""", "unknown")]
    [InlineData("", "[]", "not an object")]
    public void NamesTheFieldThatIsWrong(string field, string json, string says)
    {
        GuestDefinitionException e = Assert.Throws<GuestDefinitionException>(() => Parse(json));
        Assert.Equal(field, e.Field);
        Assert.StartsWith(field.Length == 0 ? "guest.json: " : $"guest.json: field \"{field}\": ", e.Message, StringComparison.Ordinal);
        Assert.Contains(says, e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", 1, 1)]
    [InlineData("{\n  \"name\": nope\n}", 2, 12)]
    [InlineData("{} {}", 1, 4)]
    [InlineData("{\"a\":[[[[[[[[[[1]]]]]]]]]]}", 1, 13)]
    public void SaysWhereItIsNotJson(string json, int line, int column)
    {
        GuestDefinitionException e = Assert.Throws<GuestDefinitionException>(() => Parse(json));
        Assert.Equal("", e.Field);
        Assert.StartsWith($"guest.json: not JSON at line {line}, column {column}: ", e.Message, StringComparison.Ordinal);
        Assert.DoesNotContain("LineNumber", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MessagesAreOneLineWhateverTheValue()
    {
        GuestDefinitionException e = Assert.Throws<GuestDefinitionException>(
            () => Parse("{\"name\":\"g\",\"memory\":\"1\\r\\nERROR forged\"}"));
        Assert.DoesNotContain('\n', e.Message);
        Assert.DoesNotContain('\r', e.Message);
    }

    [Fact]
    public void BoundsTheDocumentAndItsTexts()
    {
        Assert.Throws<GuestDefinitionException>(() => Parse("{" + Minimal + "}" + new string(' ', GuestDefinitionReader.MaxBytes)));
        Assert.Equal("append", Assert.Throws<GuestDefinitionException>(
            () => Parse("{" + Minimal + ",\"append\":\"" + new string('a', 4097) + "\"}")).Field);
        Assert.Equal(4096, Parse("{" + Minimal + ",\"append\":\"" + new string('a', 4096) + "\"}").Append!.Length);
    }

    [Fact]
    public void ChecksWhatOnlyTheHostCanTell()
    {
        using TemporaryDirectory directory = new();
        string kernel = directory.Write("vmlinuz", "k");
        GuestDefinition guest = new() { Name = "g", MemoryBytes = 64 << 20, Kernel = kernel };
        GuestDefinitionReader.CheckHost(guest, "guest.json", 64 << 20);
        Assert.Equal("memory", Assert.Throws<GuestDefinitionException>(
            () => GuestDefinitionReader.CheckHost(guest, "guest.json", (64 << 20) - 1)).Field);
        GuestDefinitionException e = Assert.Throws<GuestDefinitionException>(
            () => GuestDefinitionReader.CheckHost(guest with { Initrd = kernel + ".no" }, "guest.json", 64 << 20));
        Assert.Equal("initrd", e.Field);
        Assert.Contains(kernel + ".no", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void LoadsAFileWithPathsBesideIt()
    {
        using TemporaryDirectory directory = new();
        string file = directory.Write("guest.json", "{" + Minimal + ",\"firmware\":\"fw.bin\"}");
        Assert.Equal(Path.Combine(directory.Path, "fw.bin"), GuestDefinitionReader.Load(file).Firmware);
    }

    [Theory]
    [InlineData("/dev/zero")] // never ends
    [InlineData("/dev/shm")] // a directory
    [InlineData("/dev/shm/there-is-no-such-file")]
    public void SaysWhenAFileCannotBeUsed(string path)
    {
        GuestDefinitionException e = Assert.Throws<GuestDefinitionException>(() => GuestDefinitionReader.Load(path));
        Assert.StartsWith(path + ": ", e.Message, StringComparison.Ordinal);
    }

    internal static GuestDefinition Parse(string json, string? baseDirectory = null) =>
        GuestDefinitionReader.Parse(Encoding.UTF8.GetBytes(json), "guest.json", baseDirectory);
}
