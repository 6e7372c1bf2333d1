using System.CommandLine;
using Curling.Hosting.Options;

namespace Curling.Hosting.Control;

/// <summary>The subcommands that ask a running daemon of this host: what both programs have in common.</summary>
public static class ControlCommands
{
    /// <summary>How long a daemon may take to answer what it knows.</summary>
    public static readonly TimeSpan CallLimit = TimeSpan.FromSeconds(10);

    /// <summary>How long a guest may take to be moved or promoted.</summary>
    public static readonly TimeSpan MoveLimit = TimeSpan.FromMinutes(3);

    /// <summary>Makes the option that names the daemon.</summary>
    public static Option<string?> ControlOption() => CommonOptions.Path("--control", "The daemon's control socket; needed only when several run here");

    /// <summary>Makes <c>status</c>, which prints for people or, with <c>--json</c>, for programs.</summary>
    /// <typeparam name="TStatus">What the daemon reports.</typeparam>
    /// <param name="kind">Which daemon, as its socket is named: <c>send</c> or <c>recv</c>.</param>
    /// <param name="description">What it shows.</param>
    /// <param name="pick">Takes the report out of an answer.</param>
    /// <param name="json">Writes it as one JSON document.</param>
    /// <param name="text">Writes it for people.</param>
    public static Command Status<TStatus>(
        string kind, string description, Func<ControlReply, TStatus?> pick, Func<TStatus, string> json, Func<TStatus, string> text)
        where TStatus : class
    {
        Option<string?> control = ControlOption();
        Option<bool> asJson = new("--json") { Description = "Print one JSON document with stable names" };
        Command command = new("status", description) { control, asJson };
        command.SetAction(async (parsed, cancellation) =>
        {
            ControlReply reply = await ControlClient.CallAsync(
                ControlPaths.Choose(kind, parsed.GetValue(control)), new ControlRequest("status"), CallLimit, cancellation);
            TStatus status = pick(reply) ?? throw new OperatorException(reply.Error ?? $"the daemon is not a curling-{kind}");
            await Console.Out.WriteLineAsync(parsed.GetValue(asJson) ? json(status) : text(status).TrimEnd());
            return 0;
        });
        return command;
    }

    /// <summary>Asks the daemon for something and prints what came of it.</summary>
    /// <param name="kind">Which daemon, as its socket is named: <c>send</c> or <c>recv</c>.</param>
    /// <param name="control">The socket, when it was named.</param>
    /// <param name="request">What is asked.</param>
    /// <param name="limit">How long it may take.</param>
    /// <param name="cancellation">Gives up waiting; what was asked may happen all the same.</param>
    /// <returns>The exit code.</returns>
    /// <exception cref="OperatorException">The daemon is not there, or refused.</exception>
    public static async Task<int> CallAsync(string kind, string? control, ControlRequest request, TimeSpan limit, CancellationToken cancellation)
    {
        ControlReply reply = await ControlClient.CallAsync(ControlPaths.Choose(kind, control), request, limit, cancellation);
        if (!reply.Ok)
        {
            throw new OperatorException(reply.Error ?? "it failed");
        }

        await Console.Out.WriteLineAsync(reply.Done);
        return 0;
    }
}
