using System.Buffers.Binary;
using Curling.Storage.Nbd;

namespace Curling.Storage.Tests.Nbd;

/// <summary>What a client can get wrong: an error with a name, and the server serves on.</summary>
public sealed class WrongInputTests
{
    private const uint Size = 1 << 20;

    [Fact]
    public async Task Options_that_are_wrong_are_answered_with_the_error_that_fits()
    {
        await using Served served = Served.Start(Size);
        using RawClient client = new(served.Socket);
        client.Greet();
        Assert.Equal(0x80000001u, client.Ask(4));
        Assert.Equal(0x80000001u, client.Ask(11));
        Assert.Equal(0x80000001u, client.Ask(0xdeadbeef, 1, 2, 3));
        Assert.Equal(0x80000002u, client.Ask(5));
        Assert.Equal(0x80000003u, client.Ask(5, 0));
        Assert.Equal(0x80000003u, client.Ask(3, 1));
        Assert.Equal(0x80000003u, client.Ask(8, 1));
        Assert.Equal(0x80000003u, client.Ask(7));
        Assert.Equal(0x80000003u, client.Ask(7, 0, 0, 0, 9, 0, 0));
        Assert.Equal(0x80000003u, client.Ask(7, 0xff, 0xff, 0xff, 0xff, 0, 0));
        Assert.Equal(0x80000003u, client.Ask(6, [.. RawClient.Named(""), 1]));
        Assert.Equal(0x80000006u, client.Ask(6, RawClient.Named("other")));
        Assert.Equal(0x80000003u, client.Ask(10, 0, 0, 0, 0, 0, 0, 0, 0));
        Assert.Equal(1u, client.Ask(8));
        Assert.Equal(0x80000003u, client.Ask(10, 0, 0, 0, 0));
        Assert.Equal(0x80000003u, client.Ask(10, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff));
        Assert.Equal(0x80000003u, client.Ask(9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9));
        Assert.Equal(0x80000009u, client.Ask(7, new byte[100_000]));
        Assert.Equal(1u, client.Ask(9, 0, 0, 0, 0, 0, 0, 0, 0));
        Assert.Equal(1u, client.Ask(3));
        Assert.Equal(1u, client.Ask(6, RawClient.Named("disk0")));
        Assert.Equal(1u, client.Ask(2));
        client.WaitForEnd();
        await ServesOnAsync(served);
    }

    [Fact]
    public async Task Requests_that_are_wrong_are_answered_with_the_error_that_fits()
    {
        await using Served served = Served.Start(Size);
        using RawClient client = new(served.Socket);
        client.Go();
        foreach ((byte[] request, uint error) in ((byte[], uint)[])
        [
            (RawClient.Request(0, Size, 1), 22),
            (RawClient.Request(0, ulong.MaxValue, 1), 22),
            (RawClient.Request(0, Size - 1, 2), 22),
            (RawClient.Request(0, 0, 0), 22),
            (RawClient.Request(0, 0, (32 << 20) + 1), 75),
            (RawClient.Request(0, 0, uint.MaxValue), 75),
            (RawClient.Request(0, 0, 1, flags: 4), 22),
            (RawClient.Request(0, 0, 1, flags: 0x8000), 22),
            (RawClient.Request(1, Size - 1, 2, payload: [1, 2]), 28),
            (RawClient.Request(1, 1UL << 63, 2, payload: [1, 2]), 28),
            (RawClient.Request(1, 0, 2, flags: 2, payload: [1, 2]), 22),
            (RawClient.Request(3, 1, 0), 22),
            (RawClient.Request(3, 0, 1), 22),
            (RawClient.Request(4, Size, 1), 22),
            (RawClient.Request(5, 0, 1), 22),
            (RawClient.Request(6, Size - 4, 8), 28),
            (RawClient.Request(6, 0, 8, flags: 16), 22),
            (RawClient.Request(7, 0, 8), 22),
            (RawClient.Request(8, 0, 8), 22),
            (RawClient.Request(0xffff, 0, 8), 22),
        ])
        {
            client.Send(request);
            Assert.Equal(error, client.Reply());
        }

        client.Send(RawClient.Request(0, 0, 4));
        Assert.Equal(0u, client.Reply());
        Assert.Equal(new byte[4], client.Receive(4));
        Assert.Equal(20, served.Server.Counters.Errors);
    }

    [Fact]
    public async Task An_error_of_a_structured_reply_says_why()
    {
        await using Served served = Served.Start(Size);
        using RawClient client = new(served.Socket);
        client.Go(structured: true);
        client.Send(RawClient.Request(0, Size, 1));
        byte[] header = client.Receive(20);
        Assert.Equal(0x668e33efu, BinaryPrimitives.ReadUInt32BigEndian(header));
        byte[] payload = client.Receive(BinaryPrimitives.ReadInt32BigEndian(header.AsSpan(16)));
        Assert.Equal(22u, BinaryPrimitives.ReadUInt32BigEndian(payload));
        Assert.Contains("beyond the end", System.Text.Encoding.UTF8.GetString(payload.AsSpan(6)), StringComparison.Ordinal);
    }

    public static TheoryData<NbdViolation> Violations { get; } = new(Enum.GetValues<NbdViolation>().Where(v => v != NbdViolation.Reply));

    [Theory]
    [MemberData(nameof(Violations))]
    public async Task A_client_that_cannot_be_understood_is_disconnected_and_the_log_names_the_rule(NbdViolation violation)
    {
        await using Served served = Served.Start(Size, new NbdServerOptions { HandshakeLimit = TimeSpan.FromSeconds(violation == NbdViolation.HandshakeTimeout ? 1 : 20) });
        using RawClient client = new(served.Socket);
        switch (violation)
        {
            case NbdViolation.ClientFlags:
                client.Greet(0xff);
                break;
            case NbdViolation.OptionMagic:
                client.Greet();
                client.Send("IHAVENOTTHATOPTION"u8);
                break;
            case NbdViolation.OptionTooLong:
                client.Greet();
                client.Send([.. "IHAVEOPT"u8, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0xff]);
                break;
            case NbdViolation.TooManyOptions:
                client.Greet();
                for (int i = 0; i < 64; i++)
                {
                    client.Ask(77);
                }

                break;
            case NbdViolation.HandshakeTimeout:
                client.Greet();
                break;
            case NbdViolation.UnknownExport:
                client.Greet();
                client.Send(RawClient.Option(1, "other"u8.ToArray()));
                break;
            case NbdViolation.RequestMagic:
                client.Go();
                client.Send(RawClient.Request(0, 0, 1, magic: 0x25609514));
                break;
            case NbdViolation.PayloadTooLong:
                client.Go();
                client.Send(RawClient.Request(1, 0, (32 << 20) + 1));
                break;
            case NbdViolation.Truncated:
                client.Go();
                client.Send(RawClient.Request(1, 0, 4096, payload: new byte[100]));
                client.EndOfSending();
                break;
        }

        client.WaitForEnd();
        await Until(() => served.Log.Lines.Any(l => l.Contains($"DiskProtocolViolation", StringComparison.Ordinal) && l.Contains($"({violation})", StringComparison.Ordinal)));
        Assert.Equal(1, served.Server.Counters.Violations);
        await ServesOnAsync(served);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Random_bytes_never_harm_the_server(bool afterHandshake)
    {
        const int Cases = 400;
        await using Served served = Served.Start(Size);
        for (int seed = 0; seed < Cases; seed++)
        {
            Random random = new(seed);

            // A client sees its end before the server has forgotten it, and too many at once are turned away.
            await Until(() => served.Server.Counters.Connections < 4);
            using RawClient client = new(served.Socket);
            try
            {
                byte[] said = afterHandshake ? RandomRequests(random) : RandomOptions(random);
                if (afterHandshake)
                {
                    client.Go(structured: random.Next(2) == 0);
                }
                else
                {
                    client.Greet((uint)random.Next(4));
                }

                client.Send(said);
                client.EndOfSending();
                client.WaitForEnd();
            }
            catch (System.Net.Sockets.SocketException e) when (e.SocketErrorCode is System.Net.Sockets.SocketError.Shutdown
                or System.Net.Sockets.SocketError.ConnectionReset or System.Net.Sockets.SocketError.ConnectionAborted)
            {
                // The server had heard enough.
            }
            catch (Exception e)
            {
                Assert.Fail($"seed {seed}: {e}");
            }
        }

        await Until(() => served.Server.Counters.Connections == 0);
        Assert.True(served.Server.Counters.Violations > Cases / 10, $"{served.Server.Counters}");
        await ServesOnAsync(served);
    }

    [Fact]
    public async Task Further_clients_than_may_be_are_turned_away()
    {
        await using Served served = Served.Start(Size, new NbdServerOptions { MaxConnections = 2 });
        using RawClient first = new(served.Socket);
        using RawClient second = new(served.Socket);
        first.Go();
        second.Go();
        using (RawClient third = new(served.Socket))
        {
            third.WaitForEnd();
        }

        await Until(() => served.Log.Lines.Any(l => l.Contains("DiskClientRefused", StringComparison.Ordinal)));
        second.Dispose();
        await Until(() => served.Server.Counters.Connections == 1);
        await ServesOnAsync(served);
    }

    internal static async Task Until(Func<bool> condition)
    {
        using CancellationTokenSource limit = new(TimeSpan.FromSeconds(20));
        while (!condition())
        {
            await Task.Delay(5, limit.Token);
        }
    }

    private static byte[] RandomOptions(Random random)
    {
        List<byte> said = [];
        for (int i = random.Next(1, 6); i > 0; i--)
        {
            byte[] data = new byte[random.Next(4) == 0 ? random.Next(20_000) : random.Next(40)];
            random.NextBytes(data);
            if (data.Length > 4 && random.Next(2) == 0)
            {
                BinaryPrimitives.WriteInt32BigEndian(data, random.Next(data.Length));
            }

            byte[] option = RawClient.Option((uint)random.Next(14), data);
            if (random.Next(8) == 0)
            {
                option[random.Next(16)] ^= (byte)random.Next(1, 256);
            }

            said.AddRange(option);
        }

        return [.. said];
    }

    private static byte[] RandomRequests(Random random)
    {
        List<byte> said = [];
        for (int i = random.Next(1, 30); i > 0; i--)
        {
            ushort command = (ushort)random.Next(10);
            ulong offset = random.Next(4) == 0 ? (ulong)random.NextInt64() : (ulong)random.Next((int)Size);
            uint length = random.Next(10) == 0 ? (uint)random.NextInt64(uint.MaxValue) : (uint)random.Next(5000);
            byte[]? payload = command == 1 ? new byte[Math.Min(length, 5000)] : null;
            byte[] request = RawClient.Request(command, offset, length, (ulong)i, (ushort)(random.Next(3) == 0 ? random.Next(65536) : 0), payload: payload);
            if (random.Next(20) == 0)
            {
                request[random.Next(28)] ^= (byte)random.Next(1, 256);
            }

            said.AddRange(request);
        }

        return [.. said];
    }

    private static async Task ServesOnAsync(Served served)
    {
        await using NbdClientBackend client = NbdClientBackend.Connect(served.Socket, Served.Name, "test");
        byte[] data = new byte[512];
        new Random(9).NextBytes(data);
        await client.WriteAsync(4096, data, default);
        byte[] read = new byte[512];
        await client.ReadAsync(4096, read, default);
        Assert.Equal(data, read);
    }
}
