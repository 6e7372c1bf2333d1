// Guests share two cores, and broken trackers are planted in statics: one test after the other.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
