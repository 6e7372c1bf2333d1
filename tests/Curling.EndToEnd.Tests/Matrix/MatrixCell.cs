namespace Curling.EndToEnd.Tests.Matrix;

/// <summary>What a deed is done to.</summary>
public enum Subject
{
    /// <summary>The process <c>curling-send</c>.</summary>
    Sender = 1,

    /// <summary>The primary's QEMU.</summary>
    Primary = 2,

    /// <summary>The process <c>curling-recv</c>.</summary>
    Receiver = 3,

    /// <summary>The standby's QEMU.</summary>
    Standby = 4,

    /// <summary>The connection from sender to receiver.</summary>
    Link = 5,

    /// <summary>etcd: its process, or the connections of both daemons to it.</summary>
    Arbiter = 6,
}

/// <summary>What is done.</summary>
public enum Deed
{
    /// <summary>SIGKILL. Only etcd is started again, after five seconds.</summary>
    Kill = 1,

    /// <summary>SIGSTOP, and SIGCONT after five seconds.</summary>
    Stop = 2,

    /// <summary>Every connection is reset; new ones are possible at once.</summary>
    Reset = 3,

    /// <summary>Nothing passes for five seconds, and nobody is told.</summary>
    Drop = 4,
}

/// <summary>When it is done.</summary>
public enum Moment
{
    /// <summary>A part of the first round is sent.</summary>
    BaseRound = 1,

    /// <summary>A round is committed, the next has not begun.</summary>
    BetweenRounds = 2,

    /// <summary>A round has begun, the guest runs.</summary>
    PreCopy = 3,

    /// <summary>The guest stands still for the cut.</summary>
    Cut = 4,

    /// <summary>All of the round but its end is sent.</summary>
    Sending = 5,

    /// <summary>Half of the round is in the standby's memory.</summary>
    Committing = 6,

    /// <summary>A switchover: the primary has stopped and sent its last round, half of its state is in the standby's QEMU.</summary>
    Promotion = 7,
}

/// <summary>Where the guest runs at the end.</summary>
public enum Place
{
    /// <summary>At neither; what it did is lost, or an operator has to say what is to be.</summary>
    Nowhere = 1,

    /// <summary>At the sender.</summary>
    Primary = 2,

    /// <summary>At the receiver.</summary>
    Standby = 3,
}

/// <summary>What must have come about when everything but a killed process is well again.</summary>
/// <param name="Guest">Where the guest runs.</param>
/// <param name="Protected">Whether rounds are committed again.</param>
/// <param name="SenderExit">The exit codes of <c>curling-send</c> that are right; none where it runs on. 137 is that of a killed process.</param>
/// <param name="ReceiverExit">The same of <c>curling-recv</c>.</param>
public sealed record Expected(Place Guest, bool Protected, int[] SenderExit, int[] ReceiverExit)
{
    /// <inheritdoc/>
    public override string ToString() =>
        $"{Where(Guest)}{(Guest == Place.Primary ? Protected ? ", protected" : ", unprotected" : "")}; {Code("sender", SenderExit)}, {Code("receiver", ReceiverExit)}";

    private static string Where(Place place) => place switch
    {
        Place.Primary => "at the primary",
        Place.Standby => "at the standby",
        _ => "nowhere",
    };

    private static string Code(string who, int[] codes) => codes.Length == 0 ? $"{who} runs" : $"{who} {string.Join(" or ", codes)}";
}

/// <summary>One cell of the failure matrix.</summary>
public sealed record MatrixCell(Subject Subject, Deed Deed, Moment Moment)
{
    private const int Killed = 137;

    /// <summary>Every cell that has a meaning: signals go to processes, resets and drops to connections.</summary>
    public static IEnumerable<MatrixCell> All { get; } =
    [
        .. from subject in Enum.GetValues<Subject>()
           from deed in Enum.GetValues<Deed>()
           from moment in Enum.GetValues<Moment>()
           where deed is Deed.Kill or Deed.Stop ? subject != Subject.Link : subject is Subject.Link or Subject.Arbiter
           select new MatrixCell(subject, deed, moment),
    ];

    /// <summary>What must come of it. Both daemons have the arbiter, <c>--on-failure promote</c> and <c>--failure-timeout 1s</c>.</summary>
    public Expected Expected => (Subject, Deed, Moment) switch
    {
        // Before the first round is committed there is nothing to take over.
        (Subject.Sender, Deed.Kill, Moment.BaseRound) => Runs(Place.Nowhere, sender: [Killed]),
        (Subject.Sender, Deed.Kill, _) => Runs(Place.Standby, sender: [Killed]),
        (Subject.Primary, Deed.Kill, Moment.BaseRound) => Runs(Place.Nowhere, sender: [3]),

        // After the last cut QEMU's end is no loss any more, whatever of the two the sender learns first.
        (Subject.Primary, Deed.Kill, Moment.Promotion) => Runs(Place.Standby, sender: [0, 3]),
        (Subject.Primary, Deed.Kill, _) => Runs(Place.Standby, sender: [3]),

        // Its right runs out while it stands still.
        (Subject.Sender, Deed.Stop, Moment.BaseRound) => Protected,
        (Subject.Sender, Deed.Stop, Moment.Promotion) => Runs(Place.Standby, sender: [0]),
        (Subject.Sender, Deed.Stop, _) => Runs(Place.Standby, sender: [4]),

        // The guest was handed over, and the only one who knows whether it runs there is gone.
        (Subject.Receiver, Deed.Kill, Moment.Promotion) => Runs(Place.Nowhere, receiver: [Killed]),
        (Subject.Receiver, Deed.Kill, _) => Runs(Place.Primary, receiver: [Killed]),

        // A guest that has only just been started and never was protected: the sender takes a receiver that cannot keep it for a mistake to be mended, and ends.
        (Subject.Standby, Deed.Kill, Moment.BaseRound) => Runs(Place.Nowhere, sender: [1]),

        // A standby that dies before its guest runs is told: the primary takes its guest up again, and the receiver starts another.
        (Subject.Standby, Deed.Kill, Moment.Promotion) => Protected,
        (_, _, Moment.Promotion) => Runs(Place.Standby, sender: [0]),
        _ => Protected,
    };

    private static Expected Protected { get; } = new(Place.Primary, true, [], []);

    /// <inheritdoc/>
    public override string ToString() => $"{Subject} {Deed} {Moment}";

    private static Expected Runs(Place place, int[]? sender = null, int[]? receiver = null) => new(place, false, sender ?? [], receiver ?? []);
}
