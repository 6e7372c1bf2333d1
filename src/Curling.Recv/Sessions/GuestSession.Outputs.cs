using Curling.Hosting.Faults;
using Curling.Hosting.Options;
using Curling.Linux.Memory;
using Curling.Protocol;
using Curling.Qemu;
using Curling.Recv.Rounds;
using Curling.Recv.Standby;
using Curling.Replication.Receiver;
using Microsoft.Extensions.Logging;

namespace Curling.Recv.Sessions;

/// <summary>Carries out what the machine decided.</summary>
internal sealed partial class GuestSession
{
    private void Carry(ReceiverOutput output)
    {
        switch (output)
        {
            case ReceiverOutput.SendReady:
                _waitsForRightSince = null;
                _toldRefusal = null;
                if (!_disks.IsEmpty)
                {
                    _link?.Writer.Post(FrameType.Replicas, Handshake.Write(new ReplicasMessage(_disks.Identities, MaxRoundBytes)));
                }

                _link?.Writer.Post(FrameType.Ready);
                break;
            case ReceiverOutput.Discard discard:
                Log.Discarded(_log, Guest.Name, discard.Round, discard.Reason);
                break;
            case ReceiverOutput.SendComplete complete:
                _link?.Writer.Post(FrameType.Complete, complete.Round);
                break;
            case ReceiverOutput.SendCommitted committed:
                FaultPoint.Hit(FaultPoint.RecvCommittedSaid);
                _link?.Writer.Post(FrameType.Committed, committed.Round);
                break;
            case ReceiverOutput.SendPromoted promoted:
                FaultPoint.Hit(FaultPoint.PromoteAnnounced);
                _link?.Writer.Post(FrameType.Promoted, promoted.Round);
                break;
            case ReceiverOutput.SendVouch vouch:
                _link?.Writer.Post(FrameType.Vouch, new VouchMessage(vouch.Sequence, (long)vouch.Time.TotalMilliseconds));
                break;
            case ReceiverOutput.TakeRight take:
                Watch(TakeRightAsync(take));
                break;
            case ReceiverOutput.PromotionRefused refused:
                NotPromoted(refused.Reason, IsConnected ? null : "--without-arbiter");
                break;
            case ReceiverOutput.Commit commit:
                StartCommit(commit.Round);
                break;
            case ReceiverOutput.Refuse refuse:
                Log.Refused(_log, Guest.Name, refuse.Reason);
                _link?.Writer.Post(FrameType.Refusal, (ushort)refuse.Code, refuse.Reason);
                CloseLink();
                break;
            case ReceiverOutput.CloseLink:
                CloseLink();
                break;
            case ReceiverOutput.Promote promote:
                Log.Promoting(_log, Guest.Name, promote.Round, promote.Reason);
                Watch(PromoteAsync(promote, _time.GetTimestamp()));
                break;
            case ReceiverOutput.Held held:
                Log.Held(_log, Guest.Name, held.Reason, held.Round);
                break;
            case ReceiverOutput.LeftBehind behind:
                TellLeftBehind(behind);
                break;
            case ReceiverOutput.StateChanged changed:
                Tell(changed);
                break;
            case ReceiverOutput.Release:
                if (HasFailedUnspoilt)
                {
                    _keep = true;
                    Log.RoundKept(_log, Guest.Name, _machine.CommittedRound);
                }
                else
                {
                    Forget();
                }

                Watch(FreeAsync());
                break;
        }
    }

    private void Tell(ReceiverOutput.StateChanged changed)
    {
        _reason = changed.Reason;
        switch (changed.State)
        {
            case ReceiverState.Protected:
                Log.Protected(_log, Guest.Name, _machine.CommittedRound);
                break;
            case ReceiverState.Failed:
                Log.Failed(_log, Guest.Name, changed.Reason);
                break;
            case ReceiverState.Ended:
                Log.Ended(_log, Guest.Name, changed.Reason);
                break;
            case ReceiverState.Promoting:
            case ReceiverState.Promoted:
                break;
            default:
                Log.State(_log, Guest.Name, Name(changed.State), changed.Reason);
                break;
        }
    }

    private void CloseLink()
    {
        if (_link is { } link)
        {
            _link = null;
            Watch(link.CloseAsync());
        }
    }

    private void StartCommit(long round)
    {
        (RoundContent content, RoundEnd end) = _whole.Take(round);
        _commit = Task.Run(() => Commit(content, end));
        Watch(_commit);
    }

    private void Commit(RoundContent content, RoundEnd end)
    {
        try
        {
            FaultPoint.Hit(FaultPoint.RecvBeforeRecord);
            JournalRecord record = new()
            {
                Round = end.Round,
                Kind = content.Begin.Kind,
                At = _time.GetUtcNow(),
                Bytes = end.Counts.TotalBytes,
                PauseMicroseconds = end.PauseMicroseconds,
                IsIncomplete = end.DisksIncomplete,
            };
            if (content.Begin.Kind == RoundKind.Full)
            {
                StreamFile stream = content.TakeStream();
                record = record with { StateFile = stream.Name, StateLength = stream.Length };
                if (content.Chunks.Count > 0)
                {
                    // The disks' part, as below.
                    _journal.Write(record with { ToApply = content.Places() });
                }

                CommitDisks(content.Chunks, end);
                _journal.Write(record);
                _committed.UseStream(stream);
            }
            else
            {
                record = _committed.WriteDeviceState(content.Chunks, record);
                if (!content.GoesStraightIn)
                {
                    // From here on the round stands: whoever comes after this process puts it into memory again.
                    _journal.Write(record with { ToApply = content.Places() });
                }

                RoundApplier.ApplyMemory(content.Chunks, _blocks);
                CommitDisks(content.Chunks, end);
                FaultPoint.Hit(FaultPoint.RecvBeforeSecondRecord);
                _journal.Write(record);
                _committed.UseDeviceState(record);
                if (content.Begin.Kind == RoundKind.Base)
                {
                    foreach (MappedBlock block in _blocks.OfType<MappedBlock>())
                    {
                        block.MemoryExists();
                    }
                }
            }

            _committed.Note(record);
            Log.Committed(_log, Guest.Name, end.Round, content.Begin.Kind, end.Counts.TotalBytes, end.PauseMicroseconds);
            _inbound.Committed(end.Round);
            _chunkLists.Add(content.Release());
            Post(null, new ReceiverInput.CommitDone(end.Round));
        }
        catch (Exception e) when (e is IOException or ProtocolException or UnauthorizedAccessException)
        {
            // The journal may name its chunks: nobody else may write to them while a later receiver could be told to apply them.
            _unfinished = content;
            Post(null, new ReceiverInput.CommitFailed(end.Round, e.Message));
        }
        catch (Exception e)
        {
            // A commit that never ends would hold the primary's output for ever.
            Log.Unexpected(_log, Guest.Name, $"round {end.Round} was committed", e);
            _unfinished = content;
            Post(null, new ReceiverInput.CommitFailed(end.Round, e.Message));
        }
    }

    private void CommitDisks(IReadOnlyList<Chunk> chunks, RoundEnd end) => _disks.Commit(
        end.Round,
        !end.DisksIncomplete,
        (int i, out ReadOnlySpan<byte> payload) =>
        {
            payload = i < chunks.Count ? chunks[i].Span[..chunks[i].Length] : default;
            return i < chunks.Count;
        });

    private async Task StartStandbyAsync()
    {
        try
        {
            IStandby standby = await _startStandby(_launch, _memory, Blocks, _log, _cancellation.Token);
            _blocks = Shadowed(standby.Blocks);
            _standby = standby;
            Log.StandbyReady(_log, Guest.Name, standby.Pid);
            Post(null, new ReceiverInput.StandbyReady());
            _ = standby.Ended.ContinueWith(
                ended =>
                {
                    Post(null, new ReceiverInput.StandbyFailed(ended.Result.Text));
                    if (Volatile.Read(ref _protection) is null)
                    {
                        Post(null, new ReceiverInput.GuestEnded(ended.Result.Text));
                    }
                },
                TaskScheduler.Default);
        }
        catch (Exception e) when (e is QemuException or IOException or OperationCanceledException)
        {
            Post(null, new ReceiverInput.StandbyFailed(e.Message));
        }
    }

    /// <summary>Gives every block that only QEMU maps a copy that outlives it, and fills it from there when there was one.</summary>
    private IStandbyBlock[] Shadowed(IReadOnlyList<IStandbyBlock> blocks)
    {
        IStandbyBlock[] shadowed = [.. blocks];
        for (int i = 0; i < shadowed.Length; i++)
        {
            if (shadowed[i] is RemoteBlock remote)
            {
                string path = ShadowedBlock.PathOf(_directory.MemoryPath, i);
                bool isThere = File.Exists(path);
                SharedMapping shadow = isThere
                    ? SharedMapping.Open(path, writable: true)
                    : SharedMapping.CreateSparse(path, remote.Pages * ProtocolLimits.PageBytes);
                _shadows.Add(shadow);
                ShadowedBlock block = new(remote, shadow);
                shadowed[i] = block;
                if (isThere)
                {
                    block.Refill();
                }
            }
        }

        return shadowed;
    }

    private async Task PromoteAsync(ReceiverOutput.Promote promote, long since)
    {
        try
        {
            await FaultPoint.HitAsync(FaultPoint.PromoteAsked);
            if (promote.Fence)
            {
                if (await Fence.RunAsync(_options, Guest.Name, _lastPeer, promote, _log, _cancellation.Token) is { } problem)
                {
                    Post(null, new ReceiverInput.FenceFailed(problem));
                    NotPromoted(problem, "--without-fence");
                    return;
                }

                Post(null, new ReceiverInput.Fenced());
            }

            await FaultPoint.HitAsync(FaultPoint.PromoteFenced);
            IStandby standby = _standby ?? throw new QemuException("the standby is not running");
            await standby.LoadAsync(_committed.Read, _cancellation.Token);
            _disks.Promote(promote.Round);

            // From here on the guest counts as running here, and its sender's copy as out of date.
            _mayHaveRun = true;
            if (_right is not { Generation: > 0 })
            {
                Generation++;
            }

            NoteGeneration();
            Forget();
            _network.Open(_inbound.TakeSent());
            await standby.RunAsync(_cancellation.Token);
            _disks.MakeSafe();
            await FaultPoint.HitAsync(FaultPoint.PromoteRunning);
            GuardGuest(standby);
            _network.Pass(_inbound.Take());
            _committed.Dispose();
            double milliseconds = _time.GetElapsedTime(since).TotalMilliseconds;
            Log.Promoted(_log, Guest.Name, _machine.CommittedRound, milliseconds, Generation);
            Log.Reachable(_log, Guest.Name, Guest.Serial ? _directory.Socket("serial") : "none", standby.Display ?? "none");
            Post(null, new ReceiverInput.PromotionDone());
            if (_options.ThenTarget is { } target)
            {
                Watch(ProtectNextAsync(target));
            }
        }
        catch (Exception e)
        {
            if (e is not (QemuException or IOException or OperationCanceledException or InvalidOperationException
                or System.Net.Sockets.SocketException))
            {
                Log.Unexpected(_log, Guest.Name, "the standby was promoted", e);
            }

            _failedUnspoilt = !_mayHaveRun;
            if (_failedUnspoilt && _machine.HasRight)
            {
                await GiveBackUnusedAsync();
            }

            Post(null, new ReceiverInput.PromotionFailed(e.Message));
        }
    }

    private void NotPromoted(string problem, string? otherwise)
    {
        _promotionProblem = otherwise is null
            ? problem
            : $"{problem}; mend it, or make sure yourself that the primary does not run and type: curling-recv promote {otherwise} {Guest.Name}";
        Interlocked.Increment(ref _failedPromotions);
    }

    private async Task FreeAsync()
    {
        // A sender in here uses the guest's QEMU and network to its end; a commit what it writes to, unless it hangs.
        await StopProtectionAsync();
        await Task.WhenAny(_commit, Task.Delay(CommitLimit, CancellationToken.None));
        _whole.Clear();
        if (Interlocked.Exchange(ref _standby, null) is { } standby)
        {
            await standby.DisposeAsync();
        }

        if (_mayHaveRun)
        {
            await (_right?.ReleaseAsync(ReleaseLimit) ?? Task.CompletedTask);
        }
        else
        {
            await GiveBackUnusedAsync();
        }

        if (Interlocked.Exchange(ref _networkDisposed, 1) == 0)
        {
            _network.Dispose();
            await _disks.DisposeAsync();
        }

        if (_keep)
        {
            _committed.Leave();
        }
        else
        {
            _committed.Dispose();
        }
    }

    private void NoteGeneration()
    {
        try
        {
            _generations.Note(Guest.Name, Generation);
        }
        catch (OperatorException e)
        {
            // Worse than not to remember would be not to run the guest.
            Log.GenerationNotKept(_log, Guest.Name, Generation, e.Message);
        }
    }

    /// <summary>A guest that runs here, or never will again, must not be found in its committed round by a later receiver.</summary>
    private void Forget()
    {
        try
        {
            SessionFile.Delete(_directory.MemoryPath);
        }
        catch (IOException e)
        {
            Log.NotForgotten(_log, Guest.Name, _directory.MemoryPath, e.Message);
        }
    }

    private static partial class Log
    {
        [LoggerMessage(EventName = "Unexpected", Level = LogLevel.Error,
            Message = "{Guest}: something unexpected happened while {Doing}; it is taken for a failure of that. Please report it")]
        public static partial void Unexpected(ILogger log, string guest, string doing, Exception exception);

        [LoggerMessage(EventName = "RoundKept", Level = LogLevel.Warning,
            Message = "{Guest}: round {Round} is kept. Mend what failed and start this receiver again with the same --listen: then the sender goes on"
                + " from it, or curling-recv promote {Guest} starts it; to give it up: curling-recv discard {Guest}")]
        public static partial void RoundKept(ILogger log, string guest, long round);

        [LoggerMessage(EventName = "NotForgotten", Level = LogLevel.Warning,
            Message = "{Guest}: the record of the session in {Directory} cannot be deleted ({Reason}); delete it before another receiver is"
                + " started here, or that one offers a round that is out of date")]
        public static partial void NotForgotten(ILogger log, string guest, string directory, string reason);

        [LoggerMessage(EventName = "GenerationNotKept", Level = LogLevel.Warning,
            Message = "{Guest}: that it runs here as generation {Generation} could not be noted: {Reason}. A receiver that is started again would not"
                + " know that older copies must stop")]
        public static partial void GenerationNotKept(ILogger log, string guest, long generation, string reason);

        [LoggerMessage(EventName = "SenderConnected", Level = LogLevel.Information,
            Message = "{Guest}: the sender at {Peer} is connected")]
        public static partial void Connected(ILogger log, string guest, string peer);

        [LoggerMessage(EventName = "StandbyReady", Level = LogLevel.Information,
            Message = "{Guest}: the standby waits (QEMU, process {Pid})")]
        public static partial void StandbyReady(ILogger log, string guest, int pid);

        [LoggerMessage(EventName = "SessionState", Level = LogLevel.Information, Message = "{Guest}: {State}: {Reason}")]
        public static partial void State(ILogger log, string guest, string state, string reason);

        [LoggerMessage(EventName = "Protected", Level = LogLevel.Information,
            Message = "{Guest}: PROTECTED: round {Round} is committed, the standby can take over")]
        public static partial void Protected(ILogger log, string guest, long round);

        [LoggerMessage(EventName = "RoundCommitted", Level = LogLevel.Debug,
            Message = "{Guest}: round {Round} ({Kind}) committed: {Bytes} bytes, guest paused {PauseMicroseconds} µs")]
        public static partial void Committed(ILogger log, string guest, long round, RoundKind kind, long bytes, long pauseMicroseconds);

        [LoggerMessage(EventName = "RoundDiscarded", Level = LogLevel.Information,
            Message = "{Guest}: the incomplete round {Round} is discarded whole: {Reason}")]
        public static partial void Discarded(ILogger log, string guest, long round, string reason);

        [LoggerMessage(EventName = "LinkRefused", Level = LogLevel.Warning,
            Message = "{Guest}: the connection is closed: {Reason}. The committed round stays; the sender should come back by itself")]
        public static partial void Refused(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "Promoting", Level = LogLevel.Warning,
            Message = "{Guest}: PROMOTING the standby from round {Round}: {Reason}. Look after the primary host")]
        public static partial void Promoting(ILogger log, string guest, long round, string reason);

        [LoggerMessage(EventName = "Promoted", Level = LogLevel.Warning,
            Message = "{Guest}: PROMOTED: the guest runs here from round {Round}, {Milliseconds:0} ms after the decision, generation"
                + " {Generation}. Until it has a new standby it is not protected: curling-recv protect {Guest} --target tcp:HOST:PORT")]
        public static partial void Promoted(ILogger log, string guest, long round, double milliseconds, long generation);

        [LoggerMessage(EventName = "GuestReachable", Level = LogLevel.Information,
            Message = "{Guest}: serial port at {Serial}, display at {Display}")]
        public static partial void Reachable(ILogger log, string guest, string serial, string display);

        [LoggerMessage(EventName = "Held", Level = LogLevel.Warning,
            Message = "{Guest}: the primary is lost ({Reason}) and the standby waits for the operator: round {Round} stands ready. Make sure that"
                + " the primary does not run, then type: curling-recv promote {Guest}")]
        public static partial void Held(ILogger log, string guest, string reason, long round);

        [LoggerMessage(EventName = "SessionEnded", Level = LogLevel.Information, Message = "{Guest}: ended: {Reason}")]
        public static partial void Ended(ILogger log, string guest, string reason);

        [LoggerMessage(EventName = "SessionFailed", Level = LogLevel.Error,
            Message = "{Guest}: FAILED: {Reason}. The guest is not protected by this receiver any more; mend the cause and restart the sender")]
        public static partial void Failed(ILogger log, string guest, string reason);
    }
}
