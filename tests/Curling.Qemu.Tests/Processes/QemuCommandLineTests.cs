using Curling.Qemu.Guests;
using Curling.Qemu.Processes;

namespace Curling.Qemu.Tests.Processes;

public class QemuCommandLineTests
{
    private static readonly GuestDefinition Guest = new() { Name = "web-1", MemoryBytes = 512 << 20 };

    private static readonly QemuLaunch Launch = new()
    {
        Binary = "qemu",
        Definition = Guest,
        MachineType = "pc-q35-7.2",
        Accelerator = "tcg",
        Directory = "/run/c",
        MemoryPath = "/dev/shm/ram",
    };

    [Fact]
    public void AKernelGuest() => Expect(
        Launch with
        {
            Definition = Guest with { Cpu = "host,-arch-capabilities", Vcpus = 2, Kernel = "/k,1", Initrd = "/i,1", Append = "a=1,2 b" },
            Accelerator = "kvm",
        },
        """
        -name web-1
        -nodefaults
        -no-user-config
        -display none
        -machine pc-q35-7.2,memory-backend=ram,usb=off
        -accel kvm
        -cpu host,-arch-capabilities
        -smp 2
        -m 512M
        -object memory-backend-file,id=ram,size=536870912,share=on,mem-path=/dev/shm/ram
        -chardev socket,id=qmp,path=/run/c/qmp.sock,server=on,wait=off
        -mon chardev=qmp,mode=control
        -chardev socket,id=cut,path=/run/c/cut.sock,server=on,wait=off
        -mon chardev=cut,mode=control
        -chardev socket,id=serial0,path=/run/c/serial.sock,server=on,wait=off,logfile=/run/c/serial.log,logappend=on
        -serial chardev:serial0
        -kernel /k,1
        -initrd /i,1
        -append a=1,2 b
        """);

    [Fact]
    public void AWaitingStandbyWithFirmwareAndFilesOfItsOwn() => Expect(
        Launch with
        {
            Definition = Guest with { Firmware = "/primary/fw", Append = "ws=8M,rate=1", Serial = false },
            FirmwarePath = "/standby/fw",
            Directory = "/run/a,b",
            MemoryPath = "/dev/shm/x,share=off",
            Incoming = true,
        },
        """
        -name web-1
        -nodefaults
        -no-user-config
        -display none
        -machine pc-q35-7.2,memory-backend=ram,usb=off
        -accel tcg
        -cpu qemu64
        -smp 1
        -m 512M
        -object memory-backend-file,id=ram,size=536870912,share=on,mem-path=/dev/shm/x,,share=off
        -chardev socket,id=qmp,path=/run/a,,b/qmp.sock,server=on,wait=off
        -mon chardev=qmp,mode=control
        -chardev socket,id=cut,path=/run/a,,b/cut.sock,server=on,wait=off
        -mon chardev=cut,mode=control
        -bios /standby/fw
        -fw_cfg name=opt/org.curling.append,string=ws=8M,,rate=1
        -S
        -incoming defer
        """);

    [Theory]
    [InlineData("vnc", "127.0.0.1:0", null, false, "-vnc 127.0.0.1:0,to=999")]
    [InlineData("vnc", "127.0.0.1:5903", null, false, "-vnc 127.0.0.1:3")]
    [InlineData("vnc", "[::1]:5903", null, false, "-vnc [::1]:3")]
    [InlineData("vnc", "127.0.0.1:5903", null, true, "-vnc 127.0.0.1:3,to=999")]
    [InlineData("vnc", "127.0.0.1:5903", "0.0.0.0:0", true, "-vnc 0.0.0.0:0,to=999")]
    [InlineData("spice", "127.0.0.1:5930", null, false, "-spice addr=127.0.0.1,port=5930,disable-ticketing=on")]
    [InlineData("spice", "[::1]:5930", null, false, "-spice addr=::1,port=5930,disable-ticketing=on")]
    public void ADisplay(string type, string listen, string? here, bool incoming, string expected)
    {
        IReadOnlyList<string> line = QemuCommandLine.Build(Launch with
        {
            Definition = Guest with { Display = new DisplayDefinition(type, listen) },
            DisplayListen = here,
            Incoming = incoming,
        });
        string text = string.Join(' ', line);
        Assert.Contains("-vga std " + expected, text, StringComparison.Ordinal);
        Assert.Contains("-display none", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("nowhere")]
    [InlineData("127.0.0.1")]
    [InlineData("127.0.0.1:80")]
    [InlineData("127.0.0.1:-1")]
    [InlineData("1.2.3.4,sasl=on:0")]
    [InlineData("")]
    public void ADisplayThatCannotListenThereIsRefused(string listen)
    {
        QemuLaunch launch = Launch with
        {
            Definition = Guest with { Display = new DisplayDefinition("vnc", "127.0.0.1:0") },
            DisplayListen = listen,
        };
        Assert.Contains($"\"{listen}\"", Assert.Throws<QemuException>(() => QemuCommandLine.Build(launch)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void NoValueBecomesAnOptionOfItsOwn()
    {
        IReadOnlyList<string> line = QemuCommandLine.Build(Launch with
        {
            Definition = Guest with { Kernel = "-S", Initrd = "-daemonize", Append = "-monitor stdio" },
        });
        foreach (string value in (string[])["-S", "-daemonize", "-monitor stdio"])
        {
            int at = line.ToList().IndexOf(value);
            Assert.Contains(line[at - 1], (string[])["-kernel", "-initrd", "-append"]);
        }
    }

    private static void Expect(QemuLaunch launch, string lines)
    {
        IReadOnlyList<string> built = QemuCommandLine.Build(launch);
        List<string> shown = [];
        for (int i = 0; i < built.Count; i++)
        {
            bool alone = built[i] is "-nodefaults" or "-no-user-config" or "-S";
            shown.Add(alone ? built[i] : $"{built[i]} {built[++i]}");
        }

        Assert.Equal(lines.ReplaceLineEndings("\n"), string.Join('\n', shown));
    }
}
