using System.Globalization;

namespace Curling.Linux.Memory;

/// <summary>Amounts of memory as people write them: <c>512MiB</c>, <c>4G</c>, <c>1.5GiB</c>, <c>1048576</c>.</summary>
/// <remarks>K, M, G and T alone are powers of 1024, as QEMU takes them; KB, MB, … are powers of 1000.</remarks>
public static class ByteSize
{
    private static readonly (string Suffix, double Factor)[] Units =
    [
        ("kib", 1L << 10), ("mib", 1L << 20), ("gib", 1L << 30), ("tib", 1L << 40),
        ("kb", 1e3), ("mb", 1e6), ("gb", 1e9), ("tb", 1e12),
        ("k", 1L << 10), ("m", 1L << 20), ("g", 1L << 30), ("t", 1L << 40), ("b", 1),
    ];

    /// <summary>Reads a size of 0 to 1 EiB; false for anything else.</summary>
    public static bool TryParse(string? text, out long bytes)
    {
        bytes = 0;
        string trimmed = (text ?? "").Trim().ToLowerInvariant();
        double factor = 1;
        foreach ((string suffix, double unit) in Units)
        {
            if (trimmed.EndsWith(suffix, StringComparison.Ordinal))
            {
                factor = unit;
                trimmed = trimmed[..^suffix.Length].TrimEnd();
                break;
            }
        }

        if (trimmed.Length is 0 or > 20
            || !double.TryParse(trimmed, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double number)
            || !(number * factor <= 1L << 60)) // not true for what is no number, which the line above takes
        {
            return false;
        }

        bytes = (long)Math.Round(number * factor);
        return true;
    }

    /// <summary>Writes a size for people: the largest unit that leaves a number above 1, with one decimal where it says something.</summary>
    public static string Format(double bytes)
    {
        (string unit, double factor) = Math.Abs(bytes) switch
        {
            >= 1L << 40 => ("TiB", 1L << 40),
            >= 1L << 30 => ("GiB", 1L << 30),
            >= 1L << 20 => ("MiB", 1L << 20),
            >= 1L << 10 => ("KiB", 1L << 10),
            _ => ("B", 1),
        };
        return string.Create(CultureInfo.InvariantCulture, $"{bytes / factor:0.#} {unit}");
    }
}
