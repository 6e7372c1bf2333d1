using System.Globalization;
using Curling.Hosting.Options;
using Curling.Linux.Processes;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>Runs the operator's command that makes sure that a primary does not run.</summary>
internal static partial class Fence
{
    /// <summary>Runs it.</summary>
    /// <param name="options">The command and how long it may take.</param>
    /// <param name="guest">The guest's name.</param>
    /// <param name="sender">The address that its sender last had, <c>host:port</c>.</param>
    /// <param name="promote">The promotion that waits for it.</param>
    /// <param name="log">Where to log.</param>
    /// <param name="cancellation">Ends the command.</param>
    /// <returns>Null when the promotion may go on, else why not.</returns>
    public static async Task<string?> RunAsync(
        ReceiverOptions options, string guest, string? sender, ReceiverOutput.Promote promote, ILogger log, CancellationToken cancellation)
    {
        string command = options.FenceCommand ?? throw new InvalidOperationException("there is no fence command");
        Log.Fencing(log, guest, command);
        string address = Endpoint.TryParse(sender ?? "", allowPortZero: true, out Endpoint peer, out _) ? peer.Host : "";
        ChildProcessOptions start = new("/bin/sh", ["-c", command])
        {
            Environment = new Dictionary<string, string>
            {
                ["CURLING_GUEST"] = guest,
                ["CURLING_SENDER"] = address,
                ["CURLING_ROUND"] = promote.Round.ToString(CultureInfo.InvariantCulture),
                ["CURLING_REASON"] = promote.Reason,
            },
        };
        try
        {
            await using ChildProcess process = ChildProcess.Start(start);
            int code = await process.WaitAsync(options.FenceTimeout, cancellation);
            string said = process.ErrorTail;
            if (code == 0)
            {
                Log.Fenced(log, guest);
                return null;
            }

            return $"the fence command ended with exit code {code}{(said.Length > 0 ? $": {said}" : "")}";
        }
        catch (TimeoutException)
        {
            return $"the fence command did not end within {options.FenceTimeout.TotalSeconds:0.#} s";
        }
        catch (Exception e) when (e is IOException or System.ComponentModel.Win32Exception)
        {
            return $"the fence command cannot be run: {e.Message}";
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "Fencing", Level = LogLevel.Information, Message = "{Guest}: fencing the primary: {Command}")]
        public static partial void Fencing(ILogger log, string guest, string command);

        [LoggerMessage(EventName = "Fenced", Level = LogLevel.Information, Message = "{Guest}: the primary is fenced: it does not run")]
        public static partial void Fenced(ILogger log, string guest);
    }
}
