/* Two programs of the disk tests that use the disk as it is, without a filesystem.

   curling.disk=raw: writes numbered blocks one after the other with O_DIRECT: write N goes to block mix(N) % blocks of the region, and each
   of its sectors says N, so that the disk is at all times exactly "all writes up to N and none after" (RawPatternCheck.cs).
   Settings: diskraw.rate=KIB_PER_SECOND (0 is as fast as it can), diskraw.at=MIB, diskraw.region=MIB, diskraw.block=KIB,
   diskraw.flush=WRITES between two flushes. Service: TCP port 13: a question is answered with the last write, after a flush.

   curling.disk=bench: does what it is asked for on TCP port 14, "read|write random|sequential BLOCK_KIB DEPTH OPERATIONS", with Linux's
   asynchronous I/O, and answers with the operations done. The one who asks takes the time: a guest's clock stands still when the guest does. */
#include "disk.h"
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <sys/syscall.h>

enum { SECTOR = 512, MAX_BLOCK = 1 << 20, MAX_DEPTH = 64 };
static const uint64_t MAGIC = 0x3157415244534944u; /* "DISDRAW1" */

static int disk;
static uint64_t disk_bytes;

static void fill(char *at, uint64_t n, uint64_t block, size_t length)
{
    for (size_t s = 0; s < length / SECTOR; s++) {
        uint64_t words[SECTOR / 8] = { MAGIC, n, block, s }, seed = mix(n ^ (s << 48));
        for (size_t i = 4; i < SECTOR / 8; i++) words[i] = seed = mix(seed);
        memcpy(at + s * SECTOR, words, SECTOR);
    }
}

static void raw(void)
{
    program = "disk-raw";
    uint64_t rate = setting("diskraw.rate=", 1024) * 1024, at = setting("diskraw.at=", 0) << 20, region = setting("diskraw.region=", 16) << 20;
    uint64_t block = setting("diskraw.block=", 4) * 1024, flush = setting("diskraw.flush=", 100), n = 0;
    if (block > MAX_BLOCK || block % SECTOR || at + region > disk_bytes || region < block) failed("the region is not on the disk");
    char *bytes = aligned_alloc(4096, MAX_BLOCK);
    open_service(13);
    say("ready blocks=%llu", (unsigned long long)(region / block));
    double next = seconds(), next_word = next;
    for (;;) {
        take_questions(next);
        double now = seconds();
        if (pending_count) {
            if (fdatasync(disk)) failed("flush: %s", strerror(errno));
            for (int i = 0; i < pending_count; i++) answer(i, n);
            pending_count = 0;
        }
        if (now >= next) {
            uint64_t where = mix(n + 1) % (region / block);
            fill(bytes, n + 1, where, block);
            if (pwrite(disk, bytes, block, (off_t)(at + where * block)) != (ssize_t)block) failed("write %llu: %s", (unsigned long long)n + 1, strerror(errno));
            n++;
            if (flush && n % flush == 0 && fdatasync(disk)) failed("flush: %s", strerror(errno));
            next = rate ? next + (double)block / (double)rate : now;
            if (next < now - 0.1) next = now;
        }
        if (now >= next_word) {
            say("written=%llu", (unsigned long long)n);
            next_word = now + 1;
        }
    }
}

/* Returns the operations done. */
static uint64_t operate(int writing, int random, size_t block, unsigned depth, uint64_t wanted)
{
    static aio_context_t context;
    static char *buffers[MAX_DEPTH];
    static struct iocb operations[MAX_DEPTH];
    static uint64_t chance;
    struct iocb *list[MAX_DEPTH];
    struct io_event events[MAX_DEPTH];
    if (!context && syscall(SYS_io_setup, MAX_DEPTH, &context)) failed("io_setup: %s", strerror(errno));
    uint64_t blocks = disk_bytes / block, begun = 0, done = 0;
    unsigned idle[MAX_DEPTH], idle_count = depth;
    for (unsigned i = 0; i < depth; i++) {
        if (!buffers[i]) {
            buffers[i] = aligned_alloc(4096, MAX_BLOCK);
            for (size_t s = 0; s < MAX_BLOCK; s += 8) { uint64_t word = mix(s ^ i); memcpy(buffers[i] + s, &word, 8); }
        }
        idle[i] = i;
    }
    while (done < wanted) {
        long count = 0;
        for (; idle_count && begun < wanted; begun++) {
            unsigned i = idle[--idle_count];
            uint64_t where = random ? mix(chance++) % blocks : begun % blocks;
            /* Never the same bytes twice: nobody may save himself the work of sending them. */
            memcpy(buffers[i], &chance, sizeof chance);
            chance++;
            operations[i] = (struct iocb){ .aio_data = i, .aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD, .aio_fildes = (uint32_t)disk,
                .aio_buf = (uint64_t)(uintptr_t)buffers[i], .aio_nbytes = block, .aio_offset = (int64_t)(where * block) };
            list[count++] = &operations[i];
        }
        for (long at = 0; at < count;) {
            long taken = syscall(SYS_io_submit, context, count - at, list + at);
            if (taken <= 0) failed("io_submit: %s", strerror(errno));
            at += taken;
        }
        long got = syscall(SYS_io_getevents, context, 1, MAX_DEPTH, events, NULL);
        if (got < 0 && errno != EINTR) failed("io_getevents: %s", strerror(errno));
        for (long i = 0; i < got; i++, done++) {
            if (events[i].res != (int64_t)block) failed("operation %llu: %lld", (unsigned long long)done, (long long)events[i].res);
            idle[idle_count++] = (unsigned)events[i].data;
        }
    }
    if (writing && fdatasync(disk)) failed("flush: %s", strerror(errno));
    return done;
}

static void bench(void)
{
    program = "disk-bench";
    open_service(14);
    say("ready bytes=%llu", (unsigned long long)disk_bytes);
    for (;;) {
        take_questions(seconds() + 60);
        for (int i = 0; i < pending_count; i++) {
            char direction[16], order[16];
            unsigned long kib, depth, count;
            int right = sscanf(pending[i].text, "%15s %15s %lu %lu %lu", direction, order, &kib, &depth, &count) == 5
                && kib >= 1 && kib <= MAX_BLOCK / 1024 && depth >= 1 && depth <= MAX_DEPTH && disk_bytes >= kib * 1024;
            if (!right) { say("not understood: %s", pending[i].text); answer(i, 0); continue; }
            say("begin %s", pending[i].text);
            uint64_t done = operate(!strcmp(direction, "write"), !strcmp(order, "random"), kib * 1024, (unsigned)depth, count);
            answer(i, done);
            say("end %s", pending[i].text);
        }
        pending_count = 0;
    }
}

int main(int count, char **arguments)
{
    disk = open("/dev/vda", O_RDWR | O_DIRECT);
    if (disk < 0 || ioctl(disk, BLKGETSIZE64, &disk_bytes)) failed("/dev/vda: %s", strerror(errno));
    if (count > 1 && !strcmp(arguments[1], "bench")) bench();
    raw();
}
