// What is allocated is counted for the whole process, and the tools of several tests would share two processors.
[assembly: CollectionBehavior(DisableTestParallelization = true)]
