using System.Text.Json;
using System.Text.Json.Serialization;

namespace Curling.Protocol;

/// <summary>A boot file the guest needs, by content.</summary>
/// <param name="Role"><c>kernel</c>, <c>initrd</c> or <c>firmware</c>.</param>
/// <param name="Length">Its length in bytes.</param>
/// <param name="Sha256">SHA-256 of its content, 64 lower-case hexadecimal digits.</param>
public sealed record HelloFile(string Role, long Length, string Sha256);

/// <summary>A block of guest memory whose pages travel; its place in the list is its number on the wire.</summary>
/// <param name="Name">QEMU's name of the block.</param>
/// <param name="Bytes">Its length in bytes, a whole number of pages.</param>
public sealed record HelloBlock(string Name, long Bytes);

/// <summary>What a sender says first.</summary>
/// <param name="Sender">An identifier of this run of the sender, chosen at its start.</param>
/// <param name="Generation">The guest's generation; it rises with every promotion.</param>
/// <param name="Guest">The guest definition, a JSON document.</param>
/// <param name="MachineType">The versioned machine type QEMU resolved, such as <c>pc-q35-7.2</c>.</param>
/// <param name="Accelerator"><c>kvm</c> or <c>tcg</c>.</param>
/// <param name="QemuVersion">The primary's QEMU version.</param>
/// <param name="Capabilities">What this sender may use: <c>full</c>, <c>incremental</c>, encodings.</param>
/// <param name="Files">Boot files by content.</param>
/// <param name="Blocks">Memory blocks; empty with full rounds.</param>
public sealed record Hello(
    string Sender,
    long Generation,
    JsonElement Guest,
    string MachineType,
    string Accelerator,
    string QemuVersion,
    IReadOnlyList<string> Capabilities,
    IReadOnlyList<HelloFile> Files,
    IReadOnlyList<HelloBlock> Blocks)
{
    /// <summary>The guest's disks; a disk's place in the list is its number on the wire.</summary>
    public IReadOnlyList<HelloDisk> Disks { get; init; } = [];

    /// <summary>How long the sender's right from an arbiter lives, and so what it may be vouched for, in milliseconds; 0 where it has none or does not say.</summary>
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingDefault)]
    public long RightMilliseconds { get; init; }
}

/// <summary>A disk whose blocks travel.</summary>
/// <param name="Length">Its size in bytes.</param>
/// <param name="History">The history of its content, which changes when a standby's replica becomes the disk.</param>
/// <param name="Ancestors">The histories before; a replica of one of them is of this guest's earlier life and may be overwritten.</param>
public sealed record HelloDisk(long Length, Guid History, IReadOnlyList<Guid> Ancestors);

/// <summary>What a receiver's replica of a disk holds.</summary>
/// <param name="ReplicaId">Which replica it is; a new one whenever it starts from nothing.</param>
/// <param name="History">The history of the disk that it copies.</param>
/// <param name="Length">Its size in bytes.</param>
/// <param name="State">1: empty, reads as zeros; 2: a copy is under way; 3: it is the disk as of its round.</param>
/// <param name="Session">The run of the sender that its last round is of.</param>
/// <param name="Round">Its last round.</param>
public sealed record HelloReplica(Guid ReplicaId, Guid History, long Length, int State, Guid Session, long Round);

/// <summary>What a receiver's replicas hold, in the order of <see cref="Hello.Disks"/>.</summary>
/// <param name="Replicas">Each of them.</param>
/// <param name="MaxRoundBytes">What a round may hold, all sections together.</param>
public sealed record ReplicasMessage(IReadOnlyList<HelloReplica> Replicas, long MaxRoundBytes);

/// <summary>What a receiver answers to a <see cref="Hello"/> it accepts.</summary>
/// <param name="MissingFiles">Indexes into <see cref="Hello.Files"/> that must be sent.</param>
/// <param name="Capabilities">What both sides may use.</param>
/// <param name="CommittedRound">The last round committed for this guest, 0 for none.</param>
public sealed record Welcome(IReadOnlyList<int> MissingFiles, IReadOnlyList<string> Capabilities, long CommittedRound);

/// <summary>Reads and writes the JSON documents of the handshake. Unknown fields are ignored, so that versions may add some.</summary>
public static class Handshake
{
    /// <summary>Full rounds.</summary>
    public const string Full = "full";

    /// <summary>Incremental rounds.</summary>
    public const string Incremental = "incremental";

    /// <summary>Pages as deltas against what was sent last.</summary>
    public const string Delta = "delta";

    /// <summary>Pages compressed with LZ4.</summary>
    public const string Lz4 = "lz4";

    /// <summary>Pages compressed with Zstandard.</summary>
    public const string Zstd = "zstd";

    /// <summary>Frames that the guest was given may travel too (<see cref="FrameType.Inbound"/>).</summary>
    public const string Inbound = "inbound";

    /// <summary>
    /// An arbiter decides who may run the guest. Unlike the others it binds: a sender that names it needs it in the answer, and a receiver
    /// refuses a sender that does not name what it has itself.
    /// </summary>
    public const string Arbiter = "arbiter";

    /// <summary>Writes a document.</summary>
    public static byte[] Write(Hello hello) => JsonSerializer.SerializeToUtf8Bytes(hello, HandshakeJson.Default.Hello);

    /// <summary>Writes a document.</summary>
    public static byte[] Write(Welcome welcome) => JsonSerializer.SerializeToUtf8Bytes(welcome, HandshakeJson.Default.Welcome);

    /// <summary>Writes a document.</summary>
    public static byte[] Write(ReplicasMessage replicas) => JsonSerializer.SerializeToUtf8Bytes(replicas, HandshakeJson.Default.ReplicasMessage);

    /// <summary>Reads and checks what a receiver's replicas hold.</summary>
    /// <param name="payload">The frame's payload.</param>
    /// <param name="disks">The disks that the <see cref="Hello"/> named.</param>
    /// <exception cref="ProtocolException">It is not JSON, or a field is missing or out of bounds.</exception>
    public static ReplicasMessage ReadReplicas(ReadOnlySpan<byte> payload, IReadOnlyList<HelloDisk> disks)
    {
        ReplicasMessage message = Parse(payload, HandshakeJson.Default.ReplicasMessage, "Replicas");
        Require(message.MaxRoundBytes > 0, "maxRoundBytes");
        Require(
            message.Replicas is { } replicas && replicas.Count == disks.Count
                && replicas.All(r => r is { State: >= 1 and <= 3, Round: >= 0 })
                && replicas.Zip(disks).All(p => p.First.Length == p.Second.Length),
            "replicas");
        return message;
    }

    /// <summary>Reads and checks a <see cref="Hello"/>; the guest definition inside is the guest reader's to check.</summary>
    /// <exception cref="ProtocolException">It is not JSON, or a field is missing or out of bounds.</exception>
    public static Hello ReadHello(ReadOnlySpan<byte> payload)
    {
        Hello hello = Parse(payload, HandshakeJson.Default.Hello, nameof(Hello));
        Require(hello.Sender is { Length: > 0 and <= 64 }, "sender");
        Require(hello.Generation is > 0 and < long.MaxValue, "generation");
        Require(hello.Guest.ValueKind == JsonValueKind.Object, "guest");
        Require(Name(hello.MachineType), "machineType");
        Require(hello.Accelerator is "kvm" or "tcg", "accelerator");
        Require(Name(hello.QemuVersion), "qemuVersion");
        Require(Names(hello.Capabilities), "capabilities");
        Require(hello.Files is { Count: <= ProtocolLimits.MaxBootFiles } files && files.All(File), "files");
        Require(hello.Blocks is { Count: <= ProtocolLimits.MaxBlocks } blocks && blocks.All(Block), "blocks");
        Require(hello.Disks is { Count: <= ProtocolLimits.MaxDisks } disks && disks.All(Disk), "disks");
        Require(hello.RightMilliseconds is >= 0 and <= VouchMessage.MaxMilliseconds, "rightMilliseconds");
        Require(hello.Disks.Count == 0 || Guid.TryParseExact(hello.Sender, "N", out _), "sender");
        return hello;
    }

    /// <summary>Reads and checks a <see cref="Welcome"/>.</summary>
    /// <param name="payload">The frame's payload.</param>
    /// <param name="files">How many files the <see cref="Hello"/> named.</param>
    /// <exception cref="ProtocolException">It is not JSON, or a field is missing or out of bounds.</exception>
    public static Welcome ReadWelcome(ReadOnlySpan<byte> payload, int files)
    {
        Welcome welcome = Parse(payload, HandshakeJson.Default.Welcome, nameof(Welcome));
        Require(
            welcome.MissingFiles is { } missing && missing.Count <= files && missing.All(f => f >= 0 && f < files)
                && missing.Distinct().Count() == missing.Count,
            "missingFiles");
        Require(Names(welcome.Capabilities), "capabilities");
        Require(welcome.CommittedRound >= 0, "committedRound");
        return welcome;
    }

    private static T Parse<T>(ReadOnlySpan<byte> payload, System.Text.Json.Serialization.Metadata.JsonTypeInfo<T> type, string what)
        where T : class
    {
        try
        {
            return JsonSerializer.Deserialize(payload, type)
                ?? throw new ProtocolException(ProtocolError.Malformed, $"a {what} frame holds no object");
        }
        catch (JsonException e)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"a {what} frame is not the JSON it should be: {e.Message}");
        }
    }

    private static void Require(bool holds, string field)
    {
        if (!holds)
        {
            throw new ProtocolException(ProtocolError.Malformed, $"the handshake's field \"{field}\" is missing or out of bounds");
        }
    }

    private static bool Name(string? text) => text is { Length: > 0 and <= 128 } && !text.Any(char.IsControl);

    private static bool Names(IReadOnlyList<string>? names) => names is { Count: <= 32 } && names.All(Name);

    private static bool File(HelloFile? file) =>
        file is { Role: "kernel" or "initrd" or "firmware", Length: >= 0 and <= ProtocolLimits.MaxBootFileBytes, Sha256.Length: 64 }
        && file.Sha256.All(c => char.IsAsciiHexDigitLower(c));

    private static bool Disk(HelloDisk? disk) =>
        disk is { Length: > 0 and < 1L << 53, Ancestors.Count: <= ProtocolLimits.MaxAncestors } && disk.Length % 512 == 0;

    private static bool Block(HelloBlock? block) =>
        block is { Bytes: > 0 and < 1L << 46 } && Name(block.Name) && block.Bytes % ProtocolLimits.PageBytes == 0;
}

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, RespectNullableAnnotations = true,
    RespectRequiredConstructorParameters = true, MaxDepth = 16)]
[JsonSerializable(typeof(Hello))]
[JsonSerializable(typeof(Welcome))]
[JsonSerializable(typeof(ReplicasMessage))]
internal sealed partial class HandshakeJson : JsonSerializerContext;
