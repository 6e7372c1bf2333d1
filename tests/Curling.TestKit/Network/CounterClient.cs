using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;

namespace Curling.TestKit.Network;

/// <summary>
/// The lie detector: asks a counter in the guest's memory again and again, with datagrams, so that no connection hides what the
/// guest says. A value that is not above all earlier ones contradicts what was said before.
/// </summary>
/// <remarks>Owns its socket.</remarks>
public sealed class CounterClient : IDisposable
{
    private readonly Socket _socket;
    private readonly EndPoint _service;
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _work;
    private long _answers;
    private string? _lie;

    /// <summary>Begins to ask.</summary>
    public CounterClient(Socket socket, string address)
    {
        _socket = socket;
        _service = new IPEndPoint(IPAddress.Parse(address), 1000);
        _work = Task.Run(RunAsync);
    }

    /// <summary>Answers so far.</summary>
    public long Answers => Volatile.Read(ref _answers);

    /// <summary>The first contradiction, or null.</summary>
    public string? Lie => Volatile.Read(ref _lie);

    /// <summary>Waits until so many more answers came.</summary>
    public Task UntilAnsweredAsync(long more) => Network.Answers.UntilAsync(() => Answers, more, "counter");

    /// <summary>Stops asking.</summary>
    public async Task StopAsync()
    {
        await _stop.CancelAsync();
        await _work;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _stop.Cancel();
        _socket.Dispose();
    }

    private async Task RunAsync()
    {
        byte[] got = new byte[256];
        long highest = 0;
        long highestAsked = -1;
        Dictionary<long, long> said = [];
        try
        {
            for (long question = 0; !_stop.IsCancellationRequested; question++)
            {
                string text = string.Create(CultureInfo.InvariantCulture, $"q{question}");
                await _socket.SendToAsync(Encoding.ASCII.GetBytes(text), _service, _stop.Token);
                using CancellationTokenSource patience = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
                patience.CancelAfter(TimeSpan.FromMilliseconds(200));
                try
                {
                    while (true)
                    {
                        int length = (await _socket.ReceiveFromAsync(got, _service, patience.Token)).ReceivedBytes;
                        string[] answer = Encoding.ASCII.GetString(got, 0, length).Split(' ');
                        long value = long.Parse(answer[0], CultureInfo.InvariantCulture);

                        // A datagram may come twice, the same words again are no contradiction. The same value for another question
                        // is one, and a lower value for a question that was asked later.
                        long asked = long.Parse(answer[1].AsSpan(1), CultureInfo.InvariantCulture);
                        if ((said.TryGetValue(value, out long before) && before != asked) || (value < highest && asked > highestAsked))
                        {
                            Interlocked.CompareExchange(ref _lie, $"question {asked} was answered with {value} after {highest} had been said", null);
                        }

                        said[value] = asked;
                        if (value > highest)
                        {
                            (highest, highestAsked) = (value, asked);
                        }

                        if (answer[1] == text)
                        {
                            Volatile.Write(ref _answers, _answers + 1);
                            break;
                        }
                    }
                }
                catch (OperationCanceledException) when (!_stop.IsCancellationRequested)
                {
                    // A datagram may be lost; the next question follows.
                }
            }
        }
        catch (OperationCanceledException)
        {
            // Stopped.
        }
    }
}
