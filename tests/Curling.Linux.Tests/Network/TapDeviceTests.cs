using System.Net.NetworkInformation;
using Curling.Linux.Network;

namespace Curling.Linux.Tests.Network;

public sealed class TapDeviceTests
{
    [SkippableFact]
    public void Device_is_there_while_it_is_open_and_carries_frames()
    {
        SkipUnlessAllowed();
        string name;
        using (TapDevice tap = TapDevice.Open("curlt%d", 1400, bridge: null))
        {
            name = tap.Name;
            NetworkInterface there = NetworkInterface.GetAllNetworkInterfaces().Single(i => i.Name == name);
            Assert.Equal("1400", File.ReadAllText($"/sys/class/net/{name}/mtu").Trim());
            Assert.NotNull(there);
            byte[] frame = new byte[60];
            frame.AsSpan(0, 6).Fill(0xFF);
            frame[12] = 0x88;
            frame[13] = 0xB5; // for local experiments
            long before = Received(name);
            Assert.True(tap.Write(frame));
            Assert.Equal(before + 1, Received(name));
            Assert.Equal(0, tap.Read(new byte[2000]));
        }

        Assert.DoesNotContain(NetworkInterface.GetAllNetworkInterfaces(), i => i.Name == name);
    }

    [SkippableFact]
    public void What_is_wrong_is_told()
    {
        SkipUnlessAllowed();
        Assert.Contains("there is no bridge curl-none", Assert.Throws<TapException>(() => TapDevice.Open("curlt%d", 1500, "curl-none")).Message);
        using TapDevice tap = TapDevice.Open("curlt%d", 1500, bridge: null);
        Assert.Contains("another program uses it", Assert.Throws<TapException>(() => TapDevice.Open(tap.Name, 1500, bridge: null)).Message);
        Assert.Contains("is it a bridge", Assert.Throws<TapException>(() => TapDevice.Open("curlt%d", 1500, tap.Name)).Message);
        Assert.Contains("MTU of 1500", Assert.Throws<TapException>(() => TapDevice.Open("curlt%d", 9000, tap.Name)).Message);
        Assert.Contains("not a tap device", Assert.Throws<TapException>(() => TapDevice.Open("lo", 1500, bridge: null)).Message);
    }

    [Theory]
    [InlineData("br0", true)]
    [InlineData("a.b-c_d@e", true)]
    [InlineData("", false)]
    [InlineData("..", false)]
    [InlineData("a/b", false)]
    [InlineData("sixteen-letters-", false)]
    public void Names_are_what_the_kernel_takes(string name, bool good) => Assert.Equal(good, TapDevice.IsName(name));

    [Fact]
    public async Task Wait_ends_when_it_is_woken()
    {
        using Readiness ready = new();
        ready.Wake();
        ready.Wait(null, null, 60_000);
        Task wait = Task.Run(() => ready.Wait(null, null, 60_000));
        ready.Wake();
        await wait.WaitAsync(TimeSpan.FromSeconds(30));
    }

    private static long Received(string name) =>
        long.Parse(File.ReadAllText($"/sys/class/net/{name}/statistics/rx_packets"), System.Globalization.CultureInfo.InvariantCulture);

    private static void SkipUnlessAllowed()
    {
        Skip.If(Environment.UserName != "root", "SKIPPED: tap devices need root");
        Skip.IfNot(File.Exists("/dev/net/tun"), "SKIPPED: there is no /dev/net/tun here");
        try
        {
            TapDevice.Open("curlt%d", 1500, bridge: null).Dispose();
        }
        catch (TapException e) when (e.Message.Contains("CAP_NET_ADMIN", StringComparison.Ordinal))
        {
            Skip.If(true, $"SKIPPED: {e.Message}");
        }
    }
}
