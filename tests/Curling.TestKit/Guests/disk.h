/* What the programs of the disk tests share: settings, checksums, and a service that answers lines.
   Every request of a client is one line; its answer is a number and the same text. The number is given only when what it stands
   for is durable, so that a client knows what it was promised. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 16, MAX_LINE = 256, MAX_PENDING = 16 };

static const char *program = "disk";

/* The host looks for FAILED on the serial port. Nothing is answered any more, and the process stays so that nobody restarts it. */
__attribute__((format(printf, 1, 2), noreturn, unused)) static void failed(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (;;) {
        printf("%s: FAILED: %s\n", program, text);
        fflush(stdout);
        sleep(5);
    }
}

__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("%s: %s\n", program, text);
    fflush(stdout);
}

/* A number of the kernel's command line, for example disklog.rate=50. */
static inline unsigned long setting(const char *name, unsigned long standard)
{
    static char line[4096];
    if (!line[0]) {
        FILE *f = fopen("/proc/cmdline", "r");
        if (!f || !fgets(line, sizeof line, f)) line[0] = ' ';
        if (f) fclose(f);
    }
    const char *at = strstr(line, name);
    return at ? strtoul(at + strlen(name), NULL, 10) : standard;
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* SplitMix64: the same in DiskRecord.cs. */
static inline uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* FNV-1a over words of eight bytes: the same in DiskRecord.cs. */
static inline uint64_t hash(const void *bytes, size_t length)
{
    uint64_t h = 0xCBF29CE484222325u, word;
    for (size_t i = 0; i < length; i += 8) {
        memcpy(&word, (const char *)bytes + i, 8);
        h = (h ^ word) * 0x100000001B3u;
    }
    return h;
}

struct question { int client; char text[MAX_LINE]; };
struct client { int fd, in; char request[4096]; };

static struct client clients[MAX_CLIENTS];
static struct question pending[MAX_PENDING];
static int client_count, pending_count, service = -1;

__attribute__((unused)) static void open_service(int port)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
    int one = 1;
    signal(SIGPIPE, SIG_IGN);
    service = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (service < 0) failed("no socket: %s", strerror(errno));
    setsockopt(service, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(service, (struct sockaddr *)&a, sizeof a) || listen(service, MAX_CLIENTS)) failed("no port %d: %s", port, strerror(errno));
}

static inline void drop(int client)
{
    close(clients[client].fd);
    clients[client].fd = -1;
    for (int i = 0; i < pending_count; i++) if (pending[i].client == client) pending[i].client = -1;
}

/* Whole lines become questions, as far as there is room. */
static inline void take_lines(int client)
{
    struct client *c = &clients[client];
    char *end;
    while (pending_count < MAX_PENDING && (end = memchr(c->request, '\n', (size_t)c->in))) {
        int length = (int)(end - c->request);
        struct question *q = &pending[pending_count++];
        q->client = client;
        snprintf(q->text, sizeof q->text, "%.*s", length < MAX_LINE - 1 ? length : MAX_LINE - 1, c->request);
        memmove(c->request, end + 1, (size_t)(c->in - length - 1));
        c->in -= length + 1;
    }
}

/* Takes questions until there is one, or the time is over. */
__attribute__((unused)) static void take_questions(double until)
{
    for (int i = 0; i < client_count; i++) if (clients[i].fd >= 0) take_lines(i);
    for (;;) {
        struct pollfd p[MAX_CLIENTS + 1] = { { service, POLLIN, 0 } };
        for (int i = 0; i < client_count; i++)
            p[i + 1] = (struct pollfd){ clients[i].fd, clients[i].in < (int)sizeof clients[i].request ? POLLIN : 0, 0 };
        double left = pending_count ? 0 : until - seconds();
        int served = client_count, ready = poll(p, (nfds_t)(1 + served), left > 0 ? (int)(left * 1000) + 1 : 0);
        if (ready <= 0) { if (pending_count || seconds() >= until) return; else continue; }
        for (int i = 0; i < served; i++) {
            struct client *c = &clients[i];
            if (c->fd < 0 || !p[i + 1].revents) continue;
            ssize_t got = recv(c->fd, c->request + c->in, sizeof c->request - (size_t)c->in, 0);
            if (got == 0 || (got < 0 && errno != EAGAIN)) { drop(i); continue; }
            if (got > 0) c->in += (int)got;
            take_lines(i);
        }
        if (p[0].revents) {
            int fd = accept4(service, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), one = 1, at = 0;
            while (at < client_count && clients[at].fd >= 0) at++;
            if (fd >= 0 && at == MAX_CLIENTS) { close(fd); fd = -1; }
            if (fd >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                clients[at].fd = fd;
                clients[at].in = 0;
                if (at == client_count) client_count++;
            }
        }
        if (pending_count) return;
    }
}

__attribute__((unused)) static void answer(int question, uint64_t number)
{
    char line[MAX_LINE + 32];
    int client = pending[question].client;
    if (client < 0) return;
    int length = snprintf(line, sizeof line, "%llu %s\n", (unsigned long long)number, pending[question].text);
    /* An answer is short: a client that lets its buffer fill up with them is not one of ours. */
    if (send(clients[client].fd, line, (size_t)length, MSG_NOSIGNAL) != length) drop(client);
}
