using System.CommandLine;
using System.Diagnostics;
using Curling.Hosting.Faults;

namespace Curling.Hosting.Tests.Faults;

public sealed class FaultPointTests : IDisposable
{
    public void Dispose() => FaultPoint.Arm([]);

    [Theory]
    [InlineData("send-in-cut:exit", "send-in-cut", FaultAction.Exit, 1000, 1)]
    [InlineData("recv-whole:stall", "recv-whole", FaultAction.Stall, 1000, 1)]
    [InlineData("recv-whole:stall:250@3", "recv-whole", FaultAction.Stall, 250, 3)]
    [InlineData("recv-whole:stall:2s", "recv-whole", FaultAction.Stall, 2000, 1)]
    [InlineData("promote-fenced:error@2", "promote-fenced", FaultAction.Error, 1000, 2)]
    public void Fault_is_read(string text, string name, FaultAction action, int milliseconds, long nth)
    {
        Assert.True(Fault.TryParse(text, out Fault? fault, out string error), error);
        Assert.Equal(new Fault(name, action, TimeSpan.FromMilliseconds(milliseconds), nth), fault);
    }

    [Theory]
    [InlineData("recv-everything:exit", "is no fault point; there are send-handshake, ")]
    [InlineData("", "promote-announced")]
    [InlineData("recv-whole", "is not NAME:exit")]
    [InlineData("recv-whole:burn", "is not NAME:exit")]
    [InlineData("recv-whole:exit:5", "is not NAME:exit")]
    [InlineData("recv-whole:stall:1:2", "is not NAME:exit")]
    [InlineData("recv-whole:stall:soon", "is not a time")]
    [InlineData("recv-whole:stall:2h", "is not a time")]
    [InlineData("recv-whole:exit@0", "is not a count")]
    [InlineData("recv-whole:exit@-1", "is not a count")]
    [InlineData("recv-committed-said:error", "nothing can fail at recv-committed-said")]
    public void What_is_wrong_with_a_fault_is_said(string text, string expected)
    {
        Assert.False(Fault.TryParse(text, out _, out string error));
        Assert.Contains(expected, error);
    }

    [Fact]
    public void Option_is_hidden_takes_several_and_names_what_is_wrong()
    {
        FaultCommandLine faults = new();
        RootCommand root = new("test");
        faults.AddTo(root);
        Assert.True(Assert.Single(root.Options, o => o.Name == "--fault").Hidden);
        ParseResult good = root.Parse("--fault recv-whole:exit --fault recv-data:error@9");
        Assert.Empty(good.Errors);
        Assert.Equal(["recv-whole", "recv-data"], faults.Read(good).Select(f => f.Name));
        Assert.Contains("no fault point", Assert.Single(root.Parse("--fault nowhere:exit").Errors).Message);
        Assert.Empty(faults.Read(root.Parse("")));
    }

    [Fact]
    public async Task Only_the_named_place_fails_and_only_the_time_that_was_asked_for()
    {
        FaultPoint.Arm([new Fault(FaultPoint.RecvData, FaultAction.Error, TimeSpan.Zero, 2)]);
        FaultPoint.Hit(FaultPoint.RecvWhole);
        FaultPoint.Hit(FaultPoint.RecvData);
        await FaultPoint.HitAsync(FaultPoint.RecvWhole);
        IOException failed = await Assert.ThrowsAsync<IOException>(async () => await FaultPoint.HitAsync(FaultPoint.RecvData));
        Assert.Contains(FaultPoint.RecvData, failed.Message);
        FaultPoint.Hit(FaultPoint.RecvData);
    }

    [Fact]
    public async Task Stall_lasts_as_long_as_was_asked_for()
    {
        Fault stall = new(FaultPoint.RecvData, FaultAction.Stall, TimeSpan.FromMilliseconds(60), 1);
        FaultPoint.Arm([stall, stall with { Name = FaultPoint.RecvWhole }]);
        long start = Stopwatch.GetTimestamp();
        FaultPoint.Hit(FaultPoint.RecvData);
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(50));
        start = Stopwatch.GetTimestamp();
        await FaultPoint.HitAsync(FaultPoint.RecvWhole);
        Assert.True(Stopwatch.GetElapsedTime(start) >= TimeSpan.FromMilliseconds(50));
    }

    [Fact]
    public async Task Nothing_happens_where_nothing_is_armed()
    {
        foreach (string name in FaultPoint.Names)
        {
            FaultPoint.Hit(name);
            await FaultPoint.HitAsync(name);
        }
    }

    [Fact]
    public void Documentation_lists_every_place()
    {
        string directory = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(directory, "Curling.sln")))
        {
            directory = Path.GetDirectoryName(directory)!;
        }

        string text = File.ReadAllText(Path.Combine(directory, "docs", "faults.md"));
        Assert.All(FaultPoint.Names, name => Assert.Contains($"`{name}`", text));
    }
}
