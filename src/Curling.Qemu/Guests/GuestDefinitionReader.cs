using System.Buffers;
using System.Text;
using System.Text.Json;
using Curling.Linux.Memory;
using Curling.Linux.Network;

namespace Curling.Qemu.Guests;

/// <summary>Reads, checks and writes guest definitions. Stateless.</summary>
public static class GuestDefinitionReader
{
    /// <summary>The longest document taken.</summary>
    public const int MaxBytes = 64 * 1024;

    internal static readonly string[] FieldNames =
    [
        "$schema", "name", "machine", "accelerator", "cpu", "vcpus", "memory", "kernel", "initrd", "append", "firmware", "serial",
        "display", "disks", "networks",
    ];

    internal static readonly string[] DisplayFieldNames = ["type", "listen"];

    internal static readonly string[] DiskFieldNames = ["path", "format", "standbyPath", "readOnly"];

    /// <summary>Disks of one guest.</summary>
    public const int MaxDisks = 16;

    internal static readonly string[] NetworkFieldNames = ["mac", "model", "attach", "standbyAttach", "mtu"];

    /// <summary>Network cards of one guest.</summary>
    public const int MaxNetworks = 8;

    private const int MaxText = 4096;
    private const long MinMemory = 1L << 20;
    private const long MaxMemory = 16L << 40;
    private static readonly SearchValues<char> VersionCharacters = SearchValues.Create("0123456789.");
    private static readonly SearchValues<char> NameCharacters = SearchValues.Create(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

    /// <summary>Reads a definition from a file; paths in it are relative to the file's directory.</summary>
    /// <exception cref="GuestDefinitionException">The file cannot be read or does not hold a definition.</exception>
    public static GuestDefinition Load(string path)
    {
        byte[] bytes = new byte[MaxBytes + 1];
        int length;
        try
        {
            // Read no more than may be there: a path can also name a device that never ends.
            using FileStream file = new(path, FileMode.Open, FileAccess.Read, FileShare.Read, bufferSize: 0);
            length = file.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new GuestDefinitionException(path, "", $"the guest definition cannot be read: {e.Message}");
        }

        return Parse(bytes.AsMemory(0, length), path, Path.GetDirectoryName(Path.GetFullPath(path)));
    }

    /// <summary>Reads a definition from UTF-8 JSON.</summary>
    /// <param name="json">The document.</param>
    /// <param name="source">What to call it in errors.</param>
    /// <param name="baseDirectory">Where relative paths start, or null to leave paths as they are.</param>
    /// <exception cref="GuestDefinitionException">It is not JSON, or a field is wrong.</exception>
    public static GuestDefinition Parse(ReadOnlyMemory<byte> json, string source, string? baseDirectory)
    {
        if (json.Length > MaxBytes)
        {
            throw new GuestDefinitionException(source, "", $"it is longer than the {MaxBytes} bytes that a definition may have");
        }

        if (json.Span.StartsWith("\uFEFF"u8))
        {
            json = json[3..]; // the mark that some editors put before UTF-8
        }

        try
        {
            using JsonDocument document = JsonDocument.Parse(json, new JsonDocumentOptions
            {
                MaxDepth = 8,
                AllowTrailingCommas = true,
                CommentHandling = JsonCommentHandling.Skip,
            });
            return Read(new Fields(document.RootElement, source, ""), baseDirectory);
        }
        catch (JsonException e)
        {
            throw new GuestDefinitionException(
                source, "", $"not JSON at line {e.LineNumber + 1}, column {e.BytePositionInLine + 1}: {ReasonOf(e)}");
        }
        catch (InvalidOperationException)
        {
            // The JSON reader's answer to a field name that is not UTF-8.
            throw new GuestDefinitionException(source, "", "it holds text that is not valid Unicode");
        }
    }

    /// <summary>Writes a definition as it travels: every field, paths as they are.</summary>
    public static byte[] Serialize(GuestDefinition guest)
    {
        using MemoryStream stream = new();
        using (Utf8JsonWriter w = new(stream))
        {
            w.WriteStartObject();
            w.WriteString("name", guest.Name);
            w.WriteString("machine", guest.Machine);
            w.WriteString("accelerator", guest.Accelerator);
            w.WriteString("cpu", guest.Cpu);
            w.WriteNumber("vcpus", guest.Vcpus);
            w.WriteNumber("memory", guest.MemoryBytes);
            Optional(w, "kernel", guest.Kernel);
            Optional(w, "initrd", guest.Initrd);
            Optional(w, "append", guest.Append);
            Optional(w, "firmware", guest.Firmware);
            w.WriteBoolean("serial", guest.Serial);
            if (guest.Display is { } display)
            {
                w.WriteStartObject("display");
                w.WriteString("type", display.Type);
                w.WriteString("listen", display.Listen);
                w.WriteEndObject();
            }

            if (guest.Disks.Count > 0)
            {
                Disks(w, guest.Disks);
            }

            if (guest.Networks.Count > 0)
            {
                Networks(w, guest.Networks);
            }

            w.WriteEndObject();
        }

        return stream.ToArray();
    }

    /// <summary>Checks what only the host can tell: that it has the memory and the files.</summary>
    /// <exception cref="GuestDefinitionException">It has not.</exception>
    public static void CheckHost(GuestDefinition guest, string source, long hostMemoryBytes)
    {
        if (guest.MemoryBytes > hostMemoryBytes)
        {
            throw new GuestDefinitionException(
                source,
                "memory",
                $"{ByteSize.Format(guest.MemoryBytes)} is more than this host has ({ByteSize.Format(hostMemoryBytes)})");
        }

        foreach ((string field, string? path) in
            (ReadOnlySpan<(string, string?)>)[("kernel", guest.Kernel), ("initrd", guest.Initrd), ("firmware", guest.Firmware)])
        {
            if (path is not null && !File.Exists(path))
            {
                throw new GuestDefinitionException(source, field, $"there is no file {path}");
            }
        }

        for (int i = 0; i < guest.Disks.Count; i++)
        {
            if (!File.Exists(guest.Disks[i].Path))
            {
                throw new GuestDefinitionException(source, $"disks[{i}].path", $"there is no image {guest.Disks[i].Path}");
            }
        }
    }

    private static GuestDefinition Read(Fields fields, string? baseDirectory)
    {
        fields.Allow(FieldNames);
        string name = fields.Text("name", required: true)!;
        fields.Require(
            name.Length is > 0 and <= 63 && !name.AsSpan().ContainsAnyExcept(NameCharacters) && name[0] is not ('.' or '-'),
            "name",
            $"\"{Short(name)}\" is not a name; write 1 to 63 letters, digits, dots, dashes or underscores");
        string machine = fields.Text("machine") ?? "q35";
        fields.Require(
            IsMachine(machine), "machine", $"\"{Short(machine)}\" is not supported; write \"q35\", \"pc\" or a versioned one of them");
        string accelerator = fields.Text("accelerator") ?? "auto";
        fields.Require(
            accelerator is "auto" or "kvm" or "tcg", "accelerator", $"\"{Short(accelerator)}\" is none of auto, kvm, tcg");
        string cpu = fields.Text("cpu") ?? "qemu64";
        fields.Require(
            cpu.Length is > 0 and <= 512 && cpu.All(c => char.IsAsciiLetterOrDigit(c) || "-_.,+=".Contains(c)),
            "cpu",
            "it is not a CPU model; write for example \"qemu64\" or \"host,-arch-capabilities\"");
        GuestDefinition guest = new()
        {
            Name = name,
            Machine = machine,
            Accelerator = accelerator,
            Cpu = cpu,
            Vcpus = fields.Number("vcpus", 1, 255) ?? 1,
            MemoryBytes = fields.Size("memory", MinMemory, MaxMemory),
            Kernel = Resolve(fields.Text("kernel"), baseDirectory),
            Initrd = Resolve(fields.Text("initrd"), baseDirectory),
            Append = fields.Text("append"),
            Firmware = Resolve(fields.Text("firmware"), baseDirectory),
            Serial = fields.Flag("serial") ?? true,
            Display = ReadDisplay(fields.Object("display")),
        };
        fields.Require(guest.MemoryBytes % (1 << 20) == 0, "memory", "it is not a whole number of MiB");
        fields.Require(guest.Initrd is null || guest.Kernel is not null, "initrd", "it needs a \"kernel\" beside it");
        fields.Require(guest.Kernel is null || guest.Firmware is null, "firmware", "a guest boots from a kernel or from firmware, not both");
        return guest with { Disks = ReadDisks(fields, baseDirectory), Networks = ReadNetworks(fields, name) };
    }

    private static DiskList ReadDisks(Fields fields, string? baseDirectory)
    {
        List<DiskDefinition> disks = [];
        foreach (Fields disk in fields.Objects("disks", MaxDisks))
        {
            disk.Allow(DiskFieldNames);
            string path = Resolve(disk.Text("path", required: true), baseDirectory)!;
            disk.Require(disks.All(d => d.Path != path), "path", $"{Short(path)} is another disk's already");
            string format = disk.Text("format") ?? "auto";
            disk.Require(DiskDefinition.Formats.Contains(format), "format", $"\"{Short(format)}\" is none of {string.Join(", ", DiskDefinition.Formats)}");
            string? standby = disk.Text("standbyPath");
            disk.Require(
                standby is null || Path.IsPathFullyQualified(standby), "standbyPath", $"\"{Short(standby ?? "")}\" is on another host: write a path that begins with /");
            disks.Add(new DiskDefinition(path, format, standby, disk.Flag("readOnly") ?? false));
        }

        return new DiskList(disks);
    }

    private static NetworkList ReadNetworks(Fields fields, string guest)
    {
        List<NetworkDefinition> networks = [];
        foreach (Fields network in fields.Objects("networks", MaxNetworks))
        {
            network.Allow(NetworkFieldNames);
            string mac = network.Text("mac")?.ToLowerInvariant() ?? NetworkDefinition.MacFor(guest, networks.Count);
            network.Require(
                NetworkDefinition.IsMac(mac), "mac", $"\"{Short(mac)}\" is not a card's address; write for example \"52:54:00:12:34:56\"");
            network.Require(networks.All(n => n.Mac != mac), "mac", $"{mac} is another network's already");
            string model = network.Text("model") ?? NetworkDefinition.Models[0];
            network.Require(
                NetworkDefinition.Models.Contains(model), "model", $"\"{Short(model)}\" is none of {string.Join(", ", NetworkDefinition.Models)}");
            string attach = network.Text("attach") ?? "none";
            Attach(network, "attach", attach);
            string standby = network.Text("standbyAttach") ?? attach;
            Attach(network, "standbyAttach", standby);
            int mtu = network.Number("mtu", 576, 9216) ?? NetworkDefinition.DefaultMtu;
            network.Require(
                mtu == NetworkDefinition.DefaultMtu || model == "virtio-net-pci", "mtu", $"only virtio-net-pci can tell its guest of an MTU other than {NetworkDefinition.DefaultMtu}");
            networks.Add(new NetworkDefinition(mac, model, attach, standby, mtu));
        }

        return new NetworkList(networks);
    }

    private static void Attach(Fields fields, string field, string text) => fields.Require(
        text == "none" || (text.Split(':') is ["tap" or "bridge", { } name] && TapDevice.IsName(name)),
        field,
        $"\"{Short(text)}\" is not a place on the host; write \"bridge:NAME\", \"tap:NAME\" or \"none\", names of at most 15 characters");

    private static DisplayDefinition? ReadDisplay(Fields? fields)
    {
        if (fields is null)
        {
            return null;
        }

        fields.Allow(DisplayFieldNames);
        string type = fields.Text("type", required: true)!;
        fields.Require(type is "vnc" or "spice", "type", $"\"{Short(type)}\" is neither vnc nor spice");
        string listen = fields.Text("listen") ?? "127.0.0.1:0";
        fields.Require(
            DisplayDefinition.IsListen(listen),
            "listen",
            $"\"{Short(listen)}\" is not an address; write for example \"127.0.0.1:5901\" (port 0, or 5900 and up)");
        return new DisplayDefinition(type, listen);
    }

    private static bool IsMachine(string machine)
    {
        ReadOnlySpan<char> rest = machine.StartsWith("pc-q35", StringComparison.Ordinal) ? machine.AsSpan(6)
            : machine.StartsWith("pc-i440fx", StringComparison.Ordinal) ? machine.AsSpan(9)
            : machine is "q35" or "pc" ? "" : "?";
        return rest.IsEmpty
            ? machine is "q35" or "pc"
            : rest[0] == '-' && rest.Length is > 1 and < 12 && !rest[1..].ContainsAnyExcept(VersionCharacters);
    }

    private static void Networks(Utf8JsonWriter w, NetworkList networks)
    {
        w.WriteStartArray("networks");
        foreach (NetworkDefinition network in networks)
        {
            w.WriteStartObject();
            w.WriteString("mac", network.Mac);
            w.WriteString("model", network.Model);
            w.WriteString("attach", network.Attach);
            w.WriteString("standbyAttach", network.StandbyAttach);
            w.WriteNumber("mtu", network.Mtu);
            w.WriteEndObject();
        }

        w.WriteEndArray();
    }

    private static void Disks(Utf8JsonWriter w, DiskList disks)
    {
        w.WriteStartArray("disks");
        foreach (DiskDefinition disk in disks)
        {
            w.WriteStartObject();
            w.WriteString("path", disk.Path);
            w.WriteString("format", disk.Format);
            Optional(w, "standbyPath", disk.StandbyPath);
            w.WriteBoolean("readOnly", disk.ReadOnly);
            w.WriteEndObject();
        }

        w.WriteEndArray();
    }

    private static string? Resolve(string? path, string? baseDirectory) =>
        path is null || baseDirectory is null ? path : Path.GetFullPath(path, baseDirectory);

    private static void Optional(Utf8JsonWriter w, string name, string? value)
    {
        if (value is not null)
        {
            w.WriteString(name, value);
        }
    }

    // The JSON reader ends its message with the place, counted from zero; the place is told already, counted from one.
    private static string ReasonOf(JsonException e)
    {
        int place = e.Message.IndexOf(" LineNumber:", StringComparison.Ordinal);
        return Short(place < 0 ? e.Message : e.Message[..place]);
    }

    private static string Short(string text)
    {
        StringBuilder clean = new();
        foreach (char c in text.AsSpan(0, Math.Min(text.Length, 200)))
        {
            clean.Append(char.IsControl(c) ? ' ' : c);
        }

        return clean.ToString();
    }

    /// <summary>One JSON object and the names of what is wrong with it.</summary>
    private sealed class Fields
    {
        private readonly JsonElement _object;
        private readonly string _source;
        private readonly string _prefix;

        public Fields(JsonElement element, string source, string prefix)
        {
            _object = element;
            _source = source;
            _prefix = prefix;
            if (element.ValueKind != JsonValueKind.Object)
            {
                throw new GuestDefinitionException(source, prefix.TrimEnd('.'), "it is not an object; write { … }");
            }
        }

        public void Allow(params ReadOnlySpan<string> names)
        {
            HashSet<string> seen = [];
            foreach (JsonProperty property in _object.EnumerateObject())
            {
                string name = property.Name;
                Require(names.Contains(name), Short(name), $"it is unknown; known are {string.Join(", ", names.ToArray())}");
                Require(seen.Add(name), name, "it is there twice");
            }
        }

        public void Require(bool holds, string field, string problem)
        {
            if (!holds)
            {
                throw new GuestDefinitionException(_source, _prefix + field, problem);
            }
        }

        public string? Text(string field, bool required = false)
        {
            if (!Find(field, out JsonElement value))
            {
                Require(!required, field, "it is missing");
                return null;
            }

            Require(value.ValueKind == JsonValueKind.String, field, $"it is {Kind(value)}, not a text");
            string text = TextOf(value, field);
            Require(text.Length is > 0 and <= MaxText, field, $"it has {text.Length} characters; 1 to {MaxText} are allowed");
            Require(!text.Any(char.IsControl), field, "it holds control characters");
            return text;
        }

        public int? Number(string field, int from, int to)
        {
            if (!Find(field, out JsonElement value))
            {
                return null;
            }

            int number = 0;
            Require(
                value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out number) && number >= from && number <= to,
                field,
                $"it is not a number from {from} to {to}");
            return number;
        }

        public bool? Flag(string field)
        {
            if (!Find(field, out JsonElement value))
            {
                return null;
            }

            Require(value.ValueKind is JsonValueKind.True or JsonValueKind.False, field, $"it is {Kind(value)}, not true or false");
            return value.GetBoolean();
        }

        public long Size(string field, long from, long to)
        {
            Require(Find(field, out JsonElement value), field, "it is missing; write for example \"512MiB\"");
            long bytes = 0;
            bool good = value.ValueKind == JsonValueKind.Number
                ? value.TryGetInt64(out bytes)
                : value.ValueKind == JsonValueKind.String && ByteSize.TryParse(TextOf(value, field), out bytes);
            Require(good, field, $"\"{Short(value.ToString())}\" is not a size; write for example \"512MiB\"");
            Require(
                bytes >= from && bytes <= to, field, $"{ByteSize.Format(bytes)} is not from {ByteSize.Format(from)} to {ByteSize.Format(to)}");
            return bytes;
        }

        public Fields? Object(string field) => Find(field, out JsonElement value) ? new Fields(value, _source, _prefix + field + ".") : null;

        public IEnumerable<Fields> Objects(string field, int most)
        {
            if (!Find(field, out JsonElement value))
            {
                yield break;
            }

            Require(value.ValueKind == JsonValueKind.Array, field, $"it is {Kind(value)}, not a list; write [ {{ … }} ]");
            Require(value.GetArrayLength() <= most, field, $"it has {value.GetArrayLength()} entries; at most {most} are allowed");
            int index = 0;
            foreach (JsonElement element in value.EnumerateArray())
            {
                yield return new Fields(element, _source, $"{_prefix}{field}[{index++}].");
            }
        }

        private string TextOf(JsonElement value, string field)
        {
            try
            {
                return value.GetString()!;
            }
            catch (InvalidOperationException)
            {
                throw new GuestDefinitionException(_source, _prefix + field, "it is not valid Unicode text");
            }
        }

        private static string Kind(JsonElement value) => value.ValueKind switch
        {
            JsonValueKind.Object => "an object",
            JsonValueKind.Array => "a list",
            JsonValueKind.Number => "a number",
            JsonValueKind.String => "a text",
            JsonValueKind.Null => "null",
            _ => "true or false",
        };

        private bool Find(string field, out JsonElement value) =>
            _object.TryGetProperty(field, out value) && value.ValueKind != JsonValueKind.Null;
    }
}
