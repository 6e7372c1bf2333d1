// Children are stopped, traced and killed, memory is counted: one test after the other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
