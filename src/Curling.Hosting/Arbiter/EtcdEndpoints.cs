using System.Net.Security;
using System.Security.Cryptography.X509Certificates;
using Etcdserverpb;
using Grpc.Core;
using Grpc.Net.Client;

namespace Curling.Hosting.Arbiter;

/// <summary>The servers of an etcd: a call goes to the one that answered last, and to the others when it does not.</summary>
/// <remarks>Thread-safe. Every attempt has a time limit, so that a server that is silent costs a fraction of a lease.</remarks>
internal sealed class EtcdEndpoints : IDisposable
{
    private readonly Endpoint[] _endpoints;
    private readonly string _name;
    private readonly TimeSpan _limit;
    private readonly string? _user;
    private readonly string? _password;
    private volatile string? _token;
    private volatile int _preferred;

    /// <summary>Creates the channels; nothing is connected before the first call.</summary>
    public EtcdEndpoints(ArbiterOptions options, ArbiterSecrets secrets)
    {
        _name = options.Name;
        _user = options.User;
        _password = secrets.Password;
        _limit = options.Ttl / 6;
        _endpoints = [.. options.Endpoints.Select(uri => new Endpoint(uri, secrets, options.Ttl))];
    }

    /// <summary>Calls one server after the other until one answers.</summary>
    /// <exception cref="ArbiterException">None did, or one refused for a reason that the others have too.</exception>
    public async Task<T> CallAsync<T>(Func<Endpoint, CallOptions, Task<T>> call, CancellationToken cancellation)
    {
        string? problem = null;
        int first = _preferred;
        for (int i = 0; i < _endpoints.Length; i++)
        {
            int at = (first + i) % _endpoints.Length;
            try
            {
                T answer = await CallAsync(_endpoints[at], call, cancellation);
                _preferred = at;
                return answer;
            }
            catch (RpcException) when (cancellation.IsCancellationRequested)
            {
                throw new OperationCanceledException(cancellation);
            }
            catch (RpcException e)
            {
                problem = Explain(_endpoints[at], e);
            }
        }

        throw new ArbiterException(problem ?? $"{_name}: cancelled");
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (Endpoint endpoint in _endpoints)
        {
            endpoint.Dispose();
        }
    }

    private static string Explain(Endpoint endpoint, RpcException e) => $"{endpoint.Name}: " + e.StatusCode switch
    {
        StatusCode.DeadlineExceeded => "it does not answer in time",
        StatusCode.Unavailable => $"it cannot be reached ({e.Status.DebugException?.InnerException?.Message ?? e.Status.DebugException?.Message ?? e.Status.Detail})",

        // etcd says so of a user that is missing, and of a password that is wrong.
        StatusCode.Unauthenticated or StatusCode.PermissionDenied or StatusCode.InvalidArgument => $"it does not let Curling in ({e.Status.Detail}); see --arbiter-user",
        _ => e.Status.Detail,
    };

    private async Task<T> CallAsync<T>(Endpoint endpoint, Func<Endpoint, CallOptions, Task<T>> call, CancellationToken cancellation)
    {
        if (_user is null)
        {
            return await call(endpoint, Options(null, cancellation));
        }

        string token = _token ??= await LogInAsync(endpoint, cancellation);
        try
        {
            return await call(endpoint, Options(token, cancellation));
        }
        catch (RpcException e) when (e.StatusCode == StatusCode.Unauthenticated)
        {
            // Tokens run out, and each server forgets them when it is started anew.
            _token = token = await LogInAsync(endpoint, cancellation);
            return await call(endpoint, Options(token, cancellation));
        }
    }

    private async Task<string> LogInAsync(Endpoint endpoint, CancellationToken cancellation) => (await endpoint.Auth.AuthenticateAsync(
        new AuthenticateRequest { Name = _user, Password = _password }, Options(null, cancellation))).Token;

    private CallOptions Options(string? token, CancellationToken cancellation) => new(
        token is null ? null : [new Metadata.Entry("token", token)], DateTime.UtcNow + _limit, cancellation);

    /// <summary>One server.</summary>
    internal sealed class Endpoint : IDisposable
    {
        private readonly GrpcChannel _channel;

        /// <summary>Creates its channel.</summary>
        public Endpoint(Uri uri, ArbiterSecrets secrets, TimeSpan ttl)
        {
            Name = uri.GetLeftPart(UriPartial.Authority);
            SocketsHttpHandler handler = new()
            {
                UseProxy = false,
                ConnectTimeout = ttl / 6,
                PooledConnectionIdleTimeout = Timeout.InfiniteTimeSpan,

                // A connection that a firewall forgot, or whose server's host is gone, is noticed and made anew. Where leases are renewed
                // something comes more often than this; etcd does not like to be asked for nothing.
                KeepAlivePingDelay = (ttl / 3) + TimeSpan.FromSeconds(1),
                KeepAlivePingTimeout = TimeSpan.FromSeconds(1),
                SslOptions = Ssl(secrets),
            };

            // No retries but ours: an answer that comes from a later attempt would have been asked for at another time.
            _channel = GrpcChannel.ForAddress(uri, new GrpcChannelOptions
            {
                HttpHandler = handler,
                DisposeHttpClient = true,
                MaxReceiveMessageSize = 1 << 20,
            });
            Kv = new KV.KVClient(_channel);
            Lease = new Lease.LeaseClient(_channel);
            Auth = new Auth.AuthClient(_channel);
        }

        /// <summary>Its address.</summary>
        public string Name { get; }

        /// <summary>Keys.</summary>
        public KV.KVClient Kv { get; }

        /// <summary>Leases.</summary>
        public Lease.LeaseClient Lease { get; }

        /// <summary>Users.</summary>
        public Auth.AuthClient Auth { get; }

        /// <summary>Renews a lease; its time to live is 0 when it is gone.</summary>
        public async Task<LeaseKeepAliveResponse> KeepAliveAsync(long lease, CallOptions options)
        {
            using AsyncDuplexStreamingCall<LeaseKeepAliveRequest, LeaseKeepAliveResponse> call = Lease.LeaseKeepAlive(options);
            try
            {
                await call.RequestStream.WriteAsync(new LeaseKeepAliveRequest { ID = lease }, options.CancellationToken);
            }
            catch (Exception e) when (e is InvalidOperationException or IOException or HttpRequestException)
            {
                // The call was over before it could be used, or its connection broke under the request, which is told as it is: reading its answer
                // says why.
            }

            if (!await call.ResponseStream.MoveNext(options.CancellationToken))
            {
                throw new RpcException(new Status(StatusCode.Unavailable, "it ended the call"));
            }

            LeaseKeepAliveResponse answer = call.ResponseStream.Current;
            await call.RequestStream.CompleteAsync();
            return answer;
        }

        /// <summary>Revokes a lease; one that is gone is none to revoke.</summary>
        public async Task<bool> RevokeAsync(long lease, CallOptions options)
        {
            try
            {
                await Lease.LeaseRevokeAsync(new LeaseRevokeRequest { ID = lease }, options);
                return true;
            }
            catch (RpcException e) when (e.StatusCode == StatusCode.NotFound)
            {
                return false;
            }
        }

        /// <inheritdoc/>
        public void Dispose() => _channel.Dispose();

        private static SslClientAuthenticationOptions Ssl(ArbiterSecrets secrets)
        {
            SslClientAuthenticationOptions ssl = new();
            if (secrets.Authorities is { } authorities)
            {
                ssl.CertificateChainPolicy = new X509ChainPolicy
                {
                    TrustMode = X509ChainTrustMode.CustomRootTrust,
                    RevocationMode = X509RevocationMode.NoCheck,
                };
                ssl.CertificateChainPolicy.CustomTrustStore.AddRange(authorities);
            }

            if (secrets.Certificate is { } certificate)
            {
                ssl.ClientCertificates = [certificate];
            }

            return ssl;
        }
    }
}
