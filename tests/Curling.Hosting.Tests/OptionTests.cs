using System.CommandLine;
using CsCheck;
using Curling.Hosting.Options;
using Curling.Hosting.Time;

namespace Curling.Hosting.Tests;

/// <summary>What people type: read, or refused with words that help.</summary>
public sealed class OptionTests
{
    [Theory]
    [InlineData("tcp:192.0.2.7:7711", "192.0.2.7", 7711)]
    [InlineData("tcp:host-1.example:1", "host-1.example", 1)]
    [InlineData("tcp:[2001:db8::1]:65535", "2001:db8::1", 65535)]
    public void Endpoint_is_read_and_written_back(string text, string host, int port)
    {
        Assert.True(Endpoint.TryParse(text, false, out Endpoint endpoint, out _));
        Assert.Equal(new Endpoint(host, port), endpoint);
        Assert.Equal(text, endpoint.ToString());
    }

    [Theory]
    [InlineData("localhost:1", "does not begin with tcp:")]
    [InlineData("tcp:localhost", "has no port")]
    [InlineData("tcp::1", "is not a host name")]
    [InlineData("tcp:a b:1", "is not a host name")]
    [InlineData("tcp:2001:db8::1:1", "is not a host name")]
    [InlineData("tcp:[1.2.3.4]:1", "is not a host name")]
    [InlineData("tcp:h:0", "is not a port")]
    [InlineData("tcp:h:65536", "is not a port")]
    [InlineData("tcp:h:-1", "is not a port")]
    [InlineData("tcp:h:", "is not a port")]
    public void Endpoint_that_is_wrong_is_explained(string text, string expected)
    {
        Assert.False(Endpoint.TryParse(text, false, out _, out string error));
        Assert.Contains(expected, error);
    }

    [Fact]
    public void Port_zero_is_for_listening() => Assert.True(Endpoint.TryParse("tcp:127.0.0.1:0", true, out _, out _));

    [Theory]
    [InlineData("max", 0L)]
    [InlineData("MAX", 0L)]
    [InlineData("500MiB/s", 500L << 20)]
    [InlineData("50MB/s", 50_000_000L)]
    [InlineData("10Gbit/s", 1_250_000_000L)]
    [InlineData("1.5GiB/s", 3L << 29)]
    public void Rate_is_read(string text, long bytes)
    {
        Assert.True(ByteRate.TryParse(text, out ByteRate rate, out string error), error);
        Assert.Equal(bytes, rate.BytesPerSecond);
        Assert.Equal(bytes == 0, rate.IsMax);
    }

    [Theory]
    [InlineData("fast", "is not a rate")]
    [InlineData("500", "is not a rate")]
    [InlineData("-5MiB/s", "is not a rate")]
    [InlineData("bit/s", "is not a rate")]
    [InlineData("10KiB/s", "too slow")]
    [InlineData("1bit/s", "too slow")]
    public void Rate_that_is_wrong_is_explained(string text, string expected)
    {
        Assert.False(ByteRate.TryParse(text, out _, out string error));
        Assert.Contains(expected, error);
    }

    [Theory]
    [InlineData("500ms", 500)]
    [InlineData("2s", 2000)]
    [InlineData("1.5s", 1500)]
    [InlineData("1m", 60_000)]
    [InlineData("0", 0)]
    public void Time_is_read(string text, int milliseconds)
    {
        Assert.True(Durations.TryParse(text, out TimeSpan time));
        Assert.Equal(milliseconds, time.TotalMilliseconds);
    }

    [Fact]
    public void Any_text_is_read_or_refused_without_an_exception() =>
        Gen.OneOf(Gen.String, Gen.String.Select(s => "tcp:" + s), Gen.Int.Select(i => i + "ms"), Gen.Double.Select(d => d + "Gbit/s")).Sample(text =>
        {
            _ = Endpoint.TryParse(text, false, out _, out _);
            _ = ByteRate.TryParse(text, out ByteRate rate, out _);
            Assert.True(rate.BytesPerSecond >= 0);
            _ = Durations.TryParse(text, out TimeSpan time);
            Assert.InRange(time, TimeSpan.Zero, TimeSpan.FromDays(1));
        });

    [Fact]
    public async Task Wrong_command_line_ends_with_two_and_a_hint()
    {
        RootCommand root = new("test") { CommonOptions.Duration("--wait", "how long", TimeSpan.FromSeconds(1), TimeSpan.Zero, TimeSpan.FromSeconds(5)) };
        root.SetAction(_ => 0);
        Assert.Equal(CommandRunner.UsageError, await CommandRunner.RunAsync(root, "test", ["--wait", "9s"]));
        Assert.Equal(CommandRunner.UsageError, await CommandRunner.RunAsync(root, "test", ["--what"]));
        Assert.Equal(0, await CommandRunner.RunAsync(root, "test", ["--wait", "4s"]));
        RootCommand failing = new("test");
        failing.SetAction((_, _) => Task.FromException<int>(new OperatorException("it is broken", 7)));
        Assert.Equal(7, await CommandRunner.RunAsync(failing, "test", []));
    }

    [Fact]
    public void Percentiles_are_those_of_the_last_samples()
    {
        Percentiles percentiles = new();
        Assert.Equal(0, percentiles.At(0.5));
        for (int i = 1; i <= 100; i++)
        {
            percentiles.Add(i);
        }

        Assert.Equal(50, percentiles.At(0.5));
        Assert.Equal(99, percentiles.At(0.99));
        Assert.Equal(100, percentiles.Last);
        for (int i = 0; i < 2000; i++)
        {
            percentiles.Add(7);
        }

        Assert.Equal(7, percentiles.At(0.99));
        Assert.Equal(2100, percentiles.Count);
    }
}
