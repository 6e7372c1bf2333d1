using System.Text.Json.Serialization;

namespace Curling.Hosting.Arbiter;

/// <summary>
/// Decides which host may run a guest: it keeps one holder per guest, by a lease that runs out unless it is renewed, and the guest's
/// generation, which rises whenever the guest is started anew or taken over and never falls.
/// </summary>
/// <remarks>Thread-safe. Every call ends within a time well below the lease's.</remarks>
public interface IArbiter : IDisposable
{
    /// <summary>How it was named, for people.</summary>
    string Name { get; }

    /// <summary>How long a lease lives when it is not renewed.</summary>
    TimeSpan Ttl { get; }

    /// <summary>
    /// Asks once for the right to run a guest. Asked again after an attempt without an answer, which may have been carried out, it gives what that one
    /// would have given, with the same expected generation, unless another has had the guest since.
    /// </summary>
    /// <param name="guest">The guest's name.</param>
    /// <param name="holder">Who asks; its generation does not matter.</param>
    /// <param name="expected">The generation that the guest must have, or null for any.</param>
    /// <param name="raise">Whether the guest becomes a new generation.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="ArbiterException">It cannot be reached or does not do what is asked; whether it gave the right is not known.</exception>
    Task<TakeAnswer> TakeAsync(string guest, Holder holder, long? expected, bool raise, CancellationToken cancellation);

    /// <summary>Asks who has the right to run a guest; null for nobody.</summary>
    /// <exception cref="ArbiterException">It cannot be reached or does not do what is asked.</exception>
    Task<Holder?> LookAsync(string guest, CancellationToken cancellation);

    /// <summary>Renews a right.</summary>
    /// <exception cref="ArbiterException">It cannot be reached or does not do what is asked.</exception>
    Task<RenewAnswer> RenewAsync(Claim claim, CancellationToken cancellation);

    /// <summary>Gives a right back; nothing when it is another's already.</summary>
    /// <exception cref="ArbiterException">It cannot be reached or does not do what is asked.</exception>
    Task ReleaseAsync(Claim claim, CancellationToken cancellation);

    /// <summary>Gives back a right under which the guest has surely not run: its generation is again what it was before.</summary>
    /// <exception cref="ArbiterException">It cannot be reached or does not do what is asked.</exception>
    Task GiveBackUnusedAsync(Claim claim, CancellationToken cancellation) => ReleaseAsync(claim, cancellation);
}

/// <summary>Who holds the right to run a guest, as it is written down for everybody to read.</summary>
/// <param name="Id">An identifier of this run of a daemon and this guest.</param>
/// <param name="Host">The host's name.</param>
/// <param name="Role">sender or receiver.</param>
/// <param name="Generation">The guest's generation.</param>
public sealed record Holder(string Id, string Host, string Role, long Generation)
{
    /// <summary>How long its lease lives when it is not renewed, in seconds, as it was granted; 0 where that was not written down.</summary>
    public long Seconds { get; init; }

    /// <inheritdoc/>
    public override string ToString() => $"the {Role} on {Host} (generation {Generation})";
}

/// <summary>A right that was given.</summary>
/// <param name="Guest">The guest's name.</param>
/// <param name="Holder">Who has it.</param>
/// <param name="Lease">The arbiter's number of the lease.</param>
public sealed record Claim(string Guest, Holder Holder, long Lease);

/// <summary>What became of a request for the right.</summary>
/// <param name="How">Given, or why not.</param>
/// <param name="Claim">The right, when it was given.</param>
/// <param name="AskedAt">A moment before the lease was asked for, on the clock since the host's start.</param>
/// <param name="Ttl">How long the lease lives.</param>
/// <param name="Other">Who has it instead.</param>
/// <param name="Generation">The guest's generation now, as the arbiter knows it.</param>
public sealed record TakeAnswer(TakeResult How, Claim? Claim, TimeSpan AskedAt, TimeSpan Ttl, Holder? Other, long Generation);

/// <summary>How a request for the right ended.</summary>
public enum TakeResult
{
    /// <summary>Given.</summary>
    Taken = 1,

    /// <summary>Another has it.</summary>
    Held = 2,

    /// <summary>The guest has another generation than was expected.</summary>
    Superseded = 3,
}

/// <summary>What became of a renewal.</summary>
/// <param name="How">Renewed, or why not.</param>
/// <param name="AskedAt">A moment before the renewal was asked for, on the clock since the host's start.</param>
/// <param name="Ttl">How long the lease lives from then on.</param>
/// <param name="Generation">The guest's generation now.</param>
/// <param name="Other">Who has the right instead, if anybody.</param>
public sealed record RenewAnswer(RenewResult How, TimeSpan AskedAt, TimeSpan Ttl, long Generation, Holder? Other);

/// <summary>How a renewal ended.</summary>
public enum RenewResult
{
    /// <summary>Renewed.</summary>
    Renewed = 1,

    /// <summary>The lease has run out, and nobody else has taken the guest.</summary>
    RunOut = 2,

    /// <summary>Another has the right, or had it: the generation has risen.</summary>
    Superseded = 3,
}

/// <summary>The arbiter cannot be reached, or does not do what it is asked.</summary>
public sealed class ArbiterException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>How holders are written down.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, RespectNullableAnnotations = true,
    RespectRequiredConstructorParameters = true, MaxDepth = 4)]
[JsonSerializable(typeof(Holder))]
internal sealed partial class HolderJson : JsonSerializerContext;
