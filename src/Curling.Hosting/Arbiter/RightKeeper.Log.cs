using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Arbiter;

/// <summary>What the keeper tells.</summary>
public sealed partial class RightKeeper
{
    private static partial class Log
    {
        [LoggerMessage(EventName = "RightTaken", Level = LogLevel.Information,
            Message = "{Guest}: {Arbiter} gives this host the right to run the guest, as generation {Generation}")]
        public static partial void Taken(ILogger log, string guest, string arbiter, long generation);

        [LoggerMessage(EventName = "RightTakenAgain", Level = LogLevel.Warning,
            Message = "{Guest}: {Arbiter} gives this host the right to run the guest again, as generation {Generation}")]
        public static partial void TakenAgain(ILogger log, string guest, string arbiter, long generation);

        [LoggerMessage(EventName = "RightReleased", Level = LogLevel.Information,
            Message = "{Guest}: the right to run the guest is given back to {Arbiter}")]
        public static partial void Released(ILogger log, string guest, string arbiter);

        [LoggerMessage(EventName = "RightNotReleased", Level = LogLevel.Warning,
            Message = "{Guest}: the right to run the guest could not be given back to {Arbiter} ({Reason}); it runs out by itself within"
                + " {Seconds:0} s, and a takeover waits for that")]
        public static partial void NotReleased(ILogger log, string guest, string arbiter, string reason, double seconds);

        [LoggerMessage(EventName = "RightRunOut", Level = LogLevel.Warning,
            Message = "{Guest}: the lease at {Arbiter} has run out; asking for the guest anew")]
        public static partial void RunOut(ILogger log, string guest, string arbiter);

        [LoggerMessage(EventName = "ArbiterSilent", Level = LogLevel.Warning,
            Message = "{Guest}: the arbiter does not answer: {Reason}. A protected guest goes on, and nothing is taken over; look after etcd and"
                + " the way to it")]
        public static partial void Silent(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "ArbiterAnswers", Level = LogLevel.Information,
            Message = "{Guest}: {Arbiter} answers again, after {Seconds:0.0} s")]
        public static partial void Answers(ILogger log, string guest, string arbiter, double seconds);
    }
}
