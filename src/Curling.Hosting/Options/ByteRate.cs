using System.Globalization;
using Curling.Linux.Memory;

namespace Curling.Hosting.Options;

/// <summary>Bytes per second on the link, or no limit.</summary>
/// <param name="BytesPerSecond">The rate, 0 for no limit.</param>
public readonly record struct ByteRate(long BytesPerSecond)
{
    /// <summary>The slowest rate taken: below it a frame would look like silence.</summary>
    public const long Slowest = 1 << 20;

    /// <summary>No limit.</summary>
    public static readonly ByteRate Max;

    /// <summary>Whether there is no limit.</summary>
    public bool IsMax => BytesPerSecond == 0;

    /// <summary>Reads <c>max</c>, <c>500MiB/s</c>, <c>50MB/s</c> or <c>10Gbit/s</c>.</summary>
    public static bool TryParse(string text, out ByteRate rate, out string error)
    {
        rate = default;
        error = "";
        if (text.Equals("max", StringComparison.OrdinalIgnoreCase))
        {
            return true;
        }

        double bytes = -1;
        if (text.EndsWith("bit/s", StringComparison.OrdinalIgnoreCase))
        {
            string number = text[..^5].TrimEnd();
            double factor = number.Length == 0 ? 0 : char.ToLowerInvariant(number[^1]) switch { 'k' => 1e3, 'm' => 1e6, 'g' => 1e9, _ => 1 };
            number = factor > 1 ? number[..^1] : number;
            if (double.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double bits))
            {
                bytes = bits * factor / 8;
            }
        }
        else if (text.EndsWith("/s", StringComparison.OrdinalIgnoreCase) && ByteSize.TryParse(text[..^2], out long size))
        {
            bytes = size;
        }

        if (bytes is < 0 or > 1L << 50)
        {
            error = $"\"{text}\" is not a rate; write max, or for example 500MiB/s or 10Gbit/s";
            return false;
        }

        if (bytes < Slowest)
        {
            error = $"{text} is too slow to protect a guest; write at least {ByteSize.Format(Slowest)}/s";
            return false;
        }

        rate = new ByteRate((long)bytes);
        return true;
    }

    /// <inheritdoc/>
    public override string ToString() => IsMax ? "max" : ByteSize.Format(BytesPerSecond) + "/s";
}
