using System.CommandLine;
using Curling.Hosting.Options;

namespace Curling.Hosting.Arbiter;

/// <summary>The options about the arbiter, which both programs have.</summary>
public sealed class ArbiterCommandLine
{
    private readonly Option<string?> _arbiter = new("--arbiter")
    {
        Description = "The etcd that decides which host may run the guest: etcd:http://host:2379, several with commas between. Both programs need"
            + " it; without it two hosts that lose sight of each other may both run the guest (docs/failure-model.md)",
        HelpName = "etcd:URL[,URL]",
    };

    private readonly Option<Duration> _ttl = CommonOptions.Duration(
        "--arbiter-ttl",
        "How long the right to run a guest lasts when it is not renewed, whole seconds: a failover waits for it, and a host that cannot renew it"
        + " stops its guest before it ends",
        TimeSpan.FromSeconds(3), TimeSpan.FromSeconds(2), TimeSpan.FromMinutes(1));

    private readonly Option<string?> _user = new("--arbiter-user") { Description = "A user of etcd's own", HelpName = "NAME" };
    private readonly Option<string?> _password = CommonOptions.Path("--arbiter-password-file", "The file that holds that user's password");
    private readonly Option<string?> _ca = CommonOptions.Path("--arbiter-ca", "Certificates that etcd's must be signed by, in PEM; otherwise the host's");
    private readonly Option<string?> _cert = CommonOptions.Path("--arbiter-cert", "A certificate to show to etcd, in PEM");
    private readonly Option<string?> _key = CommonOptions.Path("--arbiter-key", "Its key, in PEM");

    /// <summary>Creates the options.</summary>
    public ArbiterCommandLine()
    {
        _arbiter.Validators.Add(result =>
        {
            if (result.Tokens.Count > 0 && !ArbiterOptions.TryParse(result.Tokens[^1].Value, out _, out string error))
            {
                result.AddError($"--arbiter: {error}");
            }
        });
        _ttl.Validators.Add(result =>
        {
            if (result.Tokens.Count > 0 && Durations.TryParse(result.Tokens[^1].Value, out TimeSpan ttl) && ttl.Ticks % TimeSpan.TicksPerSecond != 0)
            {
                result.AddError($"--arbiter-ttl: \"{result.Tokens[^1].Value}\" is not a number of whole seconds");
            }
        });
    }

    /// <summary>Adds them to a program's.</summary>
    public void AddTo(Command command)
    {
        foreach (Option option in (ReadOnlySpan<Option>)[_arbiter, _ttl, _user, _password, _ca, _cert, _key])
        {
            command.Options.Add(option);
        }
    }

    /// <summary>What was said; null where there is no arbiter.</summary>
    /// <exception cref="OperatorException">There is none, and yet something is said about it.</exception>
    public ArbiterOptions? Read(ParseResult parsed)
    {
        if (parsed.GetValue(_arbiter) is not { } text || !ArbiterOptions.TryParse(text, out IReadOnlyList<Uri> endpoints, out _))
        {
            foreach (Option option in (ReadOnlySpan<Option>)[_ttl, _user, _password, _ca, _cert, _key])
            {
                if (parsed.GetResult(option) is { Implicit: false })
                {
                    throw new OperatorException($"{option.Name} says something about an arbiter, and there is none; give --arbiter too", CommandRunner.UsageError);
                }
            }

            return null;
        }

        return new ArbiterOptions(endpoints, parsed.GetValue(_ttl).Time)
        {
            User = parsed.GetValue(_user),
            PasswordFile = parsed.GetValue(_password),
            CertificateAuthorityFile = parsed.GetValue(_ca),
            CertificateFile = parsed.GetValue(_cert),
            KeyFile = parsed.GetValue(_key),
        };
    }
}
