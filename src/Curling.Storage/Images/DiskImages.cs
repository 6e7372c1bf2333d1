using System.Buffers.Binary;

namespace Curling.Storage.Images;

/// <summary>Opens images of any format.</summary>
public static class DiskImages
{
    private const int ProbeBytes = 512;

    /// <summary>Opens an image.</summary>
    /// <param name="path">A file or a block device.</param>
    /// <param name="format">
    /// Its format. <see cref="ImageFormat.Auto"/> takes a file for raw only when it does not begin like another format, and for another format
    /// only when its name says so too: a guest can write what it likes to the beginning of a raw disk, but not change the image's name.
    /// </param>
    /// <param name="readOnly">Whether it is never written.</param>
    /// <param name="directory">A directory that only this user can enter, for the socket of QEMU's tool; needed for formats other than raw.</param>
    /// <param name="cancellation">Gives the opening up.</param>
    /// <exception cref="DiskException">It cannot be used; the message says why.</exception>
    public static async Task<IDiskBackend> OpenAsync(
        string path, ImageFormat format, bool readOnly, string directory, CancellationToken cancellation)
    {
        if (format == ImageFormat.Auto)
        {
            format = await ProbeAsync(path, cancellation).ConfigureAwait(false);
        }

        return format == ImageFormat.Raw
            ? RawImage.Open(path, readOnly)
            : await QemuImage.OpenAsync(path, format, readOnly, directory, cancellation).ConfigureAwait(false);
    }

    /// <summary>Tells an image's format, or refuses to guess.</summary>
    internal static async Task<ImageFormat> ProbeAsync(string path, CancellationToken cancellation)
    {
        byte[] start = new byte[ProbeBytes];
        int length;
        try
        {
            await using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, bufferSize: 0);
            length = await file.ReadAtLeastAsync(start, start.Length, throwOnEndOfStream: false, cancellation).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DiskException(
                DiskError.Io, Directory.Exists(path) ? $"{path} is a directory; a disk image is a file or a block device" : $"{path}: {e.Message}", e);
        }

        ImageFormat begins = Recognize(start.AsSpan(0, length));
        ImageFormat named = OfName(path);
        return begins == named ? begins : throw new DiskException(
            DiskError.Io,
            $"{path} begins like {Name(begins)}, and its name says {Name(named)}; write the format into the guest's definition (\"format\": \"qcow2\", or"
            + " \"raw\" where the guest sees the file's bytes as they are)");
    }

    /// <summary>A format's name as QEMU has it.</summary>
    internal static string Name(ImageFormat format) => format.ToString().ToLowerInvariant();

    /// <summary>Tells a format by its first bytes (qemu: block/*.c, the probe functions).</summary>
    internal static ImageFormat Recognize(ReadOnlySpan<byte> start)
    {
        if (start.StartsWith("QFI"u8) && start.Length >= 8 && start[3] == 0xfb)
        {
            return BinaryPrimitives.ReadUInt32BigEndian(start[4..]) == 1 ? ImageFormat.Qcow : ImageFormat.Qcow2;
        }

        if (start.StartsWith("QED\0"u8))
        {
            return ImageFormat.Qed;
        }

        if (start.StartsWith("KDMV"u8) || start.StartsWith("COWD"u8) || start.StartsWith("# Disk DescriptorFile"u8))
        {
            return ImageFormat.Vmdk;
        }

        if (start.StartsWith("vhdxfile"u8))
        {
            return ImageFormat.Vhdx;
        }

        if (start.StartsWith("conectix"u8))
        {
            return ImageFormat.Vpc;
        }

        if (start.StartsWith("WithoutFreeSpace"u8) || start.StartsWith("WithouFreSpacExt"u8))
        {
            return ImageFormat.Parallels;
        }

        return start.Length >= 0x44 && BinaryPrimitives.ReadUInt32LittleEndian(start[0x40..]) == 0xbeda107f ? ImageFormat.Vdi : ImageFormat.Raw;
    }

    private static ImageFormat OfName(string path) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".qcow2" => ImageFormat.Qcow2,
        ".qcow" => ImageFormat.Qcow,
        ".qed" => ImageFormat.Qed,
        ".vmdk" => ImageFormat.Vmdk,
        ".vdi" => ImageFormat.Vdi,
        ".vhd" or ".vpc" => ImageFormat.Vpc,
        ".vhdx" => ImageFormat.Vhdx,
        ".hds" => ImageFormat.Parallels,
        _ => ImageFormat.Raw,
    };
}
