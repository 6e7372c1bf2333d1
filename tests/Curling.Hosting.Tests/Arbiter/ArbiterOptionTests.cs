using System.CommandLine;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Options;

namespace Curling.Hosting.Tests.Arbiter;

/// <summary>What people say about an arbiter: understood, or refused with words that help.</summary>
public sealed class ArbiterOptionTests
{
    [Fact]
    public void Several_endpoints_are_read()
    {
        ArbiterOptions? options = Read("--arbiter", "etcd:http://a:2379,http://192.0.2.1:1", "--arbiter-ttl", "5s");
        Assert.Equal("etcd:http://a:2379,http://192.0.2.1:1", options!.Name);
        Assert.Equal(TimeSpan.FromSeconds(5), options.Ttl);
    }

    [Fact]
    public void None_is_none() => Assert.Null(Read());

    [Theory]
    [InlineData("http://a:2379", "does not begin with etcd:")]
    [InlineData("etcd:", "is not an endpoint")]
    [InlineData("etcd:a:2379", "is not an endpoint")]
    [InlineData("etcd:ftp://a", "is not an endpoint")]
    [InlineData("etcd:http://a/b", "is not an endpoint")]
    [InlineData("etcd:http://u:p@a", "is not an endpoint")]
    [InlineData("etcd:http://a,", "is not an endpoint")]
    [InlineData("etcd:http://a,https://b", "mixes http and https")]
    public void Arbiter_that_is_wrong_is_explained(string text, string expected) =>
        Assert.Contains(expected, Assert.Single(Parse("--arbiter", text).Errors).Message);

    [Theory]
    [InlineData("1s")]
    [InlineData("2500ms")]
    [InlineData("2m")]
    [InlineData("soon")]
    public void Time_to_live_that_is_wrong_is_refused(string ttl) =>
        Assert.Contains("--arbiter-ttl", Parse("--arbiter", "etcd:http://a", "--arbiter-ttl", ttl).Errors[0].Message);

    [Theory]
    [InlineData("--arbiter-user", "u")]
    [InlineData("--arbiter-ttl", "3s")]
    [InlineData("--arbiter-ca", "f")]
    public void What_is_said_about_no_arbiter_is_refused(string option, string value) =>
        Assert.Contains("give --arbiter too", Assert.Throws<OperatorException>(() => Read(option, value)).Message);

    [Theory]
    [InlineData("belong together", "--arbiter", "etcd:http://a", "--arbiter-user", "u")]
    [InlineData("belong together", "--arbiter", "etcd:https://a", "--arbiter-cert", "f")]
    [InlineData("need https", "--arbiter", "etcd:http://a", "--arbiter-ca", "f")]
    [InlineData("--arbiter-ca /nowhere", "--arbiter", "etcd:https://a", "--arbiter-ca", "/nowhere")]
    [InlineData("--arbiter-password-file /nowhere", "--arbiter", "etcd:http://a", "--arbiter-user", "u", "--arbiter-password-file", "/nowhere")]
    public void Files_that_do_not_fit_are_explained(string expected, params string[] args) =>
        Assert.Contains(expected, Assert.Throws<OperatorException>(() => Read(args)!.ReadSecrets()).Message);

    private static ParseResult Parse(params string[] args) => Parse(args, out _);

    private static ParseResult Parse(string[] args, out ArbiterCommandLine options)
    {
        RootCommand root = new();
        options = new ArbiterCommandLine();
        options.AddTo(root);
        return root.Parse(args);
    }

    private static ArbiterOptions? Read(params string[] args)
    {
        ParseResult parsed = Parse(args, out ArbiterCommandLine options);
        Assert.Empty(parsed.Errors);
        return options.Read(parsed);
    }
}
