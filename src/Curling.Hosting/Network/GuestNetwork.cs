using System.Diagnostics;
using System.Net.Sockets;
using Curling.Hosting.Options;
using Curling.Linux.Network;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Replication.Output;
using Microsoft.Extensions.Logging;

namespace Curling.Hosting.Network;

/// <summary>All network cards of a guest on one host, and the gate before their output.</summary>
/// <remarks>Thread-safe. Create it before QEMU is started, which connects to it; dispose it after QEMU has ended.</remarks>
public sealed class GuestNetwork : IDisposable
{
    private readonly NetworkPort[] _ports;

    private GuestNetwork(OutputGate gate, ReleaseDeadline deadline, NetworkPort[] ports)
    {
        Gate = gate;
        Deadline = deadline;
        _ports = ports;
    }

    /// <summary>Decides what may leave. After changing it call <see cref="Wake"/>.</summary>
    public OutputGate Gate { get; }

    /// <summary>Until when anything may leave. After setting it later call <see cref="Wake"/>.</summary>
    public ReleaseDeadline Deadline { get; }

    /// <summary>Whether the guest has any network.</summary>
    public bool IsEmpty => _ports.Length == 0;

    /// <summary>The numbers of each network.</summary>
    public IReadOnlyList<PortCounters> Counters => [.. _ports.Select(p => p.Counters)];

    /// <summary>The time that <paramref name="share"/> of the last frames were held at most, in microseconds, over all networks.</summary>
    public long HeldMicros(double share) => _ports.Length == 0 ? 0 : _ports.Max(p => p.HeldMicros.At(share));

    /// <summary>Makes the host's ends of a guest's networks, and the sockets that QEMU will connect to.</summary>
    /// <param name="guest">The guest.</param>
    /// <param name="directory">Where its sockets are; as in <see cref="QemuLaunch.Directory"/>.</param>
    /// <param name="standby">Whether this is the standby's host: frames flow only after <see cref="Open"/> and <see cref="Pass"/>.</param>
    /// <param name="heldBytes">Output that may wait, per network.</param>
    /// <param name="events">Hears what happens.</param>
    /// <param name="log">Where to log.</param>
    /// <exception cref="OperatorException">The host lacks what the definition names.</exception>
    public static GuestNetwork Create(
        GuestDefinition guest, string directory, bool standby, long heldBytes, INetworkEvents events, ILogger log)
    {
        OutputGate gate = new(guest.Networks.Count);
        ReleaseDeadline deadline = new();
        List<NetworkPort> ports = [];
        try
        {
            for (int i = 0; i < guest.Networks.Count; i++)
            {
                NetworkDefinition network = guest.Networks[i];
                ports.Add(new NetworkPort(
                    i, network, standby ? network.StandbyAttach : network.Attach, QemuCommandLine.NetworkSocket(directory, i), heldBytes, gate,
                    deadline, events, !standby, guest.Name, log));
            }

            return new GuestNetwork(gate, deadline, [.. ports]);
        }
        catch (Exception e)
        {
            ports.ForEach(p => p.Dispose());
            if (e is TapException or SocketException)
            {
                throw new OperatorException($"network {ports.Count} of guest {guest.Name}: {e.Message}");
            }

            throw;
        }
    }

    /// <summary>The gate has changed: what may leave, leaves.</summary>
    public void Wake()
    {
        foreach (NetworkPort port in _ports)
        {
            port.Wake();
        }
    }

    /// <summary>
    /// The guest is about to be stopped: what its cards have queued is taken, also beyond the limit, for QEMU would drop it.
    /// </summary>
    /// <param name="limit">How long to wait where a card was held up; zero not to wait.</param>
    public void BeforeStop(TimeSpan limit)
    {
        foreach (NetworkPort port in _ports)
        {
            port.BeforeStop();
        }

        foreach (NetworkPort port in _ports)
        {
            port.AwaitDrained(limit);
        }
    }

    /// <summary>The guest stood still after <see cref="BeforeStop"/>, or was not stopped after all.</summary>
    public void AfterStop()
    {
        foreach (NetworkPort port in _ports)
        {
            port.AfterStop();
        }
    }

    /// <summary>The guest has ended for good, on all hosts: lets everything leave that waits.</summary>
    /// <param name="limit">How long it may take.</param>
    public async Task LeaveAsync(TimeSpan limit)
    {
        Gate.Unprotect();
        Wake();
        long start = Stopwatch.GetTimestamp();
        while (Gate.Held > 0 && Stopwatch.GetElapsedTime(start) < limit)
        {
            await Task.Delay(1);
        }
    }

    /// <summary>The guest is about to run here: its addresses are announced, its output may leave, its input waits.</summary>
    /// <param name="sent">What the guest had sent at the primary and may not have left there: it leaves first.</param>
    public void Open(ReplayedFrames? sent = null)
    {
        foreach (NetworkPort port in _ports)
        {
            port.Open(sent);
        }
    }

    /// <summary>The guest runs here: it gets what was meant for it, then what comes.</summary>
    public void Pass(ReplayedFrames? replay)
    {
        foreach (NetworkPort port in _ports)
        {
            port.Pass(replay);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (NetworkPort port in _ports)
        {
            port.Dispose();
        }
    }
}
