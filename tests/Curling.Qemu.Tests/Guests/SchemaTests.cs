using System.Globalization;
using System.Text.Json;
using System.Text.RegularExpressions;
using Curling.Qemu.Guests;

namespace Curling.Qemu.Tests.Guests;

/// <summary>docs/guest.schema.json says what the reader does.</summary>
public class SchemaTests
{
    private static readonly JsonElement Schema = JsonDocument.Parse(File.ReadAllBytes(
        Path.Combine(AppContext.BaseDirectory, "guest.schema.json"))).RootElement;

    [Fact]
    public void HasTheSameFields()
    {
        Assert.Equal(GuestDefinitionReader.FieldNames.Order(), Names(Schema.GetProperty("properties")));
        Assert.Equal(GuestDefinitionReader.DisplayFieldNames.Order(), Names(Field("display").GetProperty("properties")));
        JsonElement network = Field("networks").GetProperty("items");
        Assert.Equal(GuestDefinitionReader.NetworkFieldNames.Order(), Names(network.GetProperty("properties")));
        Assert.Equal(NetworkDefinition.Models, network.GetProperty("properties").GetProperty("model").GetProperty("enum").EnumerateArray().Select(e => e.GetString()));
        Assert.False(network.GetProperty("additionalProperties").GetBoolean());
        Assert.False(Schema.GetProperty("additionalProperties").GetBoolean());
        Assert.False(Field("display").GetProperty("additionalProperties").GetBoolean());
    }

    [Fact]
    public void RequiresTheSameFields()
    {
        string[] required = [.. Schema.GetProperty("required").EnumerateArray().Select(e => e.GetString()!)];
        foreach (string missing in required)
        {
            string rest = string.Join(",", required.Where(r => r != missing).Select(r => $"\"{r}\":{Sample(r)}"));
            Assert.Equal(missing, Assert.Throws<GuestDefinitionException>(
                () => GuestDefinitionReaderTests.Parse("{" + rest + "}")).Field);
        }

        GuestDefinitionReaderTests.Parse("{" + string.Join(",", required.Select(r => $"\"{r}\":{Sample(r)}")) + "}");
    }

    [Fact]
    public void HasTheSameDefaults()
    {
        GuestDefinition plain = GuestDefinitionReaderTests.Parse("{\"name\":\"g\",\"memory\":\"64MiB\",\"display\":{\"type\":\"vnc\"}}");
        Assert.Equal(plain.Machine, Field("machine").GetProperty("default").GetString());
        Assert.Equal(plain.Accelerator, Field("accelerator").GetProperty("default").GetString());
        Assert.Equal(plain.Cpu, Field("cpu").GetProperty("default").GetString());
        Assert.Equal(plain.Vcpus, Field("vcpus").GetProperty("default").GetInt32());
        Assert.Equal(plain.Serial, Field("serial").GetProperty("default").GetBoolean());
        Assert.Equal(plain.Display!.Listen, Listen.GetProperty("default").GetString());
    }

    [Theory]
    [InlineData("name", new[] { "a", "web-1", "_x", "a.b", "-a", ".a", "a b", "ä", "a/b", "a\n" })]
    [InlineData("machine", new[] { "q35", "pc", "pc-q35-7.2", "pc-i440fx-10.0", "pc-q35", "pc-q35-", "virt", "q35,x", "pc-q35-7.2b" })]
    [InlineData("cpu", new[] { "qemu64", "host,-arch-capabilities", "a b", "x;y", "Skylake-Client-v1", "max,+x=on" })]
    [InlineData("memory", new[] { "64MiB", "1GiB", "1.5GiB", "64 MiB", "67108864", "12XB", "MiB", "-1MiB", "", "1e9MiB" })]
    [InlineData("append", new[] { "a b", "a\tb", "a\u0085b", "é" })]
    [InlineData("kernel", new[] { "vmlinuz", "/a b/c", "a\0b" })]
    public void PatternsTakeWhatTheReaderTakes(string field, string[] values)
    {
        JsonElement schema = Field(field);
        schema = schema.TryGetProperty("$ref", out _) ? Schema.GetProperty("$defs").GetProperty("path") : schema;
        Regex pattern = new(schema.GetProperty("pattern").GetString()!, RegexOptions.ECMAScript);
        foreach (string value in values)
        {
            Dictionary<string, string> fields = new() { ["name"] = "\"g\"", ["memory"] = "\"64MiB\"" };
            fields[field] = JsonSerializer.Serialize(value);
            string json = string.Join(",", fields.Select(f => $"\"{f.Key}\":{f.Value}"));

            // $ in .NET also stands before a last line end; in JSON Schema it does not.
            bool schemaTakes = pattern.IsMatch(value) && !value.EndsWith('\n');
            Assert.True(schemaTakes == Takes("{" + json + "}"), $"{field}: \"{value}\"");
        }
    }

    [Theory]
    [InlineData("127.0.0.1:0", true)]
    [InlineData("[::1]:5901", true)]
    [InlineData("localhost:0", false)]
    [InlineData("127.0.0.1", false)]
    [InlineData("127.0.0.1:123456", false)]
    [InlineData("1.2.3.4,sasl=on:0", false)]
    public void ListenAgrees(string value, bool takes)
    {
        Assert.Equal(takes, Regex.IsMatch(value, Listen.GetProperty("pattern").GetString()!));
        Assert.Equal(takes, Takes(string.Create(
            CultureInfo.InvariantCulture,
            $"{{\"name\":\"g\",\"memory\":\"64MiB\",\"display\":{{\"type\":\"vnc\",\"listen\":\"{value}\"}}}}")));
    }

    [Fact]
    public void ChoicesAndBoundsAgree()
    {
        foreach (JsonElement choice in Field("accelerator").GetProperty("enum").EnumerateArray())
        {
            Assert.True(Takes($"{{\"name\":\"g\",\"memory\":\"64MiB\",\"accelerator\":{choice.GetRawText()}}}"));
        }

        foreach (JsonElement choice in Field("display").GetProperty("properties").GetProperty("type").GetProperty("enum").EnumerateArray())
        {
            Assert.True(Takes($"{{\"name\":\"g\",\"memory\":\"64MiB\",\"display\":{{\"type\":{choice.GetRawText()}}}}}"));
        }

        foreach (string field in (string[])["vcpus", "memory"])
        {
            long step = field == "memory" ? 1 << 20 : 1;
            foreach ((string bound, int outside) in ((string, int)[])[("minimum", -1), ("maximum", 1)])
            {
                long value = Field(field).GetProperty(bound).GetInt64();
                string other = field == "memory" ? "" : "\"memory\":\"64MiB\",";
                Assert.True(Takes($"{{\"name\":\"g\",{other}\"{field}\":{value}}}"), $"{field} {value}");
                Assert.False(Takes($"{{\"name\":\"g\",{other}\"{field}\":{value + (outside * step)}}}"), $"{field} beyond {value}");
            }
        }
    }

    private static JsonElement Listen => Field("display").GetProperty("properties").GetProperty("listen");

    private static JsonElement Field(string name) => Schema.GetProperty("properties").GetProperty(name);

    private static string Sample(string field) => Field(field).GetProperty("examples")[0].GetRawText();

    private static IEnumerable<string> Names(JsonElement properties) => properties.EnumerateObject().Select(p => p.Name).Order();

    private static bool Takes(string json)
    {
        try
        {
            GuestDefinitionReaderTests.Parse(json);
            return true;
        }
        catch (GuestDefinitionException)
        {
            return false;
        }
    }
}
