using System.Collections;

namespace Curling.Qemu.Guests;

/// <summary>A disk of a guest. Immutable.</summary>
/// <param name="Path">Its image on the primary: a file or a block device.</param>
/// <param name="Format"><c>auto</c>, <c>raw</c>, <c>qcow2</c> or another format of QEMU's.</param>
/// <param name="StandbyPath">Where its replica is on the standby's host; null for a file in the receiver's replica directory.</param>
/// <param name="ReadOnly">Whether the guest may only read it.</param>
public sealed record DiskDefinition(string Path, string Format, string? StandbyPath, bool ReadOnly)
{
    /// <summary>The formats that can be named. All but raw are read and written through QEMU's own tools.</summary>
    public static IReadOnlyList<string> Formats { get; } = ["auto", "raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels"];
}

/// <summary>The disks of a guest, compared one by one.</summary>
public sealed class DiskList : IReadOnlyList<DiskDefinition>, IEquatable<DiskList>
{
    /// <summary>No disk.</summary>
    public static readonly DiskList Empty = new([]);

    private readonly DiskDefinition[] _disks;

    /// <summary>Creates a list.</summary>
    public DiskList(IEnumerable<DiskDefinition> disks) => _disks = [.. disks];

    /// <inheritdoc/>
    public int Count => _disks.Length;

    /// <inheritdoc/>
    public DiskDefinition this[int index] => _disks[index];

    /// <inheritdoc/>
    public bool Equals(DiskList? other) => other is not null && _disks.AsSpan().SequenceEqual(other._disks);

    /// <inheritdoc/>
    public override bool Equals(object? obj) => Equals(obj as DiskList);

    /// <inheritdoc/>
    public override int GetHashCode() => _disks.Length == 0 ? 0 : _disks[0].GetHashCode();

    /// <inheritdoc/>
    public IEnumerator<DiskDefinition> GetEnumerator() => ((IEnumerable<DiskDefinition>)_disks).GetEnumerator();

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();
}
