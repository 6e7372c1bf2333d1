using System.Globalization;
using System.Reflection;
using Curling.Qemu.Guests;

namespace Curling.Qemu.BuiltinGuest;

/// <summary>
/// The small guest that is protected when none is named: a bare-metal program that is its own firmware. It counts on its
/// serial port, dirties memory at a given rate and says whether its memory is one consistent instant. Its source is
/// builtin-guest.asm.
/// </summary>
public static class BuiltinGuestImage
{
    /// <summary>The guest's name.</summary>
    public const string Name = "builtin";

    /// <summary>The size of the image in bytes.</summary>
    public const int Bytes = 64 * 1024;

    /// <summary>The guest's memory unless something else is asked for.</summary>
    public const long DefaultMemoryBytes = 64L << 20;

    /// <summary>Where in guest memory the program keeps what an observer may read.</summary>
    public const long HeaderAddress = 0x8000;

    /// <summary>Offset in the header of the number of pages dirtied, 8 bytes.</summary>
    public const int HeaderPagesOffset = 16;

    /// <summary>Reads the image out of this assembly.</summary>
    public static byte[] Read()
    {
        using Stream stream = Assembly.GetExecutingAssembly().GetManifestResourceStream("builtin-guest.bin")
            ?? throw new InvalidOperationException("the built-in guest's image is missing from the program");
        byte[] image = new byte[Bytes];
        stream.ReadExactly(image);
        return image;
    }

    /// <summary>The definition of the built-in guest.</summary>
    /// <param name="imagePath">Where its image was written.</param>
    public static GuestDefinition Define(string imagePath) => new()
    {
        Name = Name,
        MemoryBytes = DefaultMemoryBytes,
        Firmware = imagePath,
        Append = "ws=8M rate=500",
    };
}

/// <summary>A line that the built-in guest (or the tests' Linux guest) prints.</summary>
/// <param name="Count">Lines printed so far, from 1.</param>
/// <param name="Sweep">The sweep under way.</param>
/// <param name="Page">The next page of it.</param>
/// <param name="Pages">Pages dirtied so far.</param>
/// <param name="Consistent">Whether the guest found its memory to be one instant.</param>
public readonly record struct GuestLine(long Count, long Sweep, long Page, long Pages, bool Consistent)
{
    /// <summary>Reads a line; false for anything else, such as the rest of a line that was cut by a failover.</summary>
    public static bool TryParse(string text, out GuestLine line)
    {
        line = default;

        // The last in the text: before it there may be the beginning of a line that was cut off.
        int at = text.LastIndexOf("guest: count=", StringComparison.Ordinal);
        if (at < 0)
        {
            return false;
        }

        string[] words = text[(at + 7)..].Trim().Split(' ');
        return words.Length >= 5
            && Number(words[0], "count=", out long count)
            && Number(words[1], "sweep=", out long sweep)
            && Number(words[2], "page=", out long page)
            && Number(words[3], "pages=", out long pages)
            && words[4] is "memory=consistent" or "memory=TORN"
            && (line = new GuestLine(count, sweep, page, pages, words[4] == "memory=consistent")) != default;
    }

    private static bool Number(string word, string name, out long number)
    {
        number = 0;
        return word.StartsWith(name, StringComparison.Ordinal)
            && long.TryParse(word.AsSpan(name.Length), NumberStyles.None, CultureInfo.InvariantCulture, out number);
    }
}
