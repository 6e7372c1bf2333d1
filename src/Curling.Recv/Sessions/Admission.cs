using System.Buffers;
using System.Collections.Concurrent;
using Curling.Hosting.Arbiter;
using Curling.Hosting.Faults;
using Curling.Hosting.Instances;
using Curling.Hosting.Options;
using Curling.Hosting.Transport;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Curling.Recv.Disks;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>Shakes hands with a sender: checks who it is and what it wants, takes its boot files in, finds or makes its session.</summary>
/// <remarks>Thread-safe.</remarks>
internal sealed partial class Admission(
    ReceiverOptions options,
    string binary,
    QemuFacts facts,
    BootFileStore files,
    ConcurrentDictionary<string, GuestSession> sessions,
    StandbyStarter startStandby,
    Generations generations,
    IArbiter? arbiter,
    TimeProvider time,
    ILogger log)
{
    /// <summary>Connections that may be open and have not said who they are.</summary>
    public const int MaxHandshakes = 64;

    private const int MaxVcpus = 255;
    private int _warned;
    private static readonly TimeSpan HelloLimit = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan FilesLimit = TimeSpan.FromMinutes(10);
    private static readonly TimeSpan EndLimit = TimeSpan.FromMinutes(2);

    /// <summary>Admits a connection, or refuses and closes it.</summary>
    /// <param name="connection">The connection; owned here from now on.</param>
    /// <param name="peer">Its other end, for logs.</param>
    /// <param name="oneAtATime">Sessions are found and made by one at a time.</param>
    /// <param name="greeted">Called when the peer has said who it is; false when there are too many like it.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    public async Task AdmitAsync(
        FrameConnection connection, string peer, SemaphoreSlim oneAtATime, Func<bool> greeted, CancellationToken cancellation)
    {
        try
        {
            Hello hello = await ReceiveHelloAsync(connection, cancellation);
            await FaultPoint.HitAsync(FaultPoint.RecvHello);
            if (!greeted())
            {
                throw new RefusedException(RefusalCode.Limit, $"{MaxHandshakes} senders are shaking hands at this moment; try again");
            }

            GuestDefinition guest = Check(hello);
            int[] missing = [.. Enumerable.Range(0, hello.Files.Count).Where(i => !files.Has(hello.Files[i]))];
            long committed = sessions.TryGetValue(guest.Name, out GuestSession? known) && known.Sender == hello.Sender ? known.CommittedRound : 0;
            Welcome welcome = new(missing, [.. hello.Capabilities.Intersect(
                [
                    Handshake.Full, Handshake.Incremental, Handshake.Delta, Handshake.Lz4, Handshake.Zstd, Handshake.Inbound,
                    .. arbiter is null ? Array.Empty<string>() : [Handshake.Arbiter],
                ])], committed);
            await connection.SendAsync(FrameType.Welcome, Handshake.Write(welcome), cancellation);
            LinkWriter writer = new(connection, options.FailureTimeout / 4, time);
            Link link = new(connection, writer, hello, peer);
            bool attached = false;
            try
            {
                await ReceiveFilesAsync(connection, hello, missing, cancellation);
                await oneAtATime.WaitAsync(cancellation);
                try
                {
                    GuestSession session = await FindOrMakeAsync(guest, hello);
                    session.Attach(link);
                    attached = true;
                }
                finally
                {
                    oneAtATime.Release();
                }
            }
            catch (Exception e) when (Explain(e) is { } refusal)
            {
                // The writer owns the way back from here on.
                ReceiverDaemon.Log.HandshakeRefused(log, peer, refusal.Reason);
                writer.Post(FrameType.Refusal, (ushort)refusal.Code, refusal.Reason);
                await link.CloseAsync();
            }
            finally
            {
                if (!attached)
                {
                    await link.DisposeAsync();
                }
            }
        }
        catch (Exception e) when (Explain(e) is { } refusal)
        {
            ReceiverDaemon.Log.HandshakeRefused(log, peer, refusal.Reason);
            await RefuseAsync(connection, refusal, cancellation);
        }
    }

    /// <summary>Ends a session that was taken out. Others wait to be admitted meanwhile: a device that hangs must not keep them out for ever.</summary>
    private static async Task EndAsync(GuestSession known)
    {
        try
        {
            await known.DisposeAsync().AsTask().WaitAsync(EndLimit);
        }
        catch (TimeoutException)
        {
            throw new OperatorException(
                $"what was here of guest {known.Guest.Name} does not end within {EndLimit.TotalSeconds:F0} s: its QEMU or a device of its disks hangs"
                + " (look into dmesg there); start the receiver anew when it is mended");
        }
    }

    private static RefusedException? Explain(Exception e) => e switch
    {
        RefusedException refused => refused,
        ProtocolException protocol => new RefusedException(RefusalCode.Protocol, protocol.Message),
        GuestDefinitionException definition => new RefusedException(RefusalCode.Definition, definition.Message),
        QemuException qemu => new RefusedException(RefusalCode.Host, qemu.Message),
        MemoryFileException memory => new RefusedException(RefusalCode.Limit, memory.Message),
        OperatorException host => new RefusedException(RefusalCode.Host, host.Message),
        IOException io => new RefusedException(RefusalCode.Host, io.Message),
        _ => null,
    };

    private static async Task RefuseAsync(FrameConnection connection, RefusedException refusal, CancellationToken cancellation)
    {
        byte[] payload = new byte[ProtocolLimits.MaxControlPayload];
        int length = new CodedText((ushort)refusal.Code, refusal.Reason).Write(payload);
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(TimeSpan.FromSeconds(2));
        try
        {
            await connection.SendAsync(FrameType.Refusal, payload.AsMemory(0, length), limit.Token);

            // Closing with unread bytes resets the connection, and the peer would lose the reason: read them away first.
            byte[] rest = new byte[ProtocolLimits.MaxHandshakePayload];
            while (await connection.ReceiveHeaderAsync(limit.Token) is { } header)
            {
                await connection.ReceivePayloadAsync(header, rest, limit.Token);
            }
        }
        catch (Exception e) when (e is IOException or OperationCanceledException or ProtocolException or ArgumentOutOfRangeException)
        {
            // The peer does not listen; it was told nothing it would have read.
        }
        finally
        {
            await connection.DisposeAsync();
        }
    }

    private static async Task<Hello> ReceiveHelloAsync(FrameConnection connection, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(HelloLimit);
        byte[] buffer = ArrayPool<byte>.Shared.Rent(ProtocolLimits.MaxHandshakePayload);
        try
        {
            FrameHeader header = await connection.ReceiveHeaderAsync(limit.Token)
                ?? throw new ProtocolException(ProtocolError.Truncated, "the connection ended before a greeting");
            if (header.Type != FrameType.Hello)
            {
                throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a connection begins with Hello, not with {header.Type}");
            }

            await connection.ReceivePayloadAsync(header, buffer, limit.Token);
            return Handshake.ReadHello(buffer.AsSpan(0, header.PayloadLength));
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new ProtocolException(ProtocolError.Truncated, $"no greeting came within {HelloLimit.TotalSeconds:F0} s");
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    private GuestDefinition Check(Hello hello)
    {
        byte[] json = System.Text.Encoding.UTF8.GetBytes(hello.Guest.GetRawText());
        GuestDefinition guest = GuestDefinitionReader.Parse(json, "the guest definition", baseDirectory: null);
        new GuestLimits(options.MaxGuestMemoryBytes, MaxVcpus).Check(guest, $"guest {guest.Name}");
        if (guest.MemoryBytes > HostMemory.TotalBytes())
        {
            throw new RefusedException(
                RefusalCode.Limit,
                $"guest {guest.Name} has {ByteSize.Format(guest.MemoryBytes)} of memory, more than the receiver's host"
                + $" ({ByteSize.Format(HostMemory.TotalBytes())})");
        }

        if (hello.Capabilities.Contains(Handshake.Arbiter) != arbiter is not null)
        {
            throw new RefusedException(
                RefusalCode.Host,
                arbiter is null
                    ? $"the sender of guest {guest.Name} has an arbiter, and this receiver has none; start curling-recv with the same --arbiter"
                    : $"this receiver has an arbiter ({arbiter.Name}), and the sender of guest {guest.Name} has none; start curling-send with the same"
                        + " --arbiter");
        }

        string machine = facts.ResolveMachine(hello.MachineType);
        if (machine != hello.MachineType)
        {
            throw new RefusedException(RefusalCode.Host, $"{hello.MachineType} is not a versioned machine type");
        }

        if (hello.Accelerator == "kvm" && !QemuBinary.KvmUsable())
        {
            throw new RefusedException(
                RefusalCode.Host,
                "the guest runs on kvm and the receiver's host has none; load the kvm module there, or set the guest's"
                + " \"accelerator\" to \"tcg\"");
        }

        foreach ((string role, string? path) in (ReadOnlySpan<(string, string?)>)[
            ("kernel", guest.Kernel), ("initrd", guest.Initrd), ("firmware", guest.Firmware)])
        {
            if ((path is not null) != hello.Files.Any(f => f.Role == role))
            {
                throw new RefusedException(RefusalCode.Definition, $"the {role} of the definition and of the file list do not match");
            }
        }

        if (hello.Disks.Count != guest.Disks.Count)
        {
            throw new RefusedException(RefusalCode.Definition, "the disks of the definition and of the greeting do not match");
        }

        return guest;
    }

    private async Task ReceiveFilesAsync(FrameConnection connection, Hello hello, int[] missing, CancellationToken cancellation)
    {
        using CancellationTokenSource limit = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        limit.CancelAfter(FilesLimit);
        byte[] buffer = new byte[ProtocolLimits.MaxDataPayload];
        try
        {
            foreach (int index in missing.Where(i => hello.Files[i].Length > 0))
            {
                using BootFileStore.Incoming incoming = files.Receive(hello.Files[index]);
                while (!incoming.IsWhole)
                {
                    FrameHeader header = await connection.ReceiveHeaderAsync(limit.Token)
                        ?? throw new ProtocolException(ProtocolError.Truncated, "the connection ended among the boot files");
                    await connection.ReceivePayloadAsync(header, buffer, limit.Token);
                    if (header.Type == FrameType.Heartbeat)
                    {
                        continue;
                    }

                    if (header.Type != FrameType.FileData)
                    {
                        throw new ProtocolException(ProtocolError.UnexpectedFrame, $"a {header.Type} frame came among the boot files");
                    }

                    FilePiece piece = FilePiece.Read(buffer.AsSpan(0, header.PayloadLength));
                    if (piece.File != index)
                    {
                        throw new ProtocolException(ProtocolError.Order, $"a piece of file {piece.File} came, file {index} was expected");
                    }

                    incoming.Add(piece.Offset, buffer.AsSpan(FilePiece.Bytes, header.PayloadLength - FilePiece.Bytes));
                }

                incoming.Finish();
            }
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new ProtocolException(ProtocolError.Truncated, $"the boot files did not come within {FilesLimit.TotalMinutes:F0} min");
        }
    }

    private async Task<GuestSession> FindOrMakeAsync(GuestDefinition guest, Hello hello)
    {
        sessions.TryGetValue(guest.Name, out GuestSession? known);
        if (known?.IsOwnSender(hello.Sender) == true)
        {
            throw new RefusedException(
                RefusalCode.Limit, $"guest {guest.Name} runs here: its standby belongs on another host; type: curling-recv protect {guest.Name} --target …");
        }

        long newest = Math.Max(known is { IsDiscarded: false } ? known.Generation : 0, generations.Of(guest.Name));
        if (hello.Generation < newest && known is not { State: ReceiverState.Promoted or ReceiverState.Promoting } and not { IsHandedOver: true })
        {
            throw new RefusedException(
                RefusalCode.Superseded,
                $"guest {guest.Name} has been promoted since, to generation {newest}; this copy is of generation {hello.Generation} and must not run. If"
                + $" none runs any more and it is to begin anew, type there: curling-recv discard {guest.Name}");
        }

        if (known is not null && hello.Generation > known.Generation)
        {
            // What is here is of an earlier life of the guest: it runs elsewhere now, and only there.
            if (known.State is ReceiverState.Promoted or ReceiverState.Promoting)
            {
                Log.Superseded(log, guest.Name, known.Generation, hello.Generation);
            }

            sessions.TryRemove(guest.Name, out _);
            await EndAsync(known);
            known = null;
        }

        if (known is not null)
        {
            if (known.State is ReceiverState.Promoted or ReceiverState.Promoting && !known.IsFencing && !known.IsHandedOver)
            {
                throw new RefusedException(
                    RefusalCode.Superseded,
                    $"guest {guest.Name} was promoted here and runs as generation {known.Generation}; this copy must not run");
            }

            if (known.State is not (ReceiverState.Ended or ReceiverState.Failed))
            {
                if (known.Sender == hello.Sender && known.Guest == guest && known.Blocks.SequenceEqual(hello.Blocks))
                {
                    return known;
                }

                if (known.CommittedRound > 0 || known.IsConnected)
                {
                    throw new RefusedException(
                        RefusalCode.Taken,
                        $"a guest named {guest.Name} of another sender is {GuestSession.Name(known.State)} here at round"
                        + $" {known.CommittedRound}; give this one another name, or type there: curling-recv promote {guest.Name}"
                        + $" (or discard {guest.Name})");
                }
            }

            sessions.TryRemove(guest.Name, out _);
            await EndAsync(known);
        }

        int active = sessions.Values.Count(s => s.State is not (ReceiverState.Ended or ReceiverState.Failed));
        if (active >= options.MaxGuests)
        {
            throw new RefusedException(
                RefusalCode.Limit, $"the receiver has {active} guests already; start it with a larger --max-guests to take more");
        }

        GuestSession made = await MakeAsync(guest, hello);
        if (hello.Generation > 1)
        {
            generations.Note(guest.Name, hello.Generation);
        }

        sessions[guest.Name] = made;
        if (options is { OnFailure: FailureAction.Promote, OnSilence: FailureAction.Promote, FenceCommand: null } && arbiter is null
            && Interlocked.Exchange(ref _warned, 1) == 0)
        {
            Log.SilencePromotes(log);
        }

        return made;
    }

    private async Task<GuestSession> MakeAsync(GuestDefinition guest, Hello hello)
    {
        InstanceDirectory directory = InstanceDirectory.Create("recv");
        SharedMapping? memory = null;
        StandbyDisks? disks = null;
        try
        {
            memory = SharedMapping.Create(Path.Combine(directory.MemoryPath, "ram"), guest.MemoryBytes);
            foreach (HelloFile file in hello.Files)
            {
                HardLink.Create(files.PathOf(file), BootFile(directory, file.Role));
            }

            QemuLaunch launch = Launch(guest, hello, directory, memory);
            disks = StandbyDisks.Open(options, guest, hello, directory.RuntimePath, log);
            return new GuestSession(options, guest, hello, launch, directory, memory, disks, startStandby, generations, arbiter, time, log);
        }
        catch
        {
            if (disks is not null)
            {
                await disks.DisposeAsync();
            }

            memory?.Dispose();
            directory.Dispose();
            throw;
        }
    }

    private static string BootFile(InstanceDirectory directory, string role) => Path.Combine(directory.MemoryPath, "boot-" + role);

    private QemuLaunch Launch(GuestDefinition guest, Hello hello, InstanceDirectory directory, SharedMapping memory)
    {
        string? File(string role) => hello.Files.Any(f => f.Role == role) ? BootFile(directory, role) : null;
        return new QemuLaunch
        {
            Binary = binary,
            Definition = guest,
            MachineType = hello.MachineType,
            Accelerator = hello.Accelerator,
            Directory = directory.RuntimePath,
            MemoryPath = memory.Path,
            KernelPath = File("kernel"),
            InitrdPath = File("initrd"),
            FirmwarePath = File("firmware"),
            Incoming = true,
            DisplayListen = options.Vnc ?? "127.0.0.1:0",
        };
    }

    private sealed class RefusedException(RefusalCode code, string reason) : Exception(reason)
    {
        public RefusalCode Code { get; } = code;

        public string Reason { get; } = reason;
    }
}
