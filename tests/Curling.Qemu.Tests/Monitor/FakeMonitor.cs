using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Curling.Qemu.Tests.Monitor;

/// <summary>A monitor whose every word is in the test's hand. One client; the script runs beside the test.</summary>
internal sealed class FakeMonitor : IAsyncDisposable
{
    public const string Greeting = """{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}""";
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    private readonly TemporaryDirectory _directory = new();
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly CancellationTokenSource _end = new(Limit);

    private FakeMonitor(Func<Talk, Task> script)
    {
        _listener.Bind(new UnixDomainSocketEndPoint(Path));
        _listener.Listen(1);
        Script = Task.Run(async () =>
        {
            using Socket client = await _listener.AcceptAsync(_end.Token);
            await script(new Talk(client, _end.Token));
        });
    }

    public string Path => _directory.File("m.sock");

    /// <summary>Ends when the script does; has its error if it failed.</summary>
    public Task Script { get; }

    /// <summary>A monitor that greets, answers qmp_capabilities and then follows the script.</summary>
    public static FakeMonitor Start(Func<Talk, Task> script) => new(async talk =>
    {
        await talk.SayAsync(Greeting);
        JsonElement first = await talk.HearAsync();
        Assert.Equal("qmp_capabilities", Command(first));
        await talk.AnswerAsync(first, "{}");
        await script(talk);
    });

    /// <summary>A monitor that does nothing but follow the script.</summary>
    public static FakeMonitor StartRaw(Func<Talk, Task> script) => new(script);

    public static string Command(JsonElement message) => message.GetProperty("execute").GetString()!;

    public async ValueTask DisposeAsync()
    {
        await _end.CancelAsync();
        _listener.Dispose();
        await Task.WhenAny(Script);
        _directory.Dispose();
        _end.Dispose();
    }

    /// <summary>The script's end of the line.</summary>
    internal sealed class Talk(Socket socket, CancellationToken end)
    {
        private readonly byte[] _buffer = new byte[64 * 1024];
        private int _filled;

        /// <summary>The next command.</summary>
        public async Task<JsonElement> HearAsync()
        {
            while (true)
            {
                int at = _buffer.AsSpan(0, _filled).IndexOf((byte)'\n');
                if (at >= 0)
                {
                    using JsonDocument document = JsonDocument.Parse(_buffer.AsMemory(0, at));
                    JsonElement message = document.RootElement.Clone();
                    _buffer.AsSpan(at + 1, _filled - at - 1).CopyTo(_buffer);
                    _filled -= at + 1;
                    return message;
                }

                int count = await socket.ReceiveAsync(_buffer.AsMemory(_filled), SocketFlags.None, end);
                Assert.True(count > 0, "the client hung up");
                _filled += count;
            }
        }

        public Task SayAsync(string line) => SayBytesAsync(Encoding.UTF8.GetBytes(line + "\r\n"));

        public async Task SayBytesAsync(ReadOnlyMemory<byte> bytes)
        {
            while (!bytes.IsEmpty)
            {
                bytes = bytes[await socket.SendAsync(bytes, SocketFlags.None, end)..];
            }
        }

        public Task AnswerAsync(JsonElement command, string result) =>
            SayAsync($"{{\"return\": {result}, \"id\": {command.GetProperty("id").GetRawText()}}}");

        public Task RefuseAsync(JsonElement command, string errorClass, string text) => SayAsync(
            $"{{\"id\": {command.GetProperty("id").GetRawText()}, \"error\": {{\"class\": \"{errorClass}\", \"desc\": \"{text}\"}}}}");

        public Task TellAsync(string name, long seconds = 1, long micros = 2, string data = "{}") => SayAsync(
            $"{{\"timestamp\": {{\"seconds\": {seconds}, \"microseconds\": {micros}}}, \"event\": \"{name}\", \"data\": {data}}}");

        /// <summary>Neither reads nor says anything until the test ends.</summary>
        public Task DoNothingAsync() => Task.Delay(Timeout.Infinite, end);

        /// <summary>Waits until the client hangs up or the test ends.</summary>
        public async Task WaitForEndAsync()
        {
            try
            {
                while (await socket.ReceiveAsync(_buffer, SocketFlags.None, end) > 0)
                {
                }
            }
            catch (SocketException)
            {
                // Hung up with something unread: an end as well.
            }
        }
    }
}
