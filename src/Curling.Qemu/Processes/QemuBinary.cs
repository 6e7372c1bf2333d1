using System.Text.Json;
using Curling.Linux.Processes;
using Curling.Qemu.Monitor;

namespace Curling.Qemu.Processes;

/// <summary>What a QEMU on this host can do.</summary>
/// <param name="Version">Its version, such as <c>7.2.22</c>.</param>
/// <param name="Machines">Machine types it knows; aliases lead to the versioned name.</param>
public sealed record QemuFacts(Version Version, IReadOnlyDictionary<string, string> Machines)
{
    /// <summary>The versioned name of a machine type.</summary>
    /// <exception cref="QemuException">This QEMU does not know it.</exception>
    public string ResolveMachine(string machine) => Machines.TryGetValue(machine, out string? versioned)
        ? versioned
        : throw new QemuException(
            $"QEMU {Version} here does not know the machine type {machine}; install a QEMU at least as new as the other host's");
}

/// <summary>Finds QEMU and asks what it can do. Stateless.</summary>
public static class QemuBinary
{
    /// <summary>The oldest QEMU that Curling works with.</summary>
    public static readonly Version Oldest = new(7, 2);

    private static readonly TimeSpan ProbeLimit = TimeSpan.FromSeconds(60);

    /// <summary>Finds QEMU: the one given, else <c>CURLING_QEMU</c>, else <c>qemu-system-x86_64</c> on PATH.</summary>
    /// <exception cref="QemuException">There is none.</exception>
    public static string Find(string? given)
    {
        string? wanted = given ?? Environment.GetEnvironmentVariable("CURLING_QEMU");
        string name = string.IsNullOrEmpty(wanted) ? "qemu-system-x86_64" : wanted;
        return ChildProcess.Find(name) ?? throw new QemuException(
            $"QEMU was not found ({name}); install the package qemu-system-x86, or say where it is with --qemu PATH");
    }

    /// <summary>Whether this process may use KVM.</summary>
    public static bool KvmUsable()
    {
        try
        {
            File.OpenHandle("/dev/kvm", FileMode.Open, FileAccess.ReadWrite).Dispose();
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>The accelerator to use: what is asked for if it works, and for <c>auto</c> KVM where it is usable.</summary>
    /// <exception cref="QemuException">KVM is asked for and not usable.</exception>
    public static string ChooseAccelerator(string wanted) => wanted switch
    {
        "auto" => KvmUsable() ? "kvm" : "tcg",
        "kvm" when !KvmUsable() => throw new QemuException(
            "KVM is not usable here: /dev/kvm cannot be opened for reading and writing; load the kvm module, or give this user access"),
        _ => wanted,
    };

    /// <summary>Starts QEMU without a machine and asks for its version and machine types.</summary>
    /// <param name="binary">The program.</param>
    /// <param name="directory">A directory for a socket.</param>
    /// <param name="cancellation">Ends the attempt.</param>
    /// <exception cref="QemuException">It does not start, is not QEMU, or is too old.</exception>
    public static async Task<QemuFacts> ProbeAsync(string binary, string directory, CancellationToken cancellation)
    {
        string socket = Path.Combine(directory, $"probe-{Guid.NewGuid():N}"[..14] + ".sock");
        await using ChildProcess child = StartChild(new ChildProcessOptions(
            binary,
            ["-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
                "-chardev", $"socket,id=q,path={socket.Replace(",", ",,")},server=on,wait=off", "-mon", "chardev=q,mode=control"]));
        try
        {
            await using QmpClient qmp = await QmpClient.ConnectAsync(socket, ProbeLimit, child.Exited, cancellation);
            Version version = ReadVersion(await qmp.ExecuteAsync("query-version", cancellation: cancellation));
            if (version < Oldest)
            {
                throw new QemuException($"{binary} is QEMU {version}; Curling needs {Oldest} or newer, upgrade it or name another with --qemu PATH");
            }

            return new QemuFacts(version, ReadMachines(await qmp.ExecuteAsync("query-machines", cancellation: cancellation)));
        }
        catch (QmpException e) when (child.HasExited)
        {
            throw new QemuException($"{binary} ended before it could be asked anything: {child.ErrorTail}", e);
        }
        finally
        {
            File.Delete(socket);
        }
    }

    /// <summary>Reads what <c>query-version</c> returned.</summary>
    /// <exception cref="QemuException">It is not a version.</exception>
    internal static Version ReadVersion(JsonElement answer)
    {
        if (answer.ValueKind == JsonValueKind.Object && answer.TryGetProperty("qemu", out JsonElement qemu)
            && qemu.ValueKind == JsonValueKind.Object
            && Part(qemu, "major", out int major) && Part(qemu, "minor", out int minor) && Part(qemu, "micro", out int micro))
        {
            return new Version(major, minor, micro);
        }

        throw new QemuException("QEMU's answer to query-version names no version");
    }

    /// <summary>Starts a program, with a QEMU error when there is none.</summary>
    internal static ChildProcess StartChild(ChildProcessOptions options)
    {
        try
        {
            return ChildProcess.Start(options);
        }
        catch (FileNotFoundException e)
        {
            throw new QemuException($"QEMU cannot be started: {e.Message}", e);
        }
    }

    /// <summary>Reads what <c>query-machines</c> returned.</summary>
    /// <exception cref="QemuException">It is not a list of machine types.</exception>
    internal static Dictionary<string, string> ReadMachines(JsonElement answer)
    {
        Dictionary<string, string> machines = [];
        foreach (JsonElement machine in answer.ValueKind == JsonValueKind.Array ? answer.EnumerateArray() : default)
        {
            if (Text(machine, "name") is { } name)
            {
                machines[name] = name;
                if (Text(machine, "alias") is { } alias)
                {
                    machines[alias] = name;
                }
            }
        }

        return machines.Count > 0 ? machines : throw new QemuException("QEMU's answer to query-machines names no machine types");
    }

    private static bool Part(JsonElement version, string name, out int number)
    {
        number = -1;
        return version.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.Number
            && value.TryGetInt32(out number) && number >= 0;
    }

    private static string? Text(JsonElement item, string name) =>
        item.ValueKind == JsonValueKind.Object && item.TryGetProperty(name, out JsonElement value)
            && value.ValueKind == JsonValueKind.String ? value.GetString() : null;
}
