using System.Collections;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Curling.Qemu.Guests;

/// <summary>A network card of a guest, and where its cable ends. Immutable.</summary>
/// <param name="Mac">Its address, as <c>52:54:00:12:34:56</c>.</param>
/// <param name="Model">QEMU's device.</param>
/// <param name="Attach">Where it attaches on the primary: <c>tap:NAME</c>, <c>bridge:NAME</c> or <c>none</c>.</param>
/// <param name="StandbyAttach">Where it attaches on the standby's host.</param>
/// <param name="Mtu">The longest payload of a frame in bytes.</param>
public sealed record NetworkDefinition(string Mac, string Model, string Attach, string StandbyAttach, int Mtu)
{
    /// <summary>The MTU of a network for which none is written.</summary>
    public const int DefaultMtu = 1500;

    /// <summary>The devices that a guest can have, all of them without offloads that a cable does not carry.</summary>
    public static IReadOnlyList<string> Models { get; } = ["virtio-net-pci", "e1000", "e1000e", "rtl8139"];

    /// <summary>The address as six bytes.</summary>
    public byte[] MacBytes() => Convert.FromHexString(Mac.Replace(":", ""));

    /// <summary>An address for a card that has none written: always the same for one guest and place.</summary>
    public static string MacFor(string guest, int index)
    {
        byte[] hash = SHA256.HashData(Encoding.UTF8.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{guest}/{index}")));
        return $"52:54:00:{hash[0]:x2}:{hash[1]:x2}:{hash[2]:x2}";
    }

    /// <summary>Whether a text is the address of one card: six bytes, not a group's.</summary>
    public static bool IsMac(string text) => text.Length == 17
        && Enumerable.Range(0, 17).All(i => i % 3 == 2 ? text[i] == ':' : char.IsAsciiHexDigit(text[i]))
        && (Convert.ToByte(text[..2], 16) & 1) == 0 && text != "00:00:00:00:00:00";
}

/// <summary>The networks of a guest, compared one by one.</summary>
public sealed class NetworkList : IReadOnlyList<NetworkDefinition>, IEquatable<NetworkList>
{
    /// <summary>No network.</summary>
    public static readonly NetworkList Empty = new([]);

    private readonly NetworkDefinition[] _networks;

    /// <summary>Creates a list.</summary>
    public NetworkList(IEnumerable<NetworkDefinition> networks) => _networks = [.. networks];

    /// <inheritdoc/>
    public int Count => _networks.Length;

    /// <inheritdoc/>
    public NetworkDefinition this[int index] => _networks[index];

    /// <inheritdoc/>
    public bool Equals(NetworkList? other) => other is not null && _networks.AsSpan().SequenceEqual(other._networks);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as NetworkList);

    /// <inheritdoc/>
    public override int GetHashCode() => _networks.Length == 0 ? 0 : _networks[0].GetHashCode();

    /// <inheritdoc/>
    public IEnumerator<NetworkDefinition> GetEnumerator() => ((IEnumerable<NetworkDefinition>)_networks).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
