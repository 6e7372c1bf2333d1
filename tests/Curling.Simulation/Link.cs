using Curling.Protocol;

namespace Curling.Simulation;

/// <summary>What travels between the two daemons.</summary>
internal abstract record Message
{
    public sealed record Hello : Message;

    public sealed record Begin(RoundBegin Round) : Message;

    public sealed record End(RoundEnd Round) : Message;

    public sealed record Goodbye(GoodbyeReason Reason) : Message;

    public sealed record Heartbeat : Message
    {
        public static readonly Heartbeat Instance = new();
    }

    public sealed record Ready : Message;

    public sealed record Complete(long Round) : Message;

    public sealed record Committed(long Round) : Message;

    public sealed record Promoted(long Round) : Message;

    public sealed record Refusal(RefusalCode Code) : Message;

    /// <summary>The connection ended; the last thing a side sends, or the network's word.</summary>
    public sealed record Closed : Message
    {
        public static readonly Closed Instance = new();
    }
}

/// <summary>
/// One connection: each direction keeps its order and has its delays, and everything under way can be lost at any moment,
/// with or without the ends being told. Connections know nothing of each other, so an old one may still deliver when a new
/// one stands.
/// </summary>
internal sealed class Link(History simulation, int number)
{
    private readonly long[] _last = new long[2];
    private readonly bool[] _closed = new bool[2];
    private bool _cut;

    public string Name { get; } = $"link {number}";

    public Action<Message> Receiver { get; set; } = _ => { };

    public Action<Message> Sender { get; set; } = _ => { };

    public void ToReceiver(Message message) => Send(0, message);

    public void ToSender(Message message) => Send(1, message);

    /// <summary>The network eats what is under way and all that follows.</summary>
    /// <param name="tellSender">Whether the sender is told, or hears only silence.</param>
    /// <param name="tellReceiver">Whether the receiver is told, or hears only silence.</param>
    public void Cut(bool tellSender, bool tellReceiver)
    {
        if (_cut)
        {
            return;
        }

        _cut = true;
        simulation.Note(Name, $"cut; told: {(tellSender ? "sender" : "")} {(tellReceiver ? "receiver" : "")}");
        if (tellSender)
        {
            simulation.In(simulation.Between(0, 40), () => Sender(Message.Closed.Instance));
        }

        if (tellReceiver)
        {
            simulation.In(simulation.Between(0, 40), () => Receiver(Message.Closed.Instance));
        }
    }

    /// <summary>One direction or both deliver nothing for a while, then everything.</summary>
    public void Stall(int direction, int milliseconds)
    {
        simulation.Note(Name, $"{(direction == 0 ? "to the receiver" : "to the sender")} stalls for {milliseconds} ms");
        _last[direction] = Math.Max(_last[direction], simulation.Milliseconds + milliseconds);
    }

    private void Send(int direction, Message message)
    {
        if (_cut || _closed[direction])
        {
            return;
        }

        _closed[direction] = message is Message.Closed;
        _last[direction] = Math.Max(_last[direction], simulation.Milliseconds + simulation.Between(0, 6));
        simulation.In(_last[direction] - simulation.Milliseconds, () =>
        {
            if (!_cut)
            {
                (direction == 0 ? Receiver : Sender)(message);
            }
        });
    }
}
