using System.Globalization;
using System.Text.RegularExpressions;

namespace Curling.TestKit.Disks;

/// <summary>What the disk programs of a guest said on its serial port.</summary>
public static partial class DiskSerial
{
    /// <summary>The checks of the guest's own: the number of the newest record or transaction at each, in order.</summary>
    /// <exception cref="DiskDamageException">The guest found something that is not as it must be.</exception>
    public static IReadOnlyList<(int Check, long Durable, bool Dropped)> Checks(string serial)
    {
        Match failed = Failed().Match(serial);
        return failed.Success
            ? throw new DiskDamageException("the guest says: " + failed.Value.Trim())
            : [.. Check().Matches(serial).Select(m => (
                int.Parse(m.Groups["check"].ValueSpan, CultureInfo.InvariantCulture),
                long.Parse(m.Groups["durable"].ValueSpan, CultureInfo.InvariantCulture),
                m.Groups["how"].ValueSpan is "dropped"))];
    }

    [GeneratedRegex(@"disk(-\w+)?: FAILED: .*")]
    private static partial Regex Failed();

    [GeneratedRegex(@"disk-\w+: check=(?<check>\d+) durable=(?<durable>\d+) (?<how>cached|dropped) consistent")]
    private static partial Regex Check();
}
