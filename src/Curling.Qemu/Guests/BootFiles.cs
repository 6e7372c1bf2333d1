using System.Security.Cryptography;

namespace Curling.Qemu.Guests;

/// <summary>A file the guest boots from.</summary>
/// <param name="Role"><c>kernel</c>, <c>initrd</c> or <c>firmware</c>.</param>
/// <param name="Path">Where it is on this host.</param>
/// <param name="Length">Its length in bytes.</param>
/// <param name="Sha256">SHA-256 of its content in lower-case hexadecimal digits.</param>
public sealed record BootFile(string Role, string Path, long Length, string Sha256)
{
    /// <summary>Lists a guest's boot files and hashes them.</summary>
    /// <exception cref="GuestDefinitionException">One cannot be read.</exception>
    public static IReadOnlyList<BootFile> Describe(GuestDefinition guest)
    {
        List<BootFile> files = [];
        foreach ((string role, string? path) in
            (ReadOnlySpan<(string, string?)>)[("kernel", guest.Kernel), ("initrd", guest.Initrd), ("firmware", guest.Firmware)])
        {
            if (path is null)
            {
                continue;
            }

            try
            {
                using FileStream stream = File.OpenRead(path);
                files.Add(new BootFile(role, path, stream.Length, Convert.ToHexStringLower(SHA256.HashData(stream))));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new GuestDefinitionException(path, role, $"the file cannot be read: {e.Message}");
            }
        }

        return files;
    }
}

/// <summary>What a receiver lets a guest from the network have.</summary>
/// <param name="MaxGuestMemoryBytes">Memory of one guest.</param>
/// <param name="MaxVcpus">Virtual CPUs of one guest.</param>
public sealed record GuestLimits(long MaxGuestMemoryBytes, int MaxVcpus)
{
    /// <summary>Holds a definition against the limits.</summary>
    /// <exception cref="GuestDefinitionException">It asks for more.</exception>
    public void Check(GuestDefinition guest, string source)
    {
        if (guest.MemoryBytes > MaxGuestMemoryBytes)
        {
            throw new GuestDefinitionException(
                source,
                "memory",
                $"{Linux.Memory.ByteSize.Format(guest.MemoryBytes)} is more than the receiver allows"
                + $" ({Linux.Memory.ByteSize.Format(MaxGuestMemoryBytes)}); start curling-recv with a larger --max-guest-memory");
        }

        if (guest.Vcpus > MaxVcpus)
        {
            throw new GuestDefinitionException(source, "vcpus", $"{guest.Vcpus} is more than the receiver allows ({MaxVcpus})");
        }
    }
}
