/* The counting process of the tests' Linux guest: dirties a working set page by page and says ten times a second whether
   its memory is one consistent instant, in the built-in guest's words. Settings come from the kernel's command line:
   counter.ws=MIB counter.rate=PAGES_PER_SECOND (0 is as fast as it can). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned long setting(const char *line, const char *name, unsigned long standard)
{
    const char *at = strstr(line, name);
    return at ? strtoul(at + strlen(name), NULL, 10) : standard;
}

int main(void)
{
    char line[4096] = "";
    FILE *f = fopen("/proc/cmdline", "r");
    if (f) {
        if (!fgets(line, sizeof line, f)) line[0] = 0;
        fclose(f);
    }
    unsigned long pages = setting(line, "counter.ws=", 8) * 256;
    unsigned long rate = setting(line, "counter.rate=", 500);
    volatile uint8_t *set = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (set == MAP_FAILED) { puts("linux-guest: no memory"); return 1; }

    uint32_t sweep = 1;
    unsigned long cursor = 0, count = 0, written = 0;
    int torn = 0;
    uint64_t last = now(), next = last;
    double owed = 0;
    printf("linux-guest: started, working set %lu pages, %lu pages/s\n", pages, rate);
    fflush(stdout);
    for (;;) {
        uint64_t t = now();
        unsigned long todo = 64;
        if (rate) {
            double gap = (double)(t - last) / 1e9;
            owed += (gap > 0.1 ? 0.1 : gap) * (double)rate;
            todo = (unsigned long)owed;
            owed -= (double)todo;
        }
        last = t;
        for (; todo; todo--) {
            volatile uint32_t *page = (volatile uint32_t *)(set + cursor * 4096);
            page[0] = sweep;
            page[1023] = sweep * (uint32_t)(2 * cursor + 1);
            written++;
            if (++cursor == pages) { cursor = 0; sweep++; }
        }
        if (t >= next) {
            next += 100000000u;
            if (next < t) next = t;
            for (unsigned long i = 0; i < pages && !torn; i++) {
                volatile uint32_t *page = (volatile uint32_t *)(set + i * 4096);
                uint32_t want = i < cursor ? sweep : sweep - 1;
                if (page[0] != want || page[1023] != want * (uint32_t)(2 * i + 1)) torn = 1;
            }
            printf("linux-guest: count=%06lu sweep=%u page=%lu pages=%lu memory=%s\n",
                   ++count, sweep, cursor, written, torn ? "TORN" : "consistent");
            fflush(stdout);
        }
        if (rate) usleep(2000);
    }
}
