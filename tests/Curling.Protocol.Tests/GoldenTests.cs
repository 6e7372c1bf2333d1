using Xunit.Abstractions;

namespace Curling.Protocol.Tests;

/// <summary>The bytes of a whole round, held against docs/protocol.md, which others write their side from.</summary>
public sealed class GoldenTests(ITestOutputHelper output)
{
    [Fact]
    public void Round_on_the_wire_is_the_one_in_the_document()
    {
        string[] documented = [.. File.ReadLines(Path.Combine(Root(), "docs", "protocol.md"))
            .SkipWhile(l => !l.StartsWith("<!-- golden -->", StringComparison.Ordinal))
            .Where(l => l.StartsWith("    ", StringComparison.Ordinal))
            .Take(4)
            .Select(l => l.Replace(" ", ""))];
        string[] written = [.. GoldenRound.OnTheWire(7).Select(f => GoldenRound.Show(f).Replace(" ", ""))];
        foreach (string frame in written)
        {
            output.WriteLine("    " + frame);
        }

        Assert.Equal(documented, written);
    }

    private static string Root()
    {
        DirectoryInfo? directory = new(AppContext.BaseDirectory);
        while (directory is not null && !File.Exists(Path.Combine(directory.FullName, "Curling.sln")))
        {
            directory = directory.Parent;
        }

        return directory?.FullName ?? throw new InvalidOperationException("the tests run outside the repository");
    }
}
