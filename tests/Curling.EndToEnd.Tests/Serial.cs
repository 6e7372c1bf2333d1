using System.Net.Sockets;
using System.Text;

namespace Curling.EndToEnd.Tests;

/// <summary>Types on a guest's serial port.</summary>
internal static class Serial
{
    public static async Task SayAsync(string path, string line)
    {
        using Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(path));
        await socket.SendAsync(Encoding.ASCII.GetBytes(line + "\n"));

        // The emulated port takes the bytes one by one; leaving at once would drop what it has not taken.
        await Task.Delay(2000);
    }
}
