using Curling.Protocol;
using Curling.Send.Links;

namespace Curling.Send.Capture;

/// <summary>Captures rounds of a guest, one at a time.</summary>
internal interface IRoundCapture : IAsyncDisposable
{
    /// <summary>The blocks of memory whose pages travel; empty for full rounds.</summary>
    IReadOnlyList<HelloBlock> Blocks { get; }

    /// <summary>Bytes that a round which stands alone is expected to have.</summary>
    long ExpectedBaseBytes { get; }

    /// <summary>Captures a round into a line to the link, up to its end marker. Afterwards the guest runs, unless the round is final.</summary>
    /// <param name="begin">The round.</param>
    /// <param name="final">Whether the guest stays stopped.</param>
    /// <param name="rounds">The line.</param>
    /// <param name="cancellation">Ends the capture; the guest runs on.</param>
    /// <exception cref="Curling.Qemu.QemuException">QEMU did not do its part.</exception>
    /// <exception cref="OperationCanceledException">The link was lost.</exception>
    /// <exception cref="IOException">Reading failed.</exception>
    Task<CaptureResult> CaptureAsync(RoundBegin begin, bool final, RoundWriter rounds, CancellationToken cancellation);

    /// <summary>Lets a guest run that a final round left stopped.</summary>
    Task ResumeAsync(CancellationToken cancellation);
}

/// <summary>What a capture cost.</summary>
/// <param name="PauseMicroseconds">From QEMU's stop to its resume.</param>
/// <param name="WaitedForLink">Whether the guest stood still because the link was slow.</param>
internal readonly record struct CaptureResult(long PauseMicroseconds, bool WaitedForLink);
