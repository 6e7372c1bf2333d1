using System.Diagnostics;
using System.Globalization;
using System.Text;
using Curling.TestKit.Daemons;
using Curling.TestKit.Guests;
using Curling.TestKit.Network;
using Xunit.Abstractions;

namespace Curling.EndToEnd.Tests.Matrix;

/// <summary>
/// Who is hit, how, and when, on real QEMU with a real etcd: what must come of it stands in <see cref="MatrixCell.Expected"/> and
/// docs/failure-matrix.md. Never two active guests, one consistent life, nothing older than the last round known committed.
/// </summary>
/// <remarks>
/// A few cells run always. <c>CURLING_MATRIX=all</c> runs them all (eng/matrix), or those whose names hold that text; <c>CURLING_MATRIX_LOG</c> is
/// the file that gets a line for each.
/// </remarks>
public sealed class FailureMatrixTests(ITestOutputHelper output)
{
    /// <summary>Each subject, deed and moment at least once.</summary>
    public static TheoryData<Subject, Deed, Moment> Sample => new()
    {
        { Subject.Sender, Deed.Kill, Moment.Cut },
        { Subject.Sender, Deed.Stop, Moment.BetweenRounds },
        { Subject.Primary, Deed.Kill, Moment.PreCopy },
        { Subject.Receiver, Deed.Kill, Moment.Sending },
        { Subject.Standby, Deed.Kill, Moment.Committing },
        { Subject.Link, Deed.Reset, Moment.BaseRound },
        { Subject.Link, Deed.Drop, Moment.Cut },
        { Subject.Arbiter, Deed.Kill, Moment.PreCopy },
        { Subject.Arbiter, Deed.Reset, Moment.Promotion },
    };

    [SkippableTheory]
    [MemberData(nameof(Sample))]
    public Task Cell(Subject subject, Deed deed, Moment moment) => MatrixRun.RunAsync(new MatrixCell(subject, deed, moment), output);

    [SkippableFact]
    public async Task Whole_matrix()
    {
        string? wanted = Environment.GetEnvironmentVariable("CURLING_MATRIX");
        Skip.If(string.IsNullOrEmpty(wanted), "the whole failure matrix is run by eng/matrix");
        string? log = Environment.GetEnvironmentVariable("CURLING_MATRIX_LOG");
        MatrixCell[] cells = [.. MatrixCell.All.Where(c => wanted == "all" || c.ToString().Contains(wanted, StringComparison.OrdinalIgnoreCase))];
        int failed = 0;
        foreach (MatrixCell cell in cells)
        {
            long start = Stopwatch.GetTimestamp();
            Said said = new();
            Exception? problem = await Record.ExceptionAsync(() => MatrixRun.RunAsync(cell, said));
            failed += problem is null ? 0 : 1;
            string what = problem is null ? "" : $"\n        {problem.GetType().Name}: {problem.Message.ReplaceLineEndings("\n        ")}";
            Tell(log, string.Create(
                CultureInfo.InvariantCulture,
                $"{(problem is null ? "passed" : "FAILED")}  {cell,-32} {Stopwatch.GetElapsedTime(start).TotalSeconds,5:F1} s  {cell.Expected}{what}"));
            if (problem is not null && log is not null)
            {
                await File.AppendAllTextAsync(log + ".details", $"==== {cell}\n{problem}\n{said}\n");
            }
        }

        Tell(log, string.Create(CultureInfo.InvariantCulture, $"{cells.Length - failed} passed, {failed} failed"));
        Assert.True(failed == 0, $"{failed} of {cells.Length} cells failed");
    }

    /// <summary>The watch over the cells would see it: without an arbiter a link that is cut makes two copies run.</summary>
    [SkippableFact]
    public async Task Two_copies_that_run_at_once_are_noticed()
    {
        await using Lab lab = new(output, TestGuests.Qemu("7.2"));
        Receiver receiver = await lab.StartReceiverAsync("--failure-timeout", "500ms");
        await using CuttableLink link = new(receiver.Port);
        Sender sender = lab.StartSender(link.Endpoint, TestGuests.WriteBuiltin(lab.Directory, "twice"), "--failure-timeout", "500ms");
        await using LifeWatch watch = new(sender, receiver, "twice");
        await sender.UntilFreshRoundAsync();
        await sender.UntilAsync(() => watch is { Session: not null, Printed.Primary: > 0 }, "both are watched");
        Assert.Null(watch.Violation);
        link.Cut();
        await sender.UntilAsync(() => watch.Violation is not null, "two active guests are noticed");
    }

    /// <summary>The documentation shows what is checked: run with CURLING_MATRIX_WRITE=1 to write it anew.</summary>
    [Fact]
    public void Documentation_says_what_is_checked()
    {
        string directory = AppContext.BaseDirectory;
        while (!File.Exists(Path.Combine(directory, "Curling.sln")))
        {
            directory = Path.GetDirectoryName(directory)!;
        }

        string path = Path.Combine(directory, "docs", "failure-matrix.md");
        string text = File.ReadAllText(path);
        int begin = text.IndexOf("| who |", StringComparison.Ordinal);
        Assert.True(begin > 0, "the table is missing");
        if (Environment.GetEnvironmentVariable("CURLING_MATRIX_WRITE") == "1")
        {
            File.WriteAllText(path, text[..begin] + Table());
        }
        else
        {
            Assert.Equal(Table(), text[begin..]);
        }
    }

    private static string Table()
    {
        StringBuilder table = new("| who | how | when | the guest at the end, exit codes |\n|---|---|---|---|\n");
        foreach (var cells in MatrixCell.All.GroupBy(c => (c.Subject, c.Deed)))
        {
            foreach (var alike in cells.GroupBy(c => c.Expected.ToString()))
            {
                string moments = alike.Count() == Enum.GetValues<Moment>().Length ? "always" : string.Join(", ", alike.Select(c => Words(c.Moment)));
                table.Append(CultureInfo.InvariantCulture, $"| {Words(cells.Key.Subject)} | {Words(cells.Key.Deed)} | {moments} | {alike.Key} |\n");
            }
        }

        return table.ToString();
    }

    private static string Words(Subject subject) => subject switch
    {
        Subject.Sender => "sender",
        Subject.Primary => "primary's QEMU",
        Subject.Receiver => "receiver",
        Subject.Standby => "standby's QEMU",
        Subject.Link => "link",
        _ => "arbiter",
    };

    private static string Words(Deed deed) => deed switch
    {
        Deed.Kill => "SIGKILL",
        Deed.Stop => "SIGSTOP for 5 s",
        Deed.Reset => "connections reset",
        _ => "silent drop for 5 s",
    };

    private static string Words(Moment moment) => moment switch
    {
        Moment.BaseRound => "base round",
        Moment.BetweenRounds => "between rounds",
        Moment.PreCopy => "pre-copy",
        Moment.Cut => "during the cut",
        Moment.Sending => "while sending",
        Moment.Committing => "while committing",
        _ => "during promotion",
    };

    private void Tell(string? log, string line)
    {
        output.WriteLine(line);
        if (log is not null)
        {
            File.AppendAllText(log, line + "\n");
        }
    }

    /// <summary>Keeps what a cell's lab says, for when it fails.</summary>
    private sealed class Said : ITestOutputHelper
    {
        private readonly StringBuilder _text = new();

        public void WriteLine(string message) => _text.AppendLine(message);

        public void WriteLine(string format, params object[] args) => _text.AppendLine(string.Format(CultureInfo.InvariantCulture, format, args));

        public override string ToString() => _text.ToString();
    }
}
