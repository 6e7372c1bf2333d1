using Curling.Linux.Storage;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Storage;
using Curling.Storage.Images;
using Curling.Storage.Tracking;

namespace Curling.Send.Disks;

/// <summary>One disk of a guest that runs here: its image, and what of it the standby does not have.</summary>
/// <remarks>Owns the image and the map of its changes. Thread-safe.</remarks>
internal sealed class PrimaryDisk : IAsyncDisposable
{
    /// <summary>What stands behind an image's name in that of the map of its changes.</summary>
    public const string MapSuffix = ".curling-map";

    private PrimaryDisk(string path, TrackedDisk disk, IReadOnlyList<Guid> ancestors)
    {
        Path = path;
        Disk = disk;
        Ancestors = ancestors;
    }

    /// <summary>The image.</summary>
    public string Path { get; }

    /// <summary>What the guest writes to.</summary>
    public TrackedDisk Disk { get; }

    /// <summary>The histories that led to this one.</summary>
    public IReadOnlyList<Guid> Ancestors { get; }

    /// <summary>Bytes of the disk that travelled on the connection that is open.</summary>
    public long BytesSent { get; set; }

    /// <summary>How it is named to the receiver.</summary>
    public HelloDisk Hello => new(Disk.Length, Disk.Map.Record.HistoryId, Ancestors);

    /// <summary>Opens a disk of a guest that is started here.</summary>
    /// <param name="guest">The guest's name.</param>
    /// <param name="definition">The disk.</param>
    /// <param name="directory">A directory that only this user can enter, for sockets.</param>
    /// <param name="cancellation">Gives the opening up.</param>
    /// <exception cref="DiskException">The image or its map cannot be used; the message says why.</exception>
    public static async Task<PrimaryDisk> OpenAsync(string guest, DiskDefinition definition, string directory, CancellationToken cancellation)
    {
        // Before it is opened: what QEMU's tools write to it then is ours.
        FileStamp? found = FileStamp.Of(definition.Path);
        IDiskBackend image = await DiskImages.OpenAsync(
            definition.Path, Enum.Parse<ImageFormat>(definition.Format, ignoreCase: true), definition.ReadOnly, directory, cancellation);
        try
        {
            Guid history = ChangeMap.ReadHistory(MapPath(guest, definition.Path, image)) ?? Guid.NewGuid();
            return Track(guest, definition.Path, image, history, [], found);
        }
        catch
        {
            await image.DisposeAsync();
            throw;
        }
    }

    /// <summary>Takes over an image, for example one that was a standby's replica until now.</summary>
    /// <param name="guest">The guest's name.</param>
    /// <param name="path">The image.</param>
    /// <param name="image">The same, open; owned here from now on.</param>
    /// <param name="history">Its history.</param>
    /// <param name="ancestors">The histories before.</param>
    /// <param name="found">How the file looked before it was opened; null when its changes were not followed by a map before.</param>
    /// <exception cref="DiskException">The map of its changes cannot be made.</exception>
    public static PrimaryDisk Track(
        string guest, string path, IDiskBackend image, Guid history, IReadOnlyList<Guid> ancestors, FileStamp? found = null)
    {
        ChangeMap map = ChangeMap.Open(MapPath(guest, path, image), image.Length, history, DurableFiles.BootId, found ?? FileStamp.Of(path));
        return new PrimaryDisk(path, new TrackedDisk(image, map, new TrackedDiskOptions { ImagePath = path }), ancestors);
    }

    /// <summary>Notes that whatever the image's last change is until now was seen.</summary>
    public void Touch() => Disk.See();

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => Disk.DisposeAsync();

    // An image that is only read may be several guests', each of which has a replica of its own.
    private static string MapPath(string guest, string path, IDiskBackend image) =>
        image.IsReadOnly ? $"{path}.{guest}{MapSuffix}" : path + MapSuffix;
}
