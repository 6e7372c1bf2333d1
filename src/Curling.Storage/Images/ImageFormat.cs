namespace Curling.Storage.Images;

/// <summary>How a disk's bytes are kept in its image. All but <see cref="Raw"/> are read and written by QEMU's own tools.</summary>
public enum ImageFormat
{
    /// <summary>Told from the image's first bytes and its name, which must agree.</summary>
    Auto = 1,

    /// <summary>One for one.</summary>
    Raw,

    /// <summary>QEMU's own format.</summary>
    Qcow2,

    /// <summary>The old QEMU format.</summary>
    Qcow,

    /// <summary>The enhanced disk format of older QEMUs.</summary>
    Qed,

    /// <summary>VMware's.</summary>
    Vmdk,

    /// <summary>VirtualBox's.</summary>
    Vdi,

    /// <summary>Hyper-V's first.</summary>
    Vpc,

    /// <summary>Hyper-V's second.</summary>
    Vhdx,

    /// <summary>Parallels'.</summary>
    Parallels,
}
