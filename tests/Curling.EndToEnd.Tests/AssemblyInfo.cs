// Guests share two cores: one test after the other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
