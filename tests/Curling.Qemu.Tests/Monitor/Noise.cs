using System.Text;
using CsCheck;

namespace Curling.Qemu.Tests.Monitor;

/// <summary>What a monitor might say that it should not.</summary>
internal static class Noise
{
    private static readonly string[] Good =
    [
        """{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP", "data": {"a": [1, {"b": null}]}}""",
        """{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}""",
        """{"return": {"status": "running"}, "id": 2}""",
        """{"id": 2, "error": {"class": "GenericError", "desc": "no"}}""",
    ];

    /// <summary>Bytes, and messages with a few bytes changed; each with an end of line.</summary>
    public static readonly Gen<byte[]> Lines = Gen.OneOf(
        Gen.Byte.Array[0, 60],
        Gen.Select(Gen.Int[0, Good.Length - 1], Gen.Select(Gen.Int[0, 200], Gen.Byte).Array[0, 3]).Select((which, damages) =>
        {
            byte[] bytes = Encoding.UTF8.GetBytes(Good[which]);
            foreach ((int at, byte value) in damages)
            {
                bytes[at % bytes.Length] = value;
            }

            return bytes;
        })).Select(bytes => (byte[])[.. bytes, (byte)'\n']);
}
