using System.CommandLine;
using System.CommandLine.Parsing;
using Curling.Linux.Memory;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Options;

/// <summary>Makes the options that both programs have, and options of Curling's own kinds.</summary>
public static class CommonOptions
{
    /// <summary>An option that takes an endpoint.</summary>
    public static Option<Endpoint> Endpoint(string name, string description, bool allowPortZero) => new(name)
    {
        Description = description,
        HelpName = "tcp:HOST:PORT",
        CustomParser = result =>
        {
            if (!Options.Endpoint.TryParse(Text(result), allowPortZero, out Endpoint endpoint, out string error))
            {
                result.AddError($"{name}: {error}");
            }

            return endpoint;
        },
    };

    /// <summary>An option that takes a rate.</summary>
    public static Option<ByteRate> Rate(string name, string description, ByteRate standard) => new(name)
    {
        Description = description,
        HelpName = "RATE",
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            if (!ByteRate.TryParse(Text(result), out ByteRate rate, out string error))
            {
                result.AddError($"{name}: {error}");
            }

            return rate;
        },
    };

    /// <summary>An option that takes an amount of memory.</summary>
    public static Option<Amount> Size(string name, string description, long standard, long from) => new(name)
    {
        Description = description,
        HelpName = "SIZE",
        DefaultValueFactory = _ => new Amount(standard),
        CustomParser = result =>
        {
            if (!ByteSize.TryParse(Text(result), out long bytes) || bytes < from)
            {
                result.AddError(
                    $"{name}: \"{Text(result)}\" is not a size of at least {ByteSize.Format(from)}; write for example 512MiB");
            }

            return new Amount(bytes);
        },
    };

    /// <summary>An option that takes a time.</summary>
    public static Option<Duration> Duration(string name, string description, TimeSpan standard, TimeSpan from, TimeSpan to) =>
        new(name)
        {
            Description = description,
            HelpName = "TIME",
            DefaultValueFactory = _ => new Duration(standard),
            CustomParser = result =>
            {
                if (!Durations.TryParse(Text(result), out TimeSpan time) || time < from || time > to)
                {
                    result.AddError(
                        $"{name}: \"{Text(result)}\" is not a time from {Durations.Format(from)} to {Durations.Format(to)};"
                        + " write for example 500ms or 2s");
                }

                return new Duration(time);
            },
        };

    /// <summary>An option that takes one of a few words.</summary>
    public static Option<string> Word(string name, string description, string standard, params string[] words) => new(name)
    {
        Description = description,
        HelpName = string.Join('|', words),
        DefaultValueFactory = _ => standard,
        CustomParser = result =>
        {
            string word = Text(result);
            if (!words.Contains(word))
            {
                result.AddError($"{name}: \"{word}\" is none of {string.Join(", ", words)}");
            }

            return word;
        },
    };

    /// <summary>An option that takes a path or name as it is.</summary>
    public static Option<string?> Path(string name, string description) => new(name) { Description = description, HelpName = "PATH" };

    /// <summary><c>--log-file</c>.</summary>
    public static Option<string?> LogFile() => Path("--log-file", "Also write the log to this file, as compact JSON, one event a line");

    /// <summary><c>--log-level</c>.</summary>
    public static Option<string> LogLevelOption() =>
        Word("--log-level", "What to log; debug shows every round", "information", "debug", "information", "warning", "error");

    /// <summary><c>--test-disk-digests</c>.</summary>
    public static Option<string?> DiskDigests()
    {
        Option<string?> option = Path("--test-disk-digests", "For tests: add a line to this file for what each disk holds at each round; slow");
        option.Hidden = true;
        return option;
    }

    /// <summary>The level a <c>--log-level</c> names.</summary>
    public static LogLevel ReadLevel(string word) => word switch
    {
        "debug" => LogLevel.Debug,
        "warning" => LogLevel.Warning,
        "error" => LogLevel.Error,
        _ => LogLevel.Information,
    };

    private static string Text(ArgumentResult result) => result.Tokens.Count > 0 ? result.Tokens[^1].Value : "";
}

/// <summary>A time that is shown the way people write it, in help too.</summary>
public readonly record struct Duration(TimeSpan Time)
{
    /// <inheritdoc/>
    public override string ToString() => Durations.Format(Time).Replace(" ", "");
}

/// <summary>An amount of memory that is shown the way people write it, in help too.</summary>
public readonly record struct Amount(long Bytes)
{
    /// <inheritdoc/>
    public override string ToString() => ByteSize.Format(Bytes).Replace(" ", "");
}
