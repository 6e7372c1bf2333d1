/* The writer of the disk tests (curling.disk=log): keeps a log on ext4 that says by itself whether it is whole.

   Record N is durable when log/ holds it and fsync has returned. Before it is written to the log, what belongs to N is done elsewhere
   and is durable too, so that whoever finds N in the log must find all of it:
     N % 2 == 0   slot N / 2 % 256 of "inplace" (1 KiB each) is rewritten through the page cache
     N % 3 == 0   slot N / 3 % 64 of "direct" (4 KiB each) is rewritten with O_DIRECT
     N % 10 == 0  files/N is made as files/N.tmp and renamed; files/(N - 200) is deleted
     N % 25 == 0  "replaced" is replaced by a new file
   The log consists of segments of about 256 KiB, named after their first record; the newest eight are kept.
   DiskLogCheck.cs checks all this from outside. From inside it is checked every few seconds: the page cache against what O_DIRECT
   reads, and both against what this process remembers; each second time with the caches dropped before.

   Settings: disklog.rate=RECORDS_PER_SECOND (those that nobody asks for), disklog.check=MILLISECONDS. Service: TCP port 11. */
#include "disk.h"
#include <dirent.h>

enum { SLOTS = 256, SLOT = 1024, DIRECT_SLOTS = 64, DIRECT = 4096, FILES = 200, SEGMENT = 256 * 1024, SEGMENTS = 8, HEAD = 48,
       MAX_RECORD = 64 * 1024 };
static const uint64_t MAGIC = 0x31474F4C4B534944u; /* "DISKLOG1" */

struct head { uint64_t magic, sequence, seed; uint32_t length, note; uint64_t run, hash; };

static uint64_t run, last, slots[SLOTS], directs[DIRECT_SLOTS], segments[SEGMENTS + 1], replaced;
static int segment_count, log_fd = -1, inplace_fd, direct_fd, files_fd, logs_fd, root_fd;
static off_t log_size;
static char *page, *other;

static void must(int right, const char *what)
{
    if (!right) failed("%s: %s", what, strerror(errno));
}

static uint64_t seed_of(uint64_t sequence) { return mix(sequence ^ mix(run)); }

/* Makes a record: so many bytes of payload, a multiple of eight, of which the first are the note. */
static size_t make(char *at, uint64_t sequence, uint32_t length, const char *note)
{
    uint64_t seed = seed_of(sequence);
    uint32_t noted = (uint32_t)strlen(note);
    struct head head = { MAGIC, sequence, seed, length, noted, run, 0 };
    memcpy(at, &head, HEAD);
    for (uint32_t i = 0; i < length; i += 8) {
        seed = mix(seed);
        memcpy(at + HEAD + i, &seed, 8);
    }
    memcpy(at + HEAD, note, noted);
    head.hash = hash(at, HEAD + length);
    memcpy(at, &head, HEAD);
    return HEAD + length;
}

/* The length of a whole record here, or 0. */
static size_t whole(char *at, size_t room, uint64_t *sequence)
{
    struct head head;
    if (room < HEAD) return 0;
    memcpy(&head, at, HEAD);
    if (head.magic != MAGIC || head.length % 8 || head.length > room - HEAD || head.note > head.length || head.run != run) return 0;
    uint64_t found = head.hash;
    head.hash = 0;
    memcpy(at, &head, HEAD);
    int right = hash(at, HEAD + head.length) == found;
    head.hash = found;
    memcpy(at, &head, HEAD);
    if (!right || head.seed != seed_of(head.sequence)) return 0;
    *sequence = head.sequence;
    return HEAD + head.length;
}

static void name_segment(char *name, uint64_t first) { sprintf(name, "%012llu.log", (unsigned long long)first); }

static void write_all(int fd, const char *bytes, size_t length, off_t at, const char *what)
{
    while (length) {
        ssize_t done = pwrite(fd, bytes, length, at);
        must(done > 0, what);
        bytes += done;
        at += done;
        length -= (size_t)done;
    }
}

static void write_slot(uint64_t n)
{
    make(page, n, SLOT - HEAD, "");
    write_all(inplace_fd, page, SLOT, (off_t)(n / 2 % SLOTS * SLOT), "inplace");
    must(!fdatasync(inplace_fd), "fdatasync inplace");
    slots[n / 2 % SLOTS] = n;
}

static void write_direct(uint64_t n)
{
    make(page, n, DIRECT - HEAD, "");
    write_all(direct_fd, page, DIRECT, (off_t)(n / 3 % DIRECT_SLOTS * DIRECT), "direct");
    must(!fdatasync(direct_fd), "fdatasync direct");
    directs[n / 3 % DIRECT_SLOTS] = n;
}

/* Makes a file under another name and gives it its own when it is durable. */
static void write_file(int directory, const char *name, uint64_t n)
{
    char temporary[64];
    size_t length = make(page, n, (uint32_t)(seed_of(n) % 2500) * 8, "");
    snprintf(temporary, sizeof temporary, "%s.tmp", name);
    int fd = openat(directory, temporary, O_CREAT | O_TRUNC | O_WRONLY, 0644);
    must(fd >= 0, temporary);
    write_all(fd, page, length, 0, temporary);
    must(!fsync(fd) && !close(fd), "fsync of a file");
    must(!renameat(directory, temporary, directory, name), "rename");
}

static void do_before(uint64_t n)
{
    char name[32];
    if (n % 2 == 0) write_slot(n);
    if (n % 3 == 0) write_direct(n);
    if (n % 10 == 0) {
        sprintf(name, "%llu", (unsigned long long)n);
        write_file(files_fd, name, n);
        sprintf(name, "%llu", (unsigned long long)n - FILES);
        if (n > FILES) must(!unlinkat(files_fd, name, 0), "unlink");
        must(!fsync(files_fd), "fsync of a directory");
    }
    if (n % 25 == 0) {
        write_file(root_fd, "replaced", n);
        must(!fsync(root_fd), "fsync of the root directory");
        replaced = n;
    }
}

static void begin_segment(uint64_t first)
{
    char name[32], temporary[48];
    if (log_fd >= 0) close(log_fd);
    name_segment(name, first);
    sprintf(temporary, "%s.tmp", name);
    log_fd = openat(logs_fd, temporary, O_CREAT | O_TRUNC | O_RDWR, 0644);
    must(log_fd >= 0 && !fsync(log_fd) && !renameat(logs_fd, temporary, logs_fd, name), "new segment");
    log_size = 0;
    segments[segment_count++] = first;
    if (segment_count > SEGMENTS) {
        name_segment(name, segments[0]);
        must(!unlinkat(logs_fd, name, 0), "unlink of a segment");
        memmove(segments, segments + 1, (size_t)--segment_count * sizeof *segments);
    }
    must(!fsync(logs_fd), "fsync of the log's directory");
}

/* One record for each question, or one that nobody asked for; then the answers. */
static void append(void)
{
    static char batch[(MAX_PENDING + 1) * (MAX_LINE + HEAD + 4096)];
    size_t length = 0;
    int count = pending_count ? pending_count : 1;
    for (int i = 0; i < count; i++) do_before(last + 1 + (uint64_t)i);
    if (log_size > SEGMENT) begin_segment(last + 1);
    for (int i = 0; i < count; i++) {
        uint64_t n = last + 1 + (uint64_t)i;
        const char *note = pending_count ? pending[i].text : "";
        length += make(batch + length, n, (uint32_t)((strlen(note) + 7) / 8 * 8 + seed_of(n) % 400 * 8), note);
    }
    write_all(log_fd, batch, length, log_size, "log");
    must(!fsync(log_fd), "fsync of the log");
    log_size += (off_t)length;
    last += (uint64_t)count;
    for (int i = 0; i < pending_count; i++) answer(i, last - (uint64_t)count + 1 + (uint64_t)i);
    pending_count = 0;
}

/* Reads a file through the page cache and with O_DIRECT, fails unless both are the same; leaves it in page. */
static size_t read_twice(int directory, const char *name)
{
    size_t lengths[2] = { 0, 0 };
    for (int direct = 0; direct < 2; direct++) {
        int fd = openat(directory, name, O_RDONLY | (direct ? O_DIRECT : 0));
        must(fd >= 0, name);
        for (ssize_t got; (got = read(fd, (direct ? other : page) + lengths[direct], SEGMENT + MAX_RECORD - lengths[direct])) != 0;) {
            must(got > 0, name);
            lengths[direct] += (size_t)got;
            if (direct && got % 512) break;
        }
        close(fd);
    }
    if (lengths[0] != lengths[1]) failed("%s has %zu bytes in the page cache and %zu on the disk", name, lengths[0], lengths[1]);
    for (size_t i = 0; i < lengths[0]; i++)
        if (page[i] != other[i]) failed("%s: the page cache and the disk differ at byte %zu of %zu", name, i, lengths[0]);
    return lengths[0];
}

static void expect(char *at, size_t room, uint64_t n, const char *where)
{
    uint64_t found = 0;
    if (!whole(at, room, &found) || found != n)
        failed("%s holds record %llu, this process remembers %llu", where, (unsigned long long)found, (unsigned long long)n);
}

static void check(unsigned long number)
{
    char name[64];
    if (number % 2 == 0) {
        int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
        must(fd >= 0 && write(fd, "3", 1) == 1 && !close(fd), "drop_caches");
    }
    uint64_t next = segments[0];
    for (int s = 0; s < segment_count; s++) {
        name_segment(name, segments[s]);
        size_t length = read_twice(logs_fd, name), at = 0, step;
        if (next != segments[s]) failed("%s follows record %llu", name, (unsigned long long)next - 1);
        for (uint64_t found; at < length; at += step) {
            step = whole(page + at, length - at, &found);
            if (!step || found != next++) failed("%s: no record %llu at byte %zu", name, (unsigned long long)next, at);
        }
        if (s == segment_count - 1 && (off_t)length != log_size) failed("%s has %zu bytes, %ld were written", name, length, (long)log_size);
    }
    if (next != last + 1) failed("the log ends at %llu, this process remembers %llu", (unsigned long long)next - 1, (unsigned long long)last);
    size_t length = read_twice(root_fd, "inplace");
    for (size_t i = 0; i < SLOTS; i++) if (slots[i]) expect(page + i * SLOT, length - i * SLOT, slots[i], "a slot of inplace");
    length = read_twice(root_fd, "direct");
    for (size_t i = 0; i < DIRECT_SLOTS; i++) if (directs[i]) expect(page + i * DIRECT, length - i * DIRECT, directs[i], "a slot of direct");
    for (uint64_t n = last / 10 * 10; n > 0 && n + FILES > last / 10 * 10; n -= 10) {
        sprintf(name, "%llu", (unsigned long long)n);
        expect(page, read_twice(files_fd, name), n, name);
    }
    if (replaced) expect(page, read_twice(root_fd, "replaced"), replaced, "replaced");
    say("check=%lu durable=%llu %s", number, (unsigned long long)last, number % 2 ? "cached consistent" : "dropped consistent");
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* What was done for records that never came into the log is undone. */
static void recover(void)
{
    uint64_t all[SEGMENTS + 2];
    char name[64];
    int count = 0;
    DIR *directory = fdopendir(dup(logs_fd));
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (strstr(entry->d_name, ".tmp")) { must(!unlinkat(logs_fd, entry->d_name, 0), "unlink"); continue; }
        if (!strstr(entry->d_name, ".log")) continue;
        if (count == SEGMENTS + 2) failed("there are too many segments");
        all[count++] = strtoull(entry->d_name, NULL, 10);
    }
    closedir(directory);
    qsort(all, (size_t)count, sizeof *all, by_number);
    for (int i = count > SEGMENTS ? count - SEGMENTS : 0; i < count; i++) segments[segment_count++] = all[i];
    for (int i = 0; i < count - SEGMENTS; i++) { name_segment(name, all[i]); must(!unlinkat(logs_fd, name, 0), "unlink"); }
    last = segments[segment_count - 1] - 1;
    name_segment(name, last + 1);
    log_fd = openat(logs_fd, name, O_RDWR);
    must(log_fd >= 0, name);
    size_t length = read_twice(logs_fd, name), step;
    for (uint64_t found; (step = whole(page + log_size, length - (size_t)log_size, &found)) && found == last + 1; log_size += (off_t)step) last++;
    must(!ftruncate(log_fd, log_size) && !fsync(log_fd), "truncate");
    for (uint64_t n = last + 1; n <= last + MAX_PENDING; n++) {
        if (n % 2 == 0 && n > 2 * SLOTS) write_slot(n - 2 * SLOTS);
        if (n % 3 == 0 && n > 3 * DIRECT_SLOTS) write_direct(n - 3 * DIRECT_SLOTS);
        if (n % 10 == 0) {
            sprintf(name, "%llu", (unsigned long long)n);
            unlinkat(files_fd, name, 0);
            if (n > FILES) {
                sprintf(name, "%llu", (unsigned long long)n - FILES);
                write_file(files_fd, name, n - FILES);
            }
        }
    }
    for (uint64_t n = last > 2 * SLOTS ? last - 2 * SLOTS + 1 : 1; n <= last; n++) if (n % 2 == 0) slots[n / 2 % SLOTS] = n;
    for (uint64_t n = last > 3 * DIRECT_SLOTS ? last - 3 * DIRECT_SLOTS + 1 : 1; n <= last; n++) if (n % 3 == 0) directs[n / 3 % DIRECT_SLOTS] = n;
    if (last >= 25) write_file(root_fd, "replaced", replaced = last / 25 * 25);
    say("recovered durable=%llu", (unsigned long long)last);
}

int main(void)
{
    program = "disk-log";
    page = aligned_alloc(4096, SEGMENT + MAX_RECORD);
    other = aligned_alloc(4096, SEGMENT + MAX_RECORD);
    root_fd = open("/disk", O_RDONLY | O_DIRECTORY);
    must(root_fd >= 0, "/disk");
    mkdirat(root_fd, "files", 0755);
    mkdirat(root_fd, "log", 0755);
    files_fd = openat(root_fd, "files", O_RDONLY | O_DIRECTORY);
    logs_fd = openat(root_fd, "log", O_RDONLY | O_DIRECTORY);
    inplace_fd = openat(root_fd, "inplace", O_CREAT | O_RDWR, 0644);
    direct_fd = openat(root_fd, "direct", O_CREAT | O_RDWR | O_DIRECT, 0644);
    must(files_fd >= 0 && logs_fd >= 0 && inplace_fd >= 0 && direct_fd >= 0, "the log's files");
    int fd = openat(root_fd, "run", O_RDONLY);
    if (fd >= 0) {
        must(read(fd, &run, sizeof run) == sizeof run, "run");
        close(fd);
        recover();
    } else {
        must(getrandom(&run, sizeof run, 0) == sizeof run, "getrandom");
        must(!ftruncate(inplace_fd, SLOTS * SLOT) && !fsync(inplace_fd), "inplace");
        must(!ftruncate(direct_fd, DIRECT_SLOTS * DIRECT) && !fsync(direct_fd), "direct");
        begin_segment(1);
        /* Who finds this file finds all else. */
        fd = openat(root_fd, "run.tmp", O_CREAT | O_TRUNC | O_WRONLY, 0644);
        must(fd >= 0 && write(fd, &run, sizeof run) == sizeof run && !fsync(fd) && !close(fd), "run");
        must(!renameat(root_fd, "run.tmp", root_fd, "run") && !fsync(root_fd), "run");
    }
    open_service(11);
    unsigned long rate = setting("disklog.rate=", 50), pause = setting("disklog.check=", 2000), checks = 0;
    double next_check = seconds(), next_record = next_check;
    say("ready durable=%llu", (unsigned long long)last);
    for (;;) {
        take_questions(next_record < next_check ? next_record : next_check);
        double now = seconds();
        if (pending_count || now >= next_record) {
            append();
            if (now >= next_record) next_record = rate ? now + 1.0 / (double)rate : now + 1e9;
        }
        if (now >= next_check) {
            check(++checks);
            next_check = seconds() + (double)pause / 1000;
        }
    }
}
