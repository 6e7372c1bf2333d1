using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Sockets;
using Curling.Hosting.Instances;
using Curling.Linux.Memory;

namespace Curling.Hosting.Tests;

/// <summary>What a dead daemon left is cleared away; what a living one has is not.</summary>
public sealed class InstanceDirectoryTests : IDisposable
{
    private readonly DirectoryInfo _directory = Directory.CreateTempSubdirectory("ci");

    public InstanceDirectoryTests()
    {
        // No other test class of this project reads these.
        Environment.SetEnvironmentVariable("CURLING_RUNTIME", Path.Combine(_directory.FullName, "run"));
        Environment.SetEnvironmentVariable("CURLING_SHM", Path.Combine(_directory.FullName, "shm"));
        Directory.CreateDirectory(Path.Combine(_directory.FullName, "shm"));

        // Large pages, also in a virtual machine in which they would gain nothing.
        MemoryPlace.FreeMemoryIsGivenBack = () => false;
    }

    public void Dispose()
    {
        Environment.SetEnvironmentVariable("CURLING_RUNTIME", null);
        Environment.SetEnvironmentVariable("CURLING_SHM", null);
        _directory.Delete(recursive: true);
    }

    [Fact]
    public void Directories_come_and_go_together()
    {
        InstanceDirectory mine = InstanceDirectory.Create("recv");
        Assert.True(Directory.Exists(mine.RuntimePath));
        Assert.True(Directory.Exists(mine.MemoryPath));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(mine.MemoryPath));
        File.WriteAllText(Path.Combine(mine.MemoryPath, "ram"), "x");
        mine.Dispose();
        Assert.False(Directory.Exists(mine.RuntimePath));
        Assert.False(Directory.Exists(mine.MemoryPath));
        mine.Dispose();
    }

    [Fact]
    public void Only_what_the_dead_left_is_removed()
    {
        using InstanceDirectory living = InstanceDirectory.Create("send");
        using InstanceDirectory dead = InstanceDirectory.Create("send");
        using InstanceDirectory reused = InstanceDirectory.Create("send");

        // A process number that is not taken, and our own number with another start: somebody else had it before.
        File.WriteAllText(Path.Combine(dead.RuntimePath, "owner"), "4194999 5");
        File.WriteAllText(Path.Combine(dead.MemoryPath, "owner"), "4194999 5");
        File.WriteAllText(Path.Combine(reused.RuntimePath, "owner"), $"{Environment.ProcessId} 5");
        string stale = Path.Combine(Path.GetDirectoryName(living.RuntimePath)!, "recv-old.sock");
        using (Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            socket.Bind(new UnixDomainSocketEndPoint(stale));
        }

        File.WriteAllText(Path.Combine(Path.GetDirectoryName(living.MemoryPath)!, "somebody-elses"), "");
        InstanceDirectory.RemoveAbandoned();
        Assert.True(Directory.Exists(living.RuntimePath));
        Assert.True(Directory.Exists(living.MemoryPath));
        Assert.False(Directory.Exists(dead.RuntimePath));
        Assert.False(Directory.Exists(dead.MemoryPath));
        Assert.False(Directory.Exists(reused.RuntimePath));
        Assert.True(Directory.Exists(reused.MemoryPath));
        Assert.False(File.Exists(stale));
        Assert.True(File.Exists(Path.Combine(Path.GetDirectoryName(living.MemoryPath)!, "somebody-elses")));
    }

    /// <summary>Several receivers start again at the same moment, each with a session of its own: nobody waits for another's turn.</summary>
    [Fact]
    public void What_was_left_is_adopted_by_exactly_one_and_never_overlooked()
    {
        const int Sessions = 40;
        for (int i = 0; i < Sessions; i++)
        {
            InstanceDirectory left = InstanceDirectory.Create("recv");
            File.WriteAllText(Path.Combine(left.MemoryPath, InstanceDirectory.KeepFile), $"session {i}");
            File.WriteAllText(Path.Combine(left.MemoryPath, "owner"), "4194999 5");
            left.Leave();
        }

        IReadOnlyList<string> kept = InstanceDirectory.Kept();
        Assert.Equal(Sessions, kept.Count);
        ConcurrentBag<InstanceDirectory> adopted = [];
        Parallel.ForEach(kept.Concat(kept), new ParallelOptions { MaxDegreeOfParallelism = 8 }, directory =>
        {
            if (InstanceDirectory.Adopt(directory, "recv") is { } mine)
            {
                adopted.Add(mine);
            }
        });
        Assert.Equal(Sessions, adopted.Count);
        Assert.Equal(Sessions, adopted.Select(a => File.ReadAllText(Path.Combine(a.MemoryPath, InstanceDirectory.KeepFile))).Distinct().Count());
        Assert.Empty(InstanceDirectory.Kept());
        foreach (InstanceDirectory mine in adopted)
        {
            mine.Dispose();
        }

        Assert.Empty(Directory.GetFileSystemEntries(MemoryPlace.All.Single()));
    }

    /// <summary>Without CURLING_SHM: where root may mount, in large pages; elsewhere in /dev/shm. Daemons come and go at the same time.</summary>
    [Fact]
    public void Memory_place_stays_while_something_is_in_it_whoever_leaves()
    {
        Environment.SetEnvironmentVariable("CURLING_SHM", null);
        using InstanceDirectory mine = InstanceDirectory.Create("recv");
        string place = Path.GetDirectoryName(mine.MemoryPath)!;
        Assert.Contains(place, MemoryPlace.All);
        Assert.True(place == "/dev/shm" || MemoryFilesystem.HasLargePages(place), $"{place} has no large pages");
        Parallel.For(0, 60, new ParallelOptions { MaxDegreeOfParallelism = 6 }, _ =>
        {
            using InstanceDirectory other = InstanceDirectory.Create("send");
            Assert.Equal(place, Path.GetDirectoryName(other.MemoryPath));
            File.WriteAllText(Path.Combine(other.MemoryPath, "ram"), "x");
        });
        Assert.True(File.Exists(Path.Combine(mine.MemoryPath, "owner")));
    }

    /// <summary>The last one to leave unmounts, the next one to come mounts: what comes in between is never hidden.</summary>
    [Fact]
    public void Memory_place_that_comes_and_goes_hides_nothing()
    {
        Environment.SetEnvironmentVariable("CURLING_SHM", null);
        const int Daemons = 4;
        using Barrier together = new(Daemons);
        ConcurrentBag<Exception> wrong = [];
        Thread[] threads = [.. Enumerable.Range(0, Daemons).Select(number => new Thread(() =>
        {
            for (int i = 0; i < 60; i++)
            {
                // All of them find the place unmounted, all of them leave at once; the last number comes a little late.
                together.SignalAndWait();
                Thread.SpinWait(number == Daemons - 1 ? i * 1000 : 0);
                try
                {
                    using InstanceDirectory mine = InstanceDirectory.Create("send");
                    string file = Path.Combine(mine.MemoryPath, "ram");
                    File.WriteAllText(file, $"{i}");
                    Thread.Sleep(1);
                    Assert.Equal($"{i}", File.ReadAllText(file));
                }
                catch (Exception e)
                {
                    wrong.Add(e);
                }
            }
        }))];
        Array.ForEach(threads, t => t.Start());
        Array.ForEach(threads, t => t.Join());
        Assert.Empty(wrong);
    }

    [SkippableFact]
    public void Memory_place_that_the_administrator_mounted_stays()
    {
        Environment.SetEnvironmentVariable("CURLING_SHM", null);
        string place;
        using (InstanceDirectory mine = InstanceDirectory.Create("recv"))
        {
            place = Path.GetDirectoryName(mine.MemoryPath)!;
        }

        Skip.If(place == "/dev/shm" || MemoryFilesystem.HasLargePages(place), "SKIPPED: no place of its own here, or others are in it");
        using (Process mount = Process.Start("mount", ["-t", "tmpfs", "-o", "huge=within_size", "administrator", place]))
        {
            mount.WaitForExit();
            Assert.Equal(0, mount.ExitCode);
        }

        try
        {
            using (InstanceDirectory mine = InstanceDirectory.Create("recv"))
            {
                Assert.Equal(place, Path.GetDirectoryName(mine.MemoryPath));
            }

            Assert.True(MemoryFilesystem.HasLargePages(place));
        }
        finally
        {
            Assert.True(MemoryFilesystem.Unmount(place));
        }
    }
}
