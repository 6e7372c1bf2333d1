using System.Globalization;

namespace Curling.TestKit.Disks;

/// <summary>Checks the database that the guest's SQLite writer (<c>curling.disk=sqlite</c>, <c>Guests/disksql.c</c>) left, with SQLite's own shell.</summary>
public static class DiskSqlCheck
{
    private const string Accounts = "64";
    private const string Sum = "64000";

    /// <summary>Checks the database among the files of a filesystem, taken out of it by <see cref="Ext4Image.ExtractAsync"/>.</summary>
    /// <exception cref="DiskDamageException">Something is not as it must be.</exception>
    public static async Task<DiskContent> CheckAsync(string directory)
    {
        string path = Path.Combine(directory, "bank.db");
        if (!File.Exists(path))
        {
            throw new DiskDamageException("there is no bank.db on this filesystem");
        }

        // What is not committed in the log or the journal beside it, SQLite rolls back here as it would in the guest.
        string integrity = await AskAsync(path, "pragma integrity_check");
        if (integrity != "ok")
        {
            throw new DiskDamageException($"bank.db: integrity_check says {integrity}");
        }

        string accounts = await AskAsync(path, "select count(*), sum(balance) from account");
        if (accounts != $"{Accounts}|{Sum}")
        {
            throw new DiskDamageException($"bank.db has {accounts} accounts and money, instead of {Accounts}|{Sum}");
        }

        string wrong = await AskAsync(
            path,
            "select id, balance from account a where balance != 1000 + (select coalesce(sum(amount), 0) from ledger where target = a.id)"
            + " - (select coalesce(sum(amount), 0) from ledger where source = a.id)");
        if (wrong.Length > 0)
        {
            throw new DiskDamageException($"bank.db: these accounts do not agree with the ledger: {wrong.Replace('\n', ' ')}");
        }

        Dictionary<long, string> notes = [];
        foreach (string row in (await AskAsync(path, "select n, text from ledger order by n")).Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            int bar = row.IndexOf('|', StringComparison.Ordinal);
            long n = long.Parse(row.AsSpan(0, bar), CultureInfo.InvariantCulture);
            if (n != notes.Count + 1)
            {
                throw new DiskDamageException($"bank.db: transaction {notes.Count + 1} is missing in the ledger, {n} is there");
            }

            notes[n] = row[(bar + 1)..];
        }

        return new DiskContent(1, notes.Count, notes);
    }

    private static async Task<string> AskAsync(string path, string sql)
    {
        (int code, string output) = await DiskTool.RunAsync("sqlite3", "-batch", path, sql);
        return code == 0 ? output : throw new DiskDamageException($"bank.db: {sql}: {output}");
    }
}
