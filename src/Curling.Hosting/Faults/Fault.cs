using System.Globalization;
using Curling.Hosting.Options;

namespace Curling.Hosting.Faults;

/// <summary>What happens at a fault point.</summary>
public enum FaultAction
{
    /// <summary>The process ends at once, as a crash.</summary>
    Exit = 1,

    /// <summary>What reached the point stands still.</summary>
    Stall = 2,

    /// <summary>An I/O error.</summary>
    Error = 3,
}

/// <summary>One thing that is to go wrong.</summary>
/// <param name="Name">The place, one of <see cref="FaultPoint.Names"/>.</param>
/// <param name="Action">What happens there.</param>
/// <param name="Time">For how long, of <see cref="FaultAction.Stall"/>.</param>
/// <param name="Nth">The time it is reached that counts, from 1; all others pass.</param>
public sealed record Fault(string Name, FaultAction Action, TimeSpan Time, long Nth)
{
    /// <summary>How long a stall lasts that says nothing.</summary>
    public static readonly TimeSpan StandardTime = TimeSpan.FromSeconds(1);

    /// <summary>Reads <c>NAME:exit|stall|error[:TIME][@NTH]</c>.</summary>
    /// <param name="text">What was written; the time only with stall, in milliseconds or as other options take times.</param>
    /// <param name="fault">What it says.</param>
    /// <param name="error">What is wrong with it.</param>
    public static bool TryParse(string text, out Fault? fault, out string error)
    {
        fault = null;
        long nth = 1;
        int at = text.LastIndexOf('@');
        if (at >= 0 && (!long.TryParse(text.AsSpan(at + 1), NumberStyles.None, CultureInfo.InvariantCulture, out nth) || nth < 1))
        {
            error = $"\"{text[(at + 1)..]}\" is not a count from 1";
            return false;
        }

        string[] parts = (at >= 0 ? text[..at] : text).Split(':');
        if (FaultPoint.CanFail(parts[0]) is not { } canFail)
        {
            error = $"\"{parts[0]}\" is no fault point; there are {string.Join(", ", FaultPoint.Names)}";
            return false;
        }

        FaultAction? action = (parts.Length > 1 ? parts[1] : "") switch
        {
            "exit" => FaultAction.Exit,
            "stall" => FaultAction.Stall,
            "error" => FaultAction.Error,
            _ => null,
        };
        if (action is null || parts.Length > 3 || (parts.Length == 3 && action != FaultAction.Stall))
        {
            error = $"\"{text}\" is not NAME:exit[@NTH], NAME:stall[:TIME][@NTH] or NAME:error[@NTH]";
            return false;
        }

        if (action == FaultAction.Error && !canFail)
        {
            error = $"nothing can fail at {parts[0]}; only exit and stall are possible there";
            return false;
        }

        TimeSpan time = StandardTime;
        if (parts.Length == 3 && !TryReadTime(parts[2], out time))
        {
            error = $"\"{parts[2]}\" is not a time up to 10 minutes";
            return false;
        }

        fault = new Fault(parts[0], action.Value, time, nth);
        error = "";
        return true;
    }

    private static bool TryReadTime(string text, out TimeSpan time)
    {
        if (int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int milliseconds))
        {
            time = TimeSpan.FromMilliseconds(milliseconds);
        }
        else if (!Durations.TryParse(text, out time))
        {
            return false;
        }

        return time <= TimeSpan.FromMinutes(10);
    }
}
