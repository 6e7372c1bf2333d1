namespace Curling.Simulation.Network;

/// <summary>
/// One connection. Connections know nothing of each other, so an old one may still deliver when a new one stands.
/// </summary>
internal sealed class Link(History history, int number, PairOptions options, Func<bool> faulty)
{
    private readonly string _name = $"link {number}";

    public Pipe ToReceiver { get; } = new(history, $"link {number} >", options, faulty);

    public Pipe ToSender { get; } = new(history, $"link {number} <", options, faulty);

    /// <summary>The network swallows what is under way and all that follows.</summary>
    /// <param name="tellSender">Whether the sender is told, or hears only silence.</param>
    /// <param name="tellReceiver">Whether the receiver is told, or hears only silence.</param>
    public void Cut(bool tellSender, bool tellReceiver)
    {
        history.Note(_name, $"cut; told: {(tellSender ? "sender" : "")} {(tellReceiver ? "receiver" : "")}");
        ToSender.Swallow(tellSender);
        ToReceiver.Swallow(tellReceiver);
    }

    /// <summary>One direction is gone, and nobody is told: the connection is half open.</summary>
    public void HalfOpen(int direction)
    {
        history.Note(_name, $"half open: nothing more comes {(direction == 0 ? "to the receiver" : "to the sender")}");
        (direction == 0 ? ToReceiver : ToSender).Swallow(tell: false);
    }

    /// <summary>One direction delivers nothing for a while, then everything.</summary>
    public void Stall(int direction, int milliseconds)
    {
        history.Note(_name, $"{(direction == 0 ? "to the receiver" : "to the sender")} stalls for {milliseconds} ms");
        (direction == 0 ? ToReceiver : ToSender).Stall(milliseconds);
    }
}
