/* The network services of the tests' Linux guest, in one process that polls:
     echo on TCP and UDP 7, sink on TCP 9, source on TCP 19, HTTP on TCP 80 (GET / and GET /big),
     counter on TCP and UDP 1000: each line or datagram is answered with the next value of one counter and the request's text. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum kind { ECHO = 7, SINK = 9, SOURCE = 19, HTTP = 80, COUNTER = 1000 };
enum { MAX_CLIENTS = 200, BUFFER = 1 << 17, BIG = 1 << 20 };

struct client {
    int fd;
    enum kind kind;
    int in, out;          /* bytes in each buffer */
    long owed;            /* bytes of a body still to be made */
    int closing;
    char request[8192];
    char reply[BUFFER];
};

static struct client *clients[MAX_CLIENTS];
static int count;
static unsigned long counter;

static int listener(int type, int port)
{
    int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), one = 1;
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || (type == SOCK_STREAM && listen(fd, 64))) {
        printf("linux-guest: no port %d: %s\n", port, strerror(errno));
        exit(1);
    }
    return fd;
}

static void say(struct client *c, const char *bytes, int length)
{
    if (length > BUFFER - c->out) length = BUFFER - c->out;
    memcpy(c->reply + c->out, bytes, (size_t)length);
    c->out += length;
}

static void http(struct client *c)
{
    char *end;
    while ((end = memmem(c->request, (size_t)c->in, "\r\n\r\n", 4)) && BUFFER - c->out > 4096) {
        int length = (int)(end - c->request) + 4, big = !strncmp(c->request, "GET /big", 8);
        char head[256], body[1024];
        *end = 0;
        int close = strcasestr(c->request, "connection: close") != NULL;
        memset(body, 'x', sizeof body);
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n",
                         big ? BIG : 1024, close ? "close" : "keep-alive");
        say(c, head, n);
        if (big) c->owed = BIG; else say(c, body, sizeof body);
        c->closing |= close;
        memmove(c->request, c->request + length, (size_t)(c->in - length));
        c->in -= length;
        if (big) break;
    }
}

static void lines(struct client *c)
{
    char *end;
    while ((end = memchr(c->request, '\n', (size_t)c->in)) && BUFFER - c->out > 9000) {
        int length = (int)(end - c->request) + 1;
        char number[32];
        say(c, number, snprintf(number, sizeof number, "%lu ", ++counter));
        say(c, c->request, length);
        memmove(c->request, c->request + length, (size_t)(c->in - length));
        c->in -= length;
    }
}

/* Returns 0 when the client is gone. */
static int serve(struct client *c, short events)
{
    if (events & (POLLIN | POLLHUP | POLLERR)) {
        ssize_t got;
        if (c->kind == ECHO) {
            got = recv(c->fd, c->reply + c->out, (size_t)(BUFFER - c->out), 0);
            if (got > 0) c->out += (int)got;
        } else if (c->kind == SINK) {
            static char trash[1 << 17];
            got = recv(c->fd, trash, sizeof trash, 0);
        } else {
            got = recv(c->fd, c->request + c->in, sizeof c->request - (size_t)c->in, 0);
            if (got > 0) c->in += (int)got;
            if (c->kind == HTTP) http(c);
            if (c->kind == COUNTER) lines(c);
        }
        if (got == 0 || (got < 0 && errno != EAGAIN)) return 0;
    }
    /* Not for ever: the other clients want to be served too. */
    for (int turn = 0; turn < 16; turn++) {
        while (c->owed > 0 && c->out < BUFFER) {
            int now = c->owed < BUFFER - c->out ? (int)c->owed : BUFFER - c->out;
            memset(c->reply + c->out, 'x', (size_t)now);
            c->out += now;
            c->owed -= now;
        }
        if (c->kind == SOURCE) c->out = BUFFER;
        if (!c->out) break;
        ssize_t sent = send(c->fd, c->reply, (size_t)c->out, MSG_NOSIGNAL);
        if (sent < 0) return errno == EAGAIN;
        memmove(c->reply, c->reply + sent, (size_t)(c->out - sent));
        c->out -= (int)sent;
        if (c->kind == HTTP && c->owed == 0 && c->out == 0) http(c);
    }
    return !(c->closing && c->out == 0 && c->owed == 0);
}

static void welcome(int fd, enum kind kind)
{
    int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK), one = 1;
    if (client < 0) return;
    struct client *c = count < MAX_CLIENTS ? calloc(1, sizeof *c) : NULL;
    if (!c) { close(client); return; }
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->fd = client;
    c->kind = kind;
    clients[count++] = c;
}

static void datagram(int fd, int counting)
{
    char text[65536], answer[65600];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t got;
    while ((got = recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&from, &length)) >= 0) {
        int n = counting ? snprintf(answer, 32, "%lu ", ++counter) : 0;
        memcpy(answer + n, text, (size_t)got);
        /* An answer that was counted must be sent: a gap then means that it was lost outside. */
        while (sendto(fd, answer, (size_t)(n + got), 0, (struct sockaddr *)&from, length) < 0 && errno == EAGAIN) {
            struct pollfd room = { fd, POLLOUT, 0 };
            poll(&room, 1, -1);
        }
        length = sizeof from;
    }
}

int main(void)
{
    static const enum kind kinds[] = { ECHO, SINK, SOURCE, HTTP, COUNTER };
    enum { LISTENERS = 5, FIXED = 7 };
    struct pollfd p[FIXED + MAX_CLIENTS];
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < LISTENERS; i++) p[i] = (struct pollfd){ listener(SOCK_STREAM, (int)kinds[i]), POLLIN, 0 };
    p[5] = (struct pollfd){ listener(SOCK_DGRAM, ECHO), POLLIN, 0 };
    p[6] = (struct pollfd){ listener(SOCK_DGRAM, COUNTER), POLLIN, 0 };
    puts("linux-guest: network services ready");
    fflush(stdout);
    for (;;) {
        int served = count;
        for (int i = 0; i < served; i++) {
            struct client *c = clients[i];
            int room = c->kind == ECHO ? BUFFER - c->out : c->kind == SINK ? 1 : (int)sizeof c->request - c->in;
            p[FIXED + i] = (struct pollfd){ c->fd, (short)((room > 0 ? POLLIN : 0) | (c->out || c->owed || c->kind == SOURCE ? POLLOUT : 0)), 0 };
        }
        if (poll(p, (nfds_t)(FIXED + served), -1) < 0) continue;
        for (int i = served - 1; i >= 0; i--) {
            if (p[FIXED + i].revents && !serve(clients[i], p[FIXED + i].revents)) {
                close(clients[i]->fd);
                free(clients[i]);
                clients[i] = clients[--count];
            }
        }
        for (int i = 0; i < LISTENERS; i++) if (p[i].revents) welcome(p[i].fd, kinds[i]);
        if (p[5].revents) datagram(p[5].fd, 0);
        if (p[6].revents) datagram(p[6].fd, 1);
    }
}
