using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Curling.Hosting.Options;

namespace Curling.Hosting.Arbiter;

/// <summary>What the operator said about the arbiter.</summary>
/// <param name="Endpoints">Where it is; any of them will do.</param>
/// <param name="Ttl">How long a lease lives when it is not renewed: whole seconds.</param>
public sealed record ArbiterOptions(IReadOnlyList<Uri> Endpoints, TimeSpan Ttl)
{
    private const string Scheme = "etcd:";
    private const int MaxEndpoints = 16;
    private const string Example = "write etcd:http://host:2379, several with commas between";

    /// <summary>A user of etcd's own, null for none.</summary>
    public string? User { get; init; }

    /// <summary>The file that its password stands in.</summary>
    public string? PasswordFile { get; init; }

    /// <summary>Certificates that the servers' must be signed by, in PEM; null for the host's.</summary>
    public string? CertificateAuthorityFile { get; init; }

    /// <summary>A certificate to show, in PEM, null for none.</summary>
    public string? CertificateFile { get; init; }

    /// <summary>Its key, in PEM.</summary>
    public string? KeyFile { get; init; }

    /// <summary>How it was named.</summary>
    public string Name => Scheme + string.Join(',', Endpoints.Select(e => e.GetLeftPart(UriPartial.Authority)));

    /// <summary>Reads the arbiter's endpoints.</summary>
    /// <param name="text">What a person wrote.</param>
    /// <param name="endpoints">The endpoints.</param>
    /// <param name="error">What is wrong with it, for that person.</param>
    public static bool TryParse(string text, out IReadOnlyList<Uri> endpoints, out string error)
    {
        List<Uri> found = [];
        endpoints = found;
        if (!text.StartsWith(Scheme, StringComparison.Ordinal))
        {
            error = $"\"{text}\" does not begin with etcd:; {Example}";
            return false;
        }

        string[] parts = text[Scheme.Length..].Split(',');
        if (parts.Length > MaxEndpoints)
        {
            error = $"\"{text}\" names more than {MaxEndpoints} endpoints";
            return false;
        }

        foreach (string part in parts)
        {
            if (!Uri.TryCreate(part, UriKind.Absolute, out Uri? uri) || uri.Scheme is not ("http" or "https") || uri.Host.Length == 0
                || uri.PathAndQuery != "/" || uri.UserInfo.Length > 0 || uri.Fragment.Length > 0)
            {
                error = $"\"{part}\" in \"{text}\" is not an endpoint of etcd; {Example}";
                return false;
            }

            found.Add(uri);
        }

        if (found.Select(e => e.Scheme).Distinct().Count() > 1)
        {
            error = $"\"{text}\" mixes http and https";
            return false;
        }

        error = "";
        return true;
    }

    /// <summary>Reads the files and checks that all of it fits together.</summary>
    /// <exception cref="OperatorException">Something is missing, unreadable or contradicts.</exception>
    public ArbiterSecrets ReadSecrets()
    {
        if ((User is null) != (PasswordFile is null))
        {
            throw new OperatorException("--arbiter-user and --arbiter-password-file belong together: give both or neither");
        }

        if ((CertificateFile is null) != (KeyFile is null))
        {
            throw new OperatorException("--arbiter-cert and --arbiter-key belong together: give both or neither");
        }

        if (Endpoints[0].Scheme != "https" && (CertificateAuthorityFile ?? CertificateFile) is not null)
        {
            throw new OperatorException($"--arbiter-ca, --arbiter-cert and --arbiter-key need https, and --arbiter says {Name}");
        }

        return new ArbiterSecrets(
            PasswordFile is null ? null : Read("--arbiter-password-file", PasswordFile, path => File.ReadAllText(path).TrimEnd('\r', '\n')),
            CertificateAuthorityFile is null ? null : Read("--arbiter-ca", CertificateAuthorityFile, path =>
            {
                X509Certificate2Collection authorities = [];
                authorities.ImportFromPemFile(path);
                return authorities.Count > 0 ? authorities : throw new CryptographicException("it holds no certificate");
            }),
            CertificateFile is null ? null : Read("--arbiter-cert", CertificateFile, path => X509Certificate2.CreateFromPemFile(path, KeyFile)));
    }

    private static T Read<T>(string option, string path, Func<string, T> read)
    {
        try
        {
            return read(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or CryptographicException)
        {
            throw new OperatorException($"{option} {path}: {e.Message}");
        }
    }
}

/// <summary>What the files of <see cref="ArbiterOptions"/> hold.</summary>
/// <param name="Password">The user's password.</param>
/// <param name="Authorities">Certificates that the servers' must be signed by.</param>
/// <param name="Certificate">The certificate to show, with its key.</param>
public sealed record ArbiterSecrets(string? Password, X509Certificate2Collection? Authorities, X509Certificate2? Certificate);
