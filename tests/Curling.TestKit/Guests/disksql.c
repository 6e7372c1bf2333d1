/* The database of the disk tests (curling.disk=sqlite): bank transfers in SQLite on ext4, synchronous=EXTRA.

   Transaction N moves an amount between two of 64 accounts and inserts row N, with the text that asked for it, into "ledger": the
   sum over all accounts never changes, and the ledger has no gap. It is answered after COMMIT. DiskSqlCheck.cs checks the file from
   outside; from inside SQLite's own integrity check and the sum are asked every few seconds, with the caches dropped before.

   Settings: disksql.rate=TRANSACTIONS_PER_SECOND (those that nobody asks for), disksql.check=MILLISECONDS, disksql.wal=0 for
   journal_mode=DELETE instead of WAL. Service: TCP port 12. */
#include "disk.h"
#include <sqlite3.h>

enum { ACCOUNTS = 64, START = 1000 };

/* Debian's libsqlite3.a can load extensions. Nothing here does, and a static program cannot. */
void *dlopen(const char *name, int flags) { (void)name; (void)flags; return NULL; }
void *dlsym(void *library, const char *name) { (void)library; (void)name; return NULL; }
int dlclose(void *library) { (void)library; return -1; }
char *dlerror(void) { return NULL; }

static sqlite3 *db;
static uint64_t last;

static void must(int code, const char *what)
{
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) failed("%s: %s", what, sqlite3_errmsg(db));
}

static void run(const char *sql) { must(sqlite3_exec(db, sql, NULL, NULL, NULL), sql); }

static sqlite3_stmt *prepare(const char *sql)
{
    sqlite3_stmt *statement = NULL;
    must(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), sql);
    return statement;
}

static long long number(const char *sql)
{
    sqlite3_stmt *statement = prepare(sql);
    must(sqlite3_step(statement), sql);
    long long value = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

static void transfer(const char *text)
{
    static sqlite3_stmt *move, *insert;
    if (!move) {
        move = prepare("update account set balance = balance + ?2 where id = ?1");
        insert = prepare("insert into ledger (n, source, target, amount, text) values (?, ?, ?, ?, ?)");
    }
    uint64_t n = last + 1, chance = mix(n);
    int source = (int)(chance % ACCOUNTS), target = (int)(chance / ACCOUNTS % ACCOUNTS), amount = (int)(chance >> 32 & 1023);
    run("begin immediate");
    for (int side = 0; side < 2; side++) {
        sqlite3_bind_int(move, 1, side ? target : source);
        sqlite3_bind_int(move, 2, side ? amount : -amount);
        must(sqlite3_step(move), "update");
        sqlite3_reset(move);
    }
    sqlite3_bind_int64(insert, 1, (sqlite3_int64)n);
    sqlite3_bind_int(insert, 2, source);
    sqlite3_bind_int(insert, 3, target);
    sqlite3_bind_int(insert, 4, amount);
    sqlite3_bind_text(insert, 5, text, -1, SQLITE_TRANSIENT);
    must(sqlite3_step(insert), "insert");
    sqlite3_reset(insert);
    run("commit");
    last = n;
}

static void check(unsigned long times)
{
    int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
    if (fd < 0 || write(fd, "3", 1) != 1 || close(fd)) failed("drop_caches: %s", strerror(errno));
    run("pragma shrink_memory");
    sqlite3_stmt *statement = prepare("pragma integrity_check");
    must(sqlite3_step(statement), "integrity_check");
    const char *said = (const char *)sqlite3_column_text(statement, 0);
    if (!said || strcmp(said, "ok")) failed("integrity_check: %s", said ? said : "nothing");
    sqlite3_finalize(statement);
    long long sum = number("select sum(balance) from account"), rows = number("select count(*) from ledger"), top = number("select max(n) from ledger");
    if (sum != ACCOUNTS * START) failed("the sum of all accounts is %lld", sum);
    if (rows != (long long)last || (last && top != rows)) failed("the ledger has %lld rows up to %lld, this process remembers %llu", rows, top, (unsigned long long)last);
    say("check=%lu durable=%llu dropped consistent", times, (unsigned long long)last);
}

int main(void)
{
    program = "disk-sqlite";
    if (sqlite3_open("/disk/bank.db", &db)) failed("bank.db: %s", sqlite3_errmsg(db));
    run(setting("disksql.wal=", 1) ? "pragma journal_mode=wal" : "pragma journal_mode=delete");
    /* With a rollback journal FULL is not enough: its deletion commits, and the directory is synced after that with EXTRA only. */
    run("pragma synchronous=extra");
    run("begin immediate");
    run("create table if not exists account (id integer primary key, balance integer not null)");
    run("create table if not exists ledger (n integer primary key, source integer, target integer, amount integer, text text)");
    if (!number("select count(*) from account"))
        for (int i = 0; i < ACCOUNTS; i++) {
            char sql[80];
            snprintf(sql, sizeof sql, "insert into account values (%d, %d)", i, START);
            run(sql);
        }
    run("commit");
    last = (uint64_t)number("select coalesce(max(n), 0) from ledger");
    open_service(12);
    unsigned long rate = setting("disksql.rate=", 20), pause = setting("disksql.check=", 3000), checks = 0;
    double next_check = seconds() + (double)pause / 1000, next_transfer = seconds();
    say("ready durable=%llu", (unsigned long long)last);
    for (;;) {
        take_questions(next_transfer < next_check ? next_transfer : next_check);
        for (int i = 0; i < pending_count; i++) {
            transfer(pending[i].text);
            answer(i, last);
        }
        pending_count = 0;
        double now = seconds();
        if (now >= next_transfer) {
            transfer("");
            next_transfer = rate ? now + 1.0 / (double)rate : now + 1e9;
        }
        if (now >= next_check) {
            check(++checks);
            next_check = seconds() + (double)pause / 1000;
        }
    }
}
