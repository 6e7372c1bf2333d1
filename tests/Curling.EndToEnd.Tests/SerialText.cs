using System.Globalization;
using System.Text.RegularExpressions;
using Curling.TestKit.Daemons;
using Curling.TestKit.Disks;

namespace Curling.EndToEnd.Tests;

/// <summary>What a guest prints besides the counting program's lines.</summary>
internal sealed partial class SerialText(string socket)
{
    private readonly string _path = socket[..^".sock".Length] + ".log";

    public string Read()
    {
        if (!File.Exists(_path))
        {
            return "";
        }

        using FileStream stream = new(_path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using StreamReader reader = new(stream);
        return reader.ReadToEnd();
    }

    public Task UntilAsync(string text) => UntilAsync(serial => serial.Contains(text, StringComparison.Ordinal), $"\"{text}\"");

    public Task UntilWrittenAsync(long writes) => UntilAsync(
        serial => Written().Matches(serial).Any(m => long.Parse(m.Groups[1].ValueSpan, CultureInfo.InvariantCulture) >= writes),
        $"that it made write {writes}");

    private async Task UntilAsync(Func<string, bool> holds, string what)
    {
        long start = Environment.TickCount64;
        while (!holds(Read()))
        {
            _ = DiskSerial.Checks(Read());
            if (Environment.TickCount64 - start > Daemon.Limit.TotalMilliseconds)
            {
                throw new TimeoutException($"the guest does not say {what}: {Read()}");
            }

            await Task.Delay(20);
        }
    }

    [GeneratedRegex(@"disk-raw: written=(\d+)\r?\n")]
    private static partial Regex Written();
}
