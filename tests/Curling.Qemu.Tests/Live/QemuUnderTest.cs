using Curling.Linux.Memory;
using Curling.Qemu.BuiltinGuest;
using Curling.Qemu.Guests;
using Curling.Qemu.Processes;
using Microsoft.Extensions.Logging.Abstractions;

namespace Curling.Qemu.Tests.Live;

/// <summary>Real QEMUs, one test at a time: they share the machine's processors.</summary>
[CollectionDefinition(Name, DisableParallelization = true)]
public class LiveCollection
{
    public const string Name = "live";
}

/// <summary>The QEMUs that the tests run with, and how to start one with the built-in guest.</summary>
internal static class QemuUnderTest
{
    public static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);

    /// <summary>A QEMU of the wanted version, or a skipped test that says what is missing.</summary>
    public static string Require(string version)
    {
        string variable = "CURLING_QEMU_" + version.Replace('.', '_');
        string? binary = Environment.GetEnvironmentVariable(variable);
        if (string.IsNullOrEmpty(binary) && version == "7.2")
        {
            try
            {
                binary = QemuBinary.Find(null);
            }
            catch (QemuException)
            {
                // Skipped below.
            }
        }

        Skip.If(
            string.IsNullOrEmpty(binary) || !File.Exists(binary),
            $"NOT TESTED: there is no QEMU {version} here; run eng/install-deps test, or set {variable} to a qemu-system-x86_64");
        return binary!;
    }

    /// <summary>What starts the built-in guest in a directory, with its memory made.</summary>
    public static async Task<(QemuLaunch Launch, SharedMapping Memory)> PrepareAsync(
        string binary, TemporaryDirectory directory, Func<GuestDefinition, GuestDefinition>? change = null)
    {
        using CancellationTokenSource limit = new(Limit);
        QemuFacts facts = await QemuBinary.ProbeAsync(binary, directory.Path, limit.Token);
        string image = directory.File("guest.bin");
        await File.WriteAllBytesAsync(image, BuiltinGuestImage.Read(), limit.Token);
        GuestDefinition guest = BuiltinGuestImage.Define(image) with { Accelerator = "tcg" };
        guest = change is null ? guest : change(guest);
        SharedMapping memory = SharedMapping.Create(directory.File("ram"), guest.MemoryBytes);
        return (new QemuLaunch
        {
            Binary = binary,
            Definition = guest,
            MachineType = facts.ResolveMachine(guest.Machine),
            Accelerator = guest.Accelerator,
            Directory = directory.Path,
            MemoryPath = memory.Path,
        }, memory);
    }

    public static async Task<QemuProcess> StartAsync(QemuLaunch launch)
    {
        using CancellationTokenSource limit = new(Limit);
        return await QemuProcess.StartAsync(launch, NullLogger.Instance, limit.Token);
    }

    /// <summary>Waits until the guest has printed a line that satisfies; returns it.</summary>
    public static async Task<GuestLine> WaitForLineAsync(string serialLog, Func<GuestLine, bool> wanted)
    {
        using CancellationTokenSource limit = new(Limit);
        string text = "";
        try
        {
            while (true)
            {
                text = File.Exists(serialLog) ? await File.ReadAllTextAsync(serialLog, limit.Token) : "";
                foreach (string line in text.Split('\n').SkipLast(1))
                {
                    if (GuestLine.TryParse(line, out GuestLine read) && wanted(read))
                    {
                        return read;
                    }
                }

                await Task.Delay(10, limit.Token);
            }
        }
        catch (OperationCanceledException)
        {
            Assert.Fail($"the guest did not print what was waited for; the end of {serialLog}: {text[Math.Max(0, text.Length - 500)..]}");
            throw;
        }
    }
}
