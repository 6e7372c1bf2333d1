using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Curling.Hosting.Arbiter;
using Curling.TestKit.Arbiter;
using Etcdserverpb;
using Grpc.Net.Client;

namespace Curling.Hosting.Tests.Arbiter;

/// <summary>The arbiter against a real etcd: who gets a guest, who does not, and how it lets Curling in.</summary>
public sealed class EtcdArbiterTests : IDisposable
{
    private const string Password = "s3cret";
    private static readonly Holder One = new("1", "a", "sender", 1);
    private static readonly Holder Two = new("2", "b", "receiver", 1);
    private readonly string _directory = Directory.CreateTempSubdirectory("cetcd").FullName;

    public void Dispose() => Directory.Delete(_directory, recursive: true);

    [SkippableFact]
    public async Task One_has_the_guest_until_it_is_given_back_and_each_taking_raises_the_generation()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using EtcdArbiter arbiter = new(Options(etcd));
        TakeAnswer first = await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 1L), (first.How, first.Generation));
        TakeAnswer second = await arbiter.TakeAsync("g", Two, 1, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Held, "a"), (second.How, second.Other!.Host));
        Assert.Equal(RenewResult.Renewed, (await arbiter.RenewAsync(first.Claim!, CancellationToken.None)).How);
        await arbiter.ReleaseAsync(first.Claim!, CancellationToken.None);
        await arbiter.ReleaseAsync(first.Claim!, CancellationToken.None);
        Assert.Equal(RenewResult.RunOut, (await arbiter.RenewAsync(first.Claim!, CancellationToken.None)).How);
        second = await arbiter.TakeAsync("g", Two, 1, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 2L), (second.How, second.Generation));
        Assert.Equal(RenewResult.Superseded, (await arbiter.RenewAsync(first.Claim!, CancellationToken.None)).How);
        await arbiter.ReleaseAsync(second.Claim!, CancellationToken.None);
        TakeAnswer late = await arbiter.TakeAsync("g", One, 1, raise: false, CancellationToken.None);
        Assert.Equal((TakeResult.Superseded, 2L), (late.How, late.Generation));
    }

    [SkippableFact]
    public async Task Lease_that_ran_out_is_taken_again_as_the_same_generation()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using EtcdArbiter arbiter = new(Options(etcd));
        TakeAnswer first = await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None);
        await arbiter.ReleaseAsync(first.Claim!, CancellationToken.None);
        TakeAnswer again = await arbiter.TakeAsync("g", One, 1, raise: false, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 1L), (again.How, again.Generation));
    }

    [SkippableFact]
    public async Task Right_that_was_not_used_goes_back_with_its_generation_unless_another_has_the_guest()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using EtcdArbiter arbiter = new(Options(etcd));
        TakeAnswer first = await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None);
        await arbiter.ReleaseAsync(first.Claim!, CancellationToken.None);
        TakeAnswer unused = await arbiter.TakeAsync("g", Two, 1, raise: true, CancellationToken.None);
        await arbiter.GiveBackUnusedAsync(unused.Claim!, CancellationToken.None);
        TakeAnswer back = await arbiter.TakeAsync("g", One, 1, raise: false, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 1L), (back.How, back.Generation));

        await arbiter.GiveBackUnusedAsync(unused.Claim!, CancellationToken.None);
        Assert.Equal(RenewResult.Renewed, (await arbiter.RenewAsync(back.Claim!, CancellationToken.None)).How);
    }

    [SkippableFact]
    public async Task Answer_that_was_lost_leaves_the_guest_to_the_one_who_asked()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using EtcdArbiter arbiter = new(Options(etcd));
        await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None);
        TakeAnswer again = await arbiter.TakeAsync("g", One, 0, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 1L), (again.How, again.Claim!.Holder.Generation));
        Assert.Equal(RenewResult.Renewed, (await arbiter.RenewAsync(again.Claim, CancellationToken.None)).How);
    }

    /// <summary>The first of two servers takes the guest and does not say so in time; the second is asked for the same, and finds it done.</summary>
    [SkippableFact]
    public async Task Request_that_the_next_server_finds_done_was_granted()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        await using DeafeningProxy late = new(etcd.Url, "\"role\":\"receiver\"");
        using EtcdArbiter arbiter = new(Options(etcd) with { Endpoints = [late.Url, new Uri(etcd.Url)], Ttl = TimeSpan.FromSeconds(9) });

        // The first call of a process takes its time, and must not be what sends the next one elsewhere.
        await arbiter.TakeAsync("another", One, null, raise: true, CancellationToken.None);
        TakeAnswer taken = await arbiter.TakeAsync("g", Two, 0, raise: true, CancellationToken.None);
        Assert.True(late.IsSilent);
        Assert.Equal((TakeResult.Taken, 1L), (taken.How, taken.Generation));
        Assert.Equal(RenewResult.Renewed, (await arbiter.RenewAsync(taken.Claim!, CancellationToken.None)).How);
    }

    /// <summary>The only server takes the guest, does not say so, and is not heard of until the lease has run out: the generation is the asker's all the same.</summary>
    [SkippableFact]
    public async Task Generation_that_was_raised_by_a_request_without_an_answer_is_still_the_askers()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        ArbiterOptions options = Options(etcd) with { Ttl = TimeSpan.FromSeconds(2) };
        await using (DeafeningProxy late = new(etcd.Url, "\"role\":\"receiver\""))
        {
            using EtcdArbiter unheard = new(options with { Endpoints = [late.Url] });
            await Assert.ThrowsAsync<ArbiterException>(() => unheard.TakeAsync("g", Two, 0, raise: true, CancellationToken.None));
        }

        using EtcdArbiter arbiter = new(options);
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(30));
        while ((await arbiter.TakeAsync("g", One, 7, raise: true, CancellationToken.None)).How == TakeResult.Held)
        {
            await Task.Delay(50, limit.Token);
        }

        TakeAnswer other = await arbiter.TakeAsync("g", One, 0, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Superseded, 1L), (other.How, other.Generation));
        TakeAnswer taken = await arbiter.TakeAsync("g", Two, 0, raise: true, CancellationToken.None);
        Assert.Equal((TakeResult.Taken, 1L), (taken.How, taken.Claim?.Holder.Generation ?? 0));
        await arbiter.ReleaseAsync(taken.Claim!, CancellationToken.None);

        // Once another has raised it, it is lost for good.
        TakeAnswer newer = await arbiter.TakeAsync("g", One, 1, raise: true, CancellationToken.None);
        await arbiter.ReleaseAsync(newer.Claim!, CancellationToken.None);
        Assert.Equal(TakeResult.Superseded, (await arbiter.TakeAsync("g", Two, 0, raise: true, CancellationToken.None)).How);
        Assert.Equal(TakeResult.Superseded, (await arbiter.TakeAsync("g", Two, 1, raise: true, CancellationToken.None)).How);
    }

    [SkippableFact]
    public async Task Of_many_who_ask_at_once_one_gets_the_guest()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using EtcdArbiter arbiter = new(Options(etcd));
        TakeAnswer[] answers = await Task.WhenAll(Enumerable.Range(0, 8).Select(i => arbiter.TakeAsync(
            "g", new Holder($"id{i}", "h", "receiver", 1), 0, raise: true, CancellationToken.None)));
        Assert.Single(answers, a => a.How == TakeResult.Taken);
    }

    /// <summary>
    /// As when etcd ends under a renewal: whatever the request is told of it and at whatever moment, it is the news that nobody answers. Anything
    /// else would end the task that renews.
    /// </summary>
    [Fact]
    public async Task Connection_that_is_reset_under_a_renewal_is_an_arbiter_that_does_not_answer()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        listener.Listen(16);
        Task resetting = ResetAsync(listener);
        ArbiterOptions options = new([new Uri($"http://{listener.LocalEndPoint}")], TimeSpan.FromSeconds(2));
        for (int i = 0; i < 300; i++)
        {
            using EtcdArbiter arbiter = new(options);
            await Assert.ThrowsAsync<ArbiterException>(() => arbiter.RenewAsync(new Claim("g", One, 7), CancellationToken.None));
        }

        listener.Dispose();
        await resetting;
    }

    private static async Task ResetAsync(Socket listener)
    {
        byte[] heard = new byte[4096];
        try
        {
            for (int i = 0; ; i++)
            {
                using Socket socket = await listener.AcceptAsync();
                if (i % 3 > 0)
                {
                    await socket.ReceiveAsync(heard);
                    await Task.Delay(i % 3 - 1);
                }

                socket.LingerState = new LingerOption(true, 0);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The test is over.
        }
    }

    [SkippableFact]
    public async Task Server_that_does_not_answer_is_passed_over_for_one_that_does()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        ArbiterOptions options = Options(etcd);
        using EtcdArbiter arbiter = new(options with { Endpoints = [new Uri("http://127.0.0.1:1"), .. options.Endpoints] });
        Assert.Equal(TakeResult.Taken, (await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None)).How);
        etcd.Silence();
        ArbiterException silent = await Assert.ThrowsAsync<ArbiterException>(
            () => arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None));
        Assert.Contains("127.0.0.1", silent.Message);
        etcd.Speak();
    }

    [SkippableFact]
    public async Task Key_that_somebody_else_wrote_is_told()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using GrpcChannel channel = GrpcChannel.ForAddress(etcd.Url);
        KV.KVClient keys = new(channel);
        await keys.PutAsync(new PutRequest { Key = Text("curling/guests/g/holder"), Value = Text("me!") });
        using EtcdArbiter arbiter = new(Options(etcd));
        ArbiterException wrong = await Assert.ThrowsAsync<ArbiterException>(
            () => arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None));
        Assert.Contains("curling/guests/g/holder does not name a holder", wrong.Message);
    }

    [SkippableFact]
    public async Task User_with_the_password_is_let_in_and_nobody_else()
    {
        await using EtcdServer etcd = await EtcdServer.StartAsync(_directory);
        using (GrpcChannel channel = GrpcChannel.ForAddress(etcd.Url))
        {
            Auth.AuthClient auth = new(channel);
            await auth.UserAddAsync(new AuthUserAddRequest { Name = "root", Password = Password });
            await auth.UserGrantRoleAsync(new AuthUserGrantRoleRequest { User = "root", Role = "root" });
            await auth.AuthEnableAsync(new AuthEnableRequest());
        }

        using (EtcdArbiter nobody = new(Options(etcd)))
        {
            ArbiterException refused = await Assert.ThrowsAsync<ArbiterException>(
                () => nobody.TakeAsync("g", One, null, raise: true, CancellationToken.None));
            Assert.Contains("--arbiter-user", refused.Message);
        }

        string file = Path.Combine(_directory, "password");
        File.WriteAllText(file, Password + "\n");
        using EtcdArbiter arbiter = new(Options(etcd) with { User = "root", PasswordFile = file });
        TakeAnswer taken = await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None);
        Assert.Equal(TakeResult.Taken, taken.How);

        // A server that was started anew knows no token any more.
        await etcd.KillAsync();
        await etcd.StartAgainAsync();
        Assert.Equal(RenewResult.Renewed, (await arbiter.RenewAsync(taken.Claim!, CancellationToken.None)).How);
    }

    [SkippableFact]
    public async Task Certificates_are_shown_and_checked()
    {
        string authority = WriteCertificates();
        string certificate = Path.Combine(_directory, "cert.pem");
        string key = Path.Combine(_directory, "key.pem");
        await using EtcdServer etcd = await EtcdServer.StartAsync(
            _directory, "https", "--cert-file", certificate, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", authority);
        using (EtcdArbiter stranger = new(Options(etcd) with { CertificateFile = certificate, KeyFile = key }))
        {
            await Assert.ThrowsAsync<ArbiterException>(() => stranger.TakeAsync("g", One, null, raise: true, CancellationToken.None));
        }

        using EtcdArbiter arbiter = new(
            Options(etcd) with { CertificateAuthorityFile = authority, CertificateFile = certificate, KeyFile = key });
        Assert.Equal(TakeResult.Taken, (await arbiter.TakeAsync("g", One, null, raise: true, CancellationToken.None)).How);
    }

    private static ArbiterOptions Options(EtcdServer etcd) => new([new Uri(etcd.Url)], TimeSpan.FromSeconds(6));

    private static Google.Protobuf.ByteString Text(string text) => Google.Protobuf.ByteString.CopyFromUtf8(text);

    private string WriteCertificates()
    {
        DateTimeOffset from = DateTimeOffset.UtcNow.AddHours(-1);
        using ECDsa rootKey = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        CertificateRequest root = new("CN=test authority", rootKey, HashAlgorithmName.SHA256);
        root.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, false, 0, true));
        using X509Certificate2 authority = root.CreateSelfSigned(from, from.AddDays(2));
        using ECDsa key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        CertificateRequest request = new("CN=test", key, HashAlgorithmName.SHA256);
        SubjectAlternativeNameBuilder names = new();
        names.AddIpAddress(System.Net.IPAddress.Loopback);
        request.CertificateExtensions.Add(names.Build());
        using X509Certificate2 certificate = request.Create(authority, from, from.AddDays(1), [1]);
        string path = Path.Combine(_directory, "ca.pem");
        File.WriteAllText(path, authority.ExportCertificatePem());
        File.WriteAllText(Path.Combine(_directory, "cert.pem"), certificate.ExportCertificatePem());
        File.WriteAllText(Path.Combine(_directory, "key.pem"), key.ExportPkcs8PrivateKeyPem());
        return path;
    }
}
