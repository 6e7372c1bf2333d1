/* A process to be tracked. It maps private and shared memory, says where, and then does what its standard input says:
 *   w ADDRESS BYTE   writes one byte          -> ok
 *   r ADDRESS        reads one byte           -> its value
 *   n                -> how many real-time signals came in
 *   f PATH BYTES     maps a file shared       -> its address
 *   q                ends
 * Started with the argument "spin", its main thread never makes a system call: another one answers. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { AREA = 1024 * 4096 };
static atomic_int signals, done;

static void on_signal(int number) { (void)number; atomic_fetch_add(&signals, 1); }

static void *answer(void *nothing)
{
    char line[512], path[400];
    unsigned long address, value;
    (void)nothing;
    while (fgets(line, sizeof line, stdin) && line[0] != 'q') {
        if (sscanf(line, "w %lx %lu", &address, &value) == 2) {
            *(volatile unsigned char *)address = (unsigned char)value;
            puts("ok");
        } else if (sscanf(line, "r %lx", &address) == 1) {
            printf("%u\n", *(volatile unsigned char *)address);
        } else if (line[0] == 'n') {
            printf("%d\n", atomic_load(&signals));
        } else if (sscanf(line, "f %399s %lu", path, &value) == 2) {
            int file = open(path, O_RDWR);
            printf("%lx\n", (unsigned long)mmap(NULL, value, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
            close(file);
        } else {
            puts("what?");
        }
    }
    atomic_store(&done, 1);
    return NULL;
}

int main(int count, char **arguments)
{
    int file = memfd_create("tracked", 0);
    if (file < 0 || ftruncate(file, AREA) != 0)
        return 1;
    void *own = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void *shared = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigaction(SIGRTMIN, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%lx %lx %d\n", (unsigned long)own, (unsigned long)shared, SIGRTMIN);
    if (count > 1 && strcmp(arguments[1], "spin") == 0) {
        pthread_t other;
        sigset_t all;
        sigfillset(&all);
        if (pthread_create(&other, NULL, answer, NULL) != 0)
            return 1;
        pthread_sigmask(SIG_BLOCK, &all, NULL);
        while (!atomic_load(&done))
            ;
    } else {
        answer(NULL);
    }
    return 0;
}
