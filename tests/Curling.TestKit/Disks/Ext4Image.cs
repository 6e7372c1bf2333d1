using System.Text.RegularExpressions;

namespace Curling.TestKit.Disks;

/// <summary>Images of disks with an ext4 filesystem and nothing else on them. Needs e2fsprogs, and no mounting.</summary>
public static partial class Ext4Image
{
    /// <summary>Makes a sparse image with an empty filesystem.</summary>
    public static async Task CreateAsync(string path, long bytes)
    {
        CreateEmpty(path, bytes);

        // Everything is initialised here: the guest's kernel would do so in the background and write all the time.
        await DiskTool.MustAsync("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", path);
    }

    /// <summary>Makes a sparse image of zeroes.</summary>
    public static void CreateEmpty(string path, long bytes)
    {
        using FileStream stream = new(path, FileMode.CreateNew, FileAccess.Write);
        stream.SetLength(bytes);
    }

    /// <summary>Copies an image; holes stay holes.</summary>
    public static Task CopyAsync(string from, string to) => DiskTool.MustAsync("cp", "--sparse=always", from, to);

    /// <summary>
    /// Replays the journal of a copy of an image, fails unless the filesystem is clean then, and takes its files out.
    /// </summary>
    /// <param name="image">The image; it is not written to.</param>
    /// <param name="directory">Where copy and files may be; must not exist.</param>
    /// <returns>The directory of the files.</returns>
    /// <exception cref="DiskDamageException">The filesystem is damaged.</exception>
    public static async Task<string> ExtractAsync(string image, string directory)
    {
        Directory.CreateDirectory(directory);
        string copy = Path.Combine(directory, "copy.img");
        string files = Path.Combine(directory, "files");
        Directory.CreateDirectory(files);
        await CopyAsync(image, copy);

        // As a kernel that mounts it would: the journal first, then what the journal does not hold (orphans, counts of free blocks).
        // e2fsck -p mends more than that without asking, so that what it says is looked at too. All else is damage.
        (int code, string said) = await DiskTool.RunAsync("e2fsck", "-y", "-E", "journal_only", copy);
        Expect(code <= 1, "its journal cannot be replayed", said);
        (code, said) = await DiskTool.RunAsync("e2fsck", "-f", "-p", copy);
        Expect(code <= 1, "it is damaged", said);
        Expect(said.Split('\n').All(line => Harmless().IsMatch(line)), "it is damaged after its journal was replayed", said);
        (code, said) = await DiskTool.RunAsync("e2fsck", "-f", "-n", copy);
        Expect(code == 0, "it is not clean", said);
        (code, said) = await DiskTool.RunAsync("debugfs", "-R", $"rdump / {files}", copy);
        Expect(code == 0 && !said.Contains("while reading", StringComparison.Ordinal), "its files cannot be read", said);
        return files;

        void Expect(bool right, string what, string said)
        {
            if (!right)
            {
                throw new DiskDamageException($"the filesystem in {image}: {what}: {said}");
            }
        }
    }

    // Words of e2fsck 1.47 (e2fsck/problem.c).
    [GeneratedRegex(@"^$|^e2fsck |: \d+/\d+ files \(|recovering journal|[Oo]rphan|Free (blocks|inodes) count wrong|could be (shorter|narrower)")]
    private static partial Regex Harmless();
}
