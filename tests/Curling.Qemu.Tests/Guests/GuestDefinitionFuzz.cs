using System.Text;
using CsCheck;
using Curling.Qemu.Guests;

namespace Curling.Qemu.Tests.Guests;

public class GuestDefinitionFuzz
{
    private const string Good =
        """
        {"$schema":"s","name":"web-1","machine":"q35","accelerator":"auto","cpu":"qemu64","vcpus":2,"memory":"512MiB","kernel":"k",
        "initrd":"i","append":"a b","serial":true,"display":{"type":"vnc","listen":"127.0.0.1:0"},"disks":[],"networks":[]}
        """;

    private static readonly Gen<string> Word = Gen.String["abcXYZ019._-"];

    private static readonly Gen<string> Text = Gen.Char.Where(c => !char.IsControl(c) && !char.IsSurrogate(c)).Array[1, 40]
        .Select(c => new string(c));

    private static readonly Gen<GuestDefinition> Guests =
        from name in Word.Where(w => w.Length is > 0 and < 60)
        from machine in Pick("q35", "pc", "pc-q35-7.2", "pc-i440fx-10.0")
        from vcpus in Gen.Int[1, 255]
        from mib in Gen.Long[1, 1 << 24]
        from kernel in Text
        from append in Text
        from kind in Gen.Int[0, 3]
        from display in Pick<DisplayDefinition?>(null, new("vnc", "127.0.0.1:0"), new("spice", "[::1]:5930"))
        select new GuestDefinition
        {
            Name = "g" + name,
            Machine = machine,
            Vcpus = vcpus,
            MemoryBytes = mib << 20,
            Kernel = kind == 1 ? kernel : null,
            Firmware = kind == 2 ? kernel : null,
            Append = kind == 3 ? null : append,
            Serial = kind == 0,
            Display = display,
        };

    [Fact]
    public void WhatIsWrittenReadsBack() => Guests.Sample(guest =>
    {
        byte[] json = GuestDefinitionReader.Serialize(guest);
        GuestDefinition read = GuestDefinitionReader.Parse(json, "wire", null);
        Assert.Equal(guest, read);
        Assert.Equal(json, GuestDefinitionReader.Serialize(read));
    });

    [Fact]
    public void AnyBytesGiveADefinitionOrANamedError() => Gen.Byte.Array[0, 300].Sample(Try);

    [Fact]
    public void ADamagedDefinitionGivesADefinitionOrANamedError()
    {
        byte[] good = Encoding.UTF8.GetBytes(Good);
        Gen.Select(Gen.Int[0, good.Length - 1], Gen.Byte, Gen.Int[0, 20]).Array[1, 4].Sample(
            damages =>
            {
                List<byte> bytes = [.. good];
                foreach ((int at, byte value, int cut) in damages)
                {
                    int place = Math.Min(at, bytes.Count - 1);
                    bytes[place] = value;
                    bytes.RemoveRange(place, Math.Min(cut / 4, bytes.Count - place - 1));
                }

                Try([.. bytes]);
            },
            iter: 5000);
    }

    private static Gen<T> Pick<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(i => values[i]);

    private static void Try(byte[] bytes)
    {
        try
        {
            GuestDefinition guest = GuestDefinitionReader.Parse(bytes, "fuzz", "/base");
            Assert.InRange(guest.MemoryBytes, 1 << 20, 16L << 40);
            Assert.InRange(guest.Vcpus, 1, 255);
            GuestDefinitionReader.Parse(GuestDefinitionReader.Serialize(guest), "again", null);
        }
        catch (GuestDefinitionException e)
        {
            Assert.StartsWith("fuzz: ", e.Message, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', e.Message);
        }
    }
}
