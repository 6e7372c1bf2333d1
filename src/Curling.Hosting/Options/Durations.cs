using System.Globalization;

namespace Curling.Hosting.Options;

/// <summary>Times as people write them: <c>500ms</c>, <c>2s</c>, <c>1m</c>.</summary>
public static class Durations
{
    /// <summary>Reads a time from 0 to one day; false for anything else.</summary>
    public static bool TryParse(string text, out TimeSpan time)
    {
        time = default;
        (string number, double milliseconds) = text switch
        {
            _ when text.EndsWith("ms", StringComparison.Ordinal) => (text[..^2], 1),
            _ when text.EndsWith('s') => (text[..^1], 1000),
            _ when text.EndsWith('m') => (text[..^1], 60_000),
            _ => (text == "0" ? "0" : "", 1.0),
        };
        if (!double.TryParse(number, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double value)
            || value * milliseconds > TimeSpan.FromDays(1).TotalMilliseconds)
        {
            return false;
        }

        time = TimeSpan.FromMilliseconds(value * milliseconds);
        return true;
    }

    /// <summary>Writes a time for people.</summary>
    public static string Format(TimeSpan time) => time.TotalSeconds switch
    {
        >= 120 => string.Create(CultureInfo.InvariantCulture, $"{time.TotalMinutes:0.#} min"),
        >= 1 => string.Create(CultureInfo.InvariantCulture, $"{time.TotalSeconds:0.#} s"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{time.TotalMilliseconds:0.#} ms"),
    };
}
