using Curling.Linux.Storage;
using Curling.Protocol;
using Curling.Qemu.Guests;
using Curling.Storage;
using Curling.Storage.Images;
using Curling.Storage.Tracking;

namespace Curling.Send.Disks;

/// <summary>One disk of a guest that runs here: its image, and what of it the standby does not have.</summary>
/// <remarks>Owns the image and the map of its changes.</remarks>
internal sealed class PrimaryDisk : IAsyncDisposable
{
    /// <summary>What stands behind an image's name in that of the map of its changes.</summary>
    public const string MapSuffix = ".curling-map";

    // The map is touched every second; the clock of a filesystem may be this coarse and late.
    private static readonly TimeSpan TouchSlack = TimeSpan.FromSeconds(5);
    private readonly ChangeMap _map;

    private PrimaryDisk(string path, TrackedDisk disk, ChangeMap map, IReadOnlyList<Guid> ancestors)
    {
        Path = path;
        Disk = disk;
        _map = map;
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
    /// <param name="definition">The disk.</param>
    /// <param name="directory">A directory that only this user can enter, for sockets.</param>
    /// <param name="cancellation">Gives the opening up.</param>
    /// <exception cref="DiskException">The image or its map cannot be used; the message says why.</exception>
    public static async Task<PrimaryDisk> OpenAsync(DiskDefinition definition, string directory, CancellationToken cancellation)
    {
        IDiskBackend image = await DiskImages.OpenAsync(
            definition.Path, Enum.Parse<ImageFormat>(definition.Format, ignoreCase: true), definition.ReadOnly, directory, cancellation);
        try
        {
            string path = definition.Path + MapSuffix;
            Guid history = ChangeMap.ReadHistory(path) ?? Guid.NewGuid();
            if (WasChangedSince(definition.Path, path))
            {
                // Somebody else wrote to it: what the map says is no more true.
                File.Delete(path);
            }

            return Track(definition.Path, image, history, []);
        }
        catch
        {
            await image.DisposeAsync();
            throw;
        }
    }

    /// <summary>Takes over an image that was a standby's replica until now.</summary>
    /// <param name="path">The image.</param>
    /// <param name="image">The same, open; owned here from now on.</param>
    /// <param name="history">Its new history.</param>
    /// <param name="ancestors">The histories before.</param>
    /// <exception cref="DiskException">The map of its changes cannot be made.</exception>
    public static PrimaryDisk Track(string path, IDiskBackend image, Guid history, IReadOnlyList<Guid> ancestors)
    {
        ChangeMap map = ChangeMap.Open(path + MapSuffix, image.Length, history, DurableFiles.BootId);
        return new PrimaryDisk(path, new TrackedDisk(image, map, new TrackedDiskOptions()), map, ancestors);
    }

    /// <summary>Notes that whatever the image's last change is until now was seen.</summary>
    public void Touch()
    {
        try
        {
            File.SetLastWriteTimeUtc(_map.Path, DateTime.UtcNow);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A map that looks old is not trusted when it is opened next: all of the disk travels then.
        }
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        Touch();
        return Disk.DisposeAsync();
    }

    private static bool WasChangedSince(string image, string map) =>
        File.Exists(map) && File.GetLastWriteTimeUtc(image) > File.GetLastWriteTimeUtc(map) + TouchSlack;
}
