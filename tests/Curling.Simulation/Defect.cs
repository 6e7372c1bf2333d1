using Curling.Replication.Receiver;
using Curling.Replication.Sender;

namespace Curling.Simulation;

/// <summary>
/// Sits between the machines and their daemons and changes nothing. A subclass is a fault planted on purpose, which the
/// checkers have to find. One instance serves one history.
/// </summary>
internal class Defect
{
    public virtual bool RaisesTheEpochLate => false;

    public virtual SenderSettings Settings(SenderSettings settings) => settings;

    public virtual SenderInput In(SenderInput input) => input;

    public virtual ReceiverInput In(ReceiverInput input) => input;

    public virtual IReadOnlyList<SenderOutput> Out(SenderInput input, IReadOnlyList<SenderOutput> outputs) => outputs;

    public virtual IReadOnlyList<ReceiverOutput> Out(
        ReceiverMachine machine, ReceiverInput input, IReadOnlyList<ReceiverOutput> outputs) => outputs;
}
