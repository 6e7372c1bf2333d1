using Curling.Hosting.Instances;
using Curling.Hosting.Options;
using Curling.Linux.Memory;
using Curling.Qemu;
using Curling.Qemu.Guests;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>Takes up the sessions that an earlier receiver on the same address left when it died.</summary>
internal sealed partial class Admission
{
    /// <summary>Takes up every session that can be; the others are told about and left, or deleted when they hold nothing.</summary>
    public async Task RestoreSessionsAsync()
    {
        // Of two that are left of one guest the newer one counts.
        foreach (string kept in InstanceDirectory.Kept().OrderByDescending(k => File.GetLastWriteTimeUtc(Path.Combine(k, RoundJournal.Name))))
        {
            try
            {
                SessionFile file = SessionFile.Read(kept);
                if (file.Listen != options.Listen.ToString())
                {
                    Log.OtherAddress(log, kept, file.Listen);
                }
                else if (InstanceDirectory.Adopt(kept, "recv") is { } directory)
                {
                    await RestoreAsync(directory, file);
                }
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or OperatorException)
            {
                Log.NotRestored(log, kept, e.Message);
            }
        }
    }

    private async Task RestoreAsync(InstanceDirectory directory, SessionFile file)
    {
        SharedMapping? memory = null;
        RestoredSession? restored = null;
        StandbyDisks? disks = null;
        try
        {
            GuestDefinition guest = Check(file.Hello);
            if (sessions.ContainsKey(guest.Name))
            {
                throw new IOException($"a newer round of guest {guest.Name} was taken up from another directory");
            }

            memory = SharedMapping.Open(Path.Combine(directory.MemoryPath, "ram"), writable: true);
            if (memory.Length != guest.MemoryBytes)
            {
                throw new IOException($"{memory.Path} has {memory.Length} bytes, the guest {guest.MemoryBytes}");
            }

            disks = StandbyDisks.Open(options, guest, file.Hello, directory.RuntimePath, log, restoring: true);
            restored = RestoredSession.Replay(directory.MemoryPath, file, memory, disks);
            if (restored is null)
            {
                await disks.DisposeAsync();
                memory.Dispose();
                directory.Dispose();
                Log.NothingCommitted(log, guest.Name);
                return;
            }

            sessions[guest.Name] = new GuestSession(
                options, guest, file.Hello, Launch(guest, file.Hello, directory, memory), directory, memory, disks, startStandby, generations, arbiter, time,
                log, restored);
            if (restored.DisksDiffer is { } differ)
            {
                Log.RestoredInPart(log, guest.Name, restored.Last.Round, differ);
            }
            else
            {
                Log.Restored(log, guest.Name, restored.Last.Round, (time.GetUtcNow() - restored.Last.At).TotalSeconds);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or QemuException or GuestDefinitionException
            or OperatorException or RefusedException)
        {
            if (disks is not null)
            {
                await disks.DisposeAsync();
            }

            memory?.Dispose();
            restored?.Journal.Dispose();
            restored?.Committed.Leave();
            directory.Leave();
            Log.NotRestored(log, directory.MemoryPath, e is RefusedException refused ? refused.Reason : e.Message);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "SilencePromotes", Level = LogLevel.Warning,
            Message = "A primary that is silent is taken over, also one that lives behind a broken link: then two hosts run the guest. To rule that"
                + " out, start both with --arbiter, or the receiver with --fence-command or --on-silence hold; see docs/failure-model.md")]
        public static partial void SilencePromotes(ILogger log);

        [LoggerMessage(EventName = "Superseded", Level = LogLevel.Warning,
            Message = "{Guest}: generation {Newer} of it runs elsewhere and asks for a standby here; generation {Generation}, which ran here, is STOPPED")]
        public static partial void Superseded(ILogger log, string guest, long generation, long newer);

        [LoggerMessage(EventName = "SessionRestored", Level = LogLevel.Warning,
            Message = "{Guest}: found at round {Round}, committed {Seconds:0} s ago by the receiver before this one. It waits for its sender; the"
                + " guest may have run on since. If the primary is lost, make sure that it does not run, then type: curling-recv promote"
                + " {Guest} (or discard {Guest})")]
        public static partial void Restored(ILogger log, string guest, long round, double seconds);

        [LoggerMessage(EventName = "SessionRestoredInPart", Level = LogLevel.Warning,
            Message = "{Guest}: found at round {Round}, which it CANNOT be started from: {Reason}. The disks went on without this memory, or were put"
                + " back; it waits for its sender")]
        public static partial void RestoredInPart(ILogger log, string guest, long round, string reason);

        [LoggerMessage(EventName = "SessionNotRestored", Level = LogLevel.Warning,
            Message = "What an earlier receiver left in {Directory} cannot be taken up: {Reason}. If you do not need it, delete it")]
        public static partial void NotRestored(ILogger log, string directory, string reason);

        [LoggerMessage(EventName = "SessionOfOtherAddress", Level = LogLevel.Information,
            Message = "{Directory} holds a guest's last round from a receiver that listened on {Listen}; a receiver started there takes it up. If"
                + " you do not need it, delete it")]
        public static partial void OtherAddress(ILogger log, string directory, string listen);

        [LoggerMessage(EventName = "NothingCommitted", Level = LogLevel.Information,
            Message = "{Guest}: the receiver before this one had committed no round; what it left is deleted")]
        public static partial void NothingCommitted(ILogger log, string guest);
    }
}
