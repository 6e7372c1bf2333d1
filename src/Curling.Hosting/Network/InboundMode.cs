namespace Curling.Hosting.Network;

/// <summary>What becomes of frames that come from the host.</summary>
internal enum InboundMode
{
    /// <summary>They are read and dropped: the guest does not run here.</summary>
    Drop = 1,

    /// <summary>They wait in the device: the guest is about to run here.</summary>
    Wait = 2,

    /// <summary>They are passed on at once.</summary>
    Pass = 3,
}
