/* Loads for live paths, and who receives them: datagrams as fast as they go, echoes and how long they took, connections
   opened and closed, one stream. bench/live.py compiles it. A server says "ready" and ends at SIGTERM; each says in one
   line of JSON what it did. Times are of the monotonic clock. IPv4. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    COUNT = 64,             /* datagrams a call */
    LEN = 2048,             /* of one at most */
    BUFFER = 1 << 23,       /* of a socket: a receiver that has to wait for its turn loses nothing for that */
    MARK_LEN = 16,          /* number and time of an echo */
    STREAM_LEN = 1 << 17,
    ECHOES_MAX = 1 << 24
};
#define S 1000000000LL
#define REFILL (50 * 1000000LL)     /* echoes that did not come by then are lost */
#define PATIENCE (1 * S)            /* a connection that is not over by then has failed */

struct mark { uint64_t number; int64_t at; };

static volatile sig_atomic_t stopped;
static unsigned char data[COUNT][LEN];
static struct sockaddr_in names[COUNT];
static struct iovec iov[COUNT];
static struct mmsghdr messages[COUNT];

static void on_stop(int number) { (void)number; stopped = 1; }

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * S + t.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "live_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int known(int error)     /* of an earlier datagram, or of a full queue: the next one may go */
{
    return error == EINTR || error == EAGAIN || error == ENOBUFS || error == ECONNREFUSED || error == EHOSTUNREACH
        || error == ENETUNREACH;
}

static void set(int fd, int level, int option, int value) { setsockopt(fd, level, option, &value, sizeof(value)); }

static struct sockaddr_in place(const char *address, const char *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &a.sin_addr) != 1) {
        fprintf(stderr, "live_load: %s: no IPv4 address\n", address);
        exit(2);
    }
    return a;
}

static int open_socket(int type, const char *address, const char *port, int is_server)
{
    struct sockaddr_in a = place(address, port);
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (type == SOCK_DGRAM) {
        set(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER);
        set(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER / 8);
    }
    if (is_server ? bind(fd, (struct sockaddr *)&a, sizeof(a)) : connect(fd, (struct sockaddr *)&a, sizeof(a)))
        fail(is_server ? "bind" : "connect");
    if (is_server && type == SOCK_STREAM && listen(fd, 4096))
        fail("listen");
    if (is_server) {
        struct timeval t = {.tv_usec = 100000};     /* it looks whether it is to end */
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
        puts("ready");
        fflush(stdout);
    }
    return fd;
}

static void prepare(size_t size, int with_names)
{
    for (int k = 0; k < COUNT; k++) {
        iov[k] = (struct iovec){data[k], size};
        messages[k].msg_hdr = (struct msghdr){.msg_iov = iov + k, .msg_iovlen = 1};
        if (with_names) {
            messages[k].msg_hdr.msg_name = names + k;
            messages[k].msg_hdr.msg_namelen = sizeof(names[k]);
        }
    }
}

/* receive ADDRESS PORT: how many datagrams came, and in what time. */
static int receive(char **arg)
{
    int fd = open_socket(SOCK_DGRAM, arg[0], arg[1], 1);
    uint64_t packets = 0, bytes = 0;
    int64_t first = 0, last = 0;
    prepare(LEN, 0);
    while (!stopped) {
        int got = recvmmsg(fd, messages, COUNT, MSG_WAITFORONE, NULL);
        if (got <= 0)
            continue;
        last = now();
        if (!first)
            first = last;
        packets += (uint64_t)got;
        for (int k = 0; k < got; k++)
            bytes += messages[k].msg_len;
    }
    printf("{\"received\": %llu, \"bytes\": %llu, \"seconds\": %.6f}\n", (unsigned long long)packets,
           (unsigned long long)bytes, (double)(last - first) / S);
    return 0;
}

/* flood ADDRESS PORT BYTES SECONDS: datagrams as fast as the path takes them. */
static int flood(char **arg)
{
    int fd = open_socket(SOCK_DGRAM, arg[0], arg[1], 0);
    uint64_t packets = 0, errors = 0;
    int64_t begin = now(), end = begin + (int64_t)(atof(arg[3]) * S), at = begin;
    prepare((size_t)atoi(arg[2]), 0);
    for (; at < end && !stopped; at = now()) {
        int sent = sendmmsg(fd, messages, COUNT, 0);
        if (sent > 0)
            packets += (uint64_t)sent;
        else if (known(errno))
            errors++;
        else
            fail("sendmmsg");
    }
    printf("{\"sent\": %llu, \"errors\": %llu, \"seconds\": %.6f}\n", (unsigned long long)packets,
           (unsigned long long)errors, (double)(at - begin) / S);
    return 0;
}

/* echo ADDRESS PORT: each datagram goes back to where it came from. */
static int echo(char **arg)
{
    int fd = open_socket(SOCK_DGRAM, arg[0], arg[1], 1);
    uint64_t packets = 0;
    while (!stopped) {
        prepare(LEN, 1);
        int got = recvmmsg(fd, messages, COUNT, MSG_WAITFORONE, NULL);
        for (int k = 0; k < got; k++)
            iov[k].iov_len = messages[k].msg_len;
        for (int done = 0, sent; done < got; done += sent) {
            sent = sendmmsg(fd, messages + done, (unsigned)(got - done), 0);
            if (sent > 0)
                packets += (uint64_t)sent;
            else
                sent = 1;
        }
    }
    printf("{\"echoed\": %llu}\n", (unsigned long long)packets);
    return 0;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_us(const uint32_t *sorted, uint64_t n, double part)
{
    uint64_t at = (uint64_t)(part * (double)n);
    return n ? sorted[at < n ? at : n - 1] / 1e3 : 0;
}

/* Send ``want`` marks from ``number`` on; how many left. */
static int send_marks(int fd, uint64_t number, int want)
{
    int64_t at = now();
    for (int k = 0; k < want; k++) {
        struct mark m = {number + (uint64_t)k, at};
        memcpy(data[k], &m, MARK_LEN);
    }
    int sent = sendmmsg(fd, messages, (unsigned)want, MSG_DONTWAIT);
    if (sent < 0 && !known(errno))
        fail("sendmmsg");
    return sent < 0 ? 0 : sent;
}

/* asks ADDRESS PORT BYTES SECONDS WINDOW: as many echoes as there can be with so many under way. */
static int asks(char **arg)
{
    int fd = open_socket(SOCK_DGRAM, arg[0], arg[1], 0), window = atoi(arg[4]), under_way = 0;
    size_t size = (size_t)atoi(arg[2]);
    uint64_t sent = 0, received = 0, lost = 0;
    int64_t begin = now(), end = begin + (int64_t)(atof(arg[3]) * S), heard = begin;
    while (now() < end && !stopped) {
        prepare(size, 0);
        while (under_way < window) {
            int want = window - under_way < COUNT ? window - under_way : COUNT, got = send_marks(fd, sent, want);
            sent += (uint64_t)got;
            under_way += got;
            if (!got)
                break;
        }
        struct pollfd p = {fd, POLLIN, 0};
        poll(&p, 1, 10);
        prepare(LEN, 0);
        int got = recvmmsg(fd, messages, COUNT, MSG_DONTWAIT, NULL);
        if (got > 0) {
            received += (uint64_t)got;
            under_way = under_way > got ? under_way - got : 0;
            heard = now();
        } else if (now() - heard > REFILL) {
            lost += (uint64_t)under_way;
            under_way = 0;
            heard = now();
        }
    }
    printf("{\"sent\": %llu, \"received\": %llu, \"lost\": %llu, \"seconds\": %.6f}\n", (unsigned long long)sent,
           (unsigned long long)received, (unsigned long long)lost, (double)(now() - begin) / S);
    return 0;
}

/* delay ADDRESS PORT BYTES SECONDS RATE: an echo every 1/RATE s, whatever comes back; how long each took, from the call
   that sent it to the one that got it. ``late``: behind its time when it left, since this process was not let run. */
static int delay(char **arg)
{
    int fd = open_socket(SOCK_DGRAM, arg[0], arg[1], 0);
    size_t size = (size_t)atoi(arg[2]);
    double seconds = atof(arg[3]), rate = atof(arg[4]);
    uint64_t all = (uint64_t)(seconds * rate), sent = 0, received = 0;
    if (all < 1 || all > ECHOES_MAX) {
        fprintf(stderr, "live_load: %llu echoes: 1 to %d\n", (unsigned long long)all, ECHOES_MAX);
        return 2;
    }
    uint32_t *took = calloc(all, sizeof(*took)), *late = calloc(all, sizeof(*late));
    unsigned char *seen = calloc(all, 1);
    if (!took || !late || !seen)
        fail("memory");
    prctl(PR_SET_TIMERSLACK, 1);
    int64_t begin = now(), last = 0;
    while (!stopped) {
        int64_t at = now();
        uint64_t due = (uint64_t)((double)(at - begin) * rate / S) + 1;
        if (due > all)
            due = all;
        int want = due - sent > COUNT ? COUNT : (int)(due - sent), left = 0, got;
        if (want) {
            prepare(size, 0);
            left = send_marks(fd, sent, want);
            for (int k = 0; k < left; k++)
                late[sent + (uint64_t)k] = (uint32_t)(at - begin - (int64_t)((double)(sent + (uint64_t)k) / rate * S));
            sent += (uint64_t)left;
            if (sent == all)
                last = at;
        }
        prepare(LEN, 0);
        got = recvmmsg(fd, messages, COUNT, MSG_DONTWAIT, NULL);
        at = now();
        for (int k = 0; k < got; k++) {
            struct mark m;
            memcpy(&m, data[k], MARK_LEN);
            if (messages[k].msg_len == size && m.number < all && !seen[m.number]) {
                seen[m.number] = 1;
                took[received++] = (uint32_t)(at - m.at > UINT32_MAX ? UINT32_MAX : at - m.at);
            }
        }
        if (sent == all && (received == all || at - last > S / 4))
            break;
        if (got <= 0 && !left) {
            int64_t next = sent < all ? begin + (int64_t)((double)sent / rate * S) - at : S / 100;
            struct pollfd p = {fd, POLLIN, 0};
            struct timespec t = {.tv_sec = 0, .tv_nsec = next < 0 ? 0 : next < S / 100 ? next : S / 100};
            ppoll(&p, 1, &t, NULL);
        }
    }
    qsort(took, received, sizeof(*took), by_size);
    qsort(late, sent, sizeof(*late), by_size);
    printf("{\"sent\": %llu, \"received\": %llu, \"p50\": %.3f, \"p99\": %.3f, \"p99.9\": %.3f, \"most\": %.3f, "
           "\"late\": %.3f}\n", (unsigned long long)sent, (unsigned long long)received, quantile_us(took, received, .5),
           quantile_us(took, received, .99), quantile_us(took, received, .999), quantile_us(took, received, 1),
           quantile_us(late, sent, .99));
    return 0;
}

/* accept ADDRESS PORT: connections, closed at once. */
static int accepts(char **arg)
{
    int fd = open_socket(SOCK_STREAM, arg[0], arg[1], 1), one;
    uint64_t count = 0;
    while (!stopped) {
        if ((one = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
            close(one);
            count++;
        }
    }
    printf("{\"accepted\": %llu}\n", (unsigned long long)count);
    return 0;
}

/* connect ADDRESS PORT SECONDS WINDOW: connections opened, closed by the server and then by us, so many at once. */
static int connects(char **arg)
{
    struct sockaddr_in to = place(arg[0], arg[1]);
    int window = atoi(arg[3]), events = epoll_create1(EPOLL_CLOEXEC), counted = 0, busy = 0;
    struct { int fd; int64_t at; } *slot = calloc((size_t)window, sizeof(*slot));
    struct epoll_event came[COUNT];
    uint64_t tried = 0, done = 0, failed = 0;
    if (!slot || events < 0)
        fail("epoll");
    for (int k = 0; k < window; k++)
        slot[k].fd = -1;
    int64_t begin = now(), end = begin + (int64_t)(atof(arg[2]) * S), at = begin, looked = begin;
    for (; (at < end && !stopped) || (busy && at < end + PATIENCE); at = now()) {
        counted = at < end;
        for (int k = 0; k < window && counted; k++) {
            if (slot[k].fd >= 0)
                continue;
            int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            struct epoll_event want = {.events = EPOLLIN | EPOLLRDHUP, .data.u32 = (uint32_t)k};
            if (fd < 0)
                fail("socket");
            tried++;
            if ((connect(fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS)
                || epoll_ctl(events, EPOLL_CTL_ADD, fd, &want)) {
                failed++;
                close(fd);
                break;      /* no port is free: some will be */
            }
            slot[k].fd = fd;
            slot[k].at = at;
            busy++;
        }
        int got = epoll_wait(events, came, COUNT, 20);
        for (int k = 0; k < got; k++) {
            uint32_t which = came[k].data.u32;
            char byte;
            ssize_t n = read(slot[which].fd, &byte, 1);
            if (n < 0 && errno == EAGAIN)
                continue;
            if (n == 0)
                done++;
            else
                failed++;
            close(slot[which].fd);
            slot[which].fd = -1;
            busy--;
        }
        if (at - looked < S / 10)
            continue;
        looked = at;
        for (int k = 0; k < window; k++) {
            if (slot[k].fd >= 0 && at - slot[k].at > PATIENCE) {
                close(slot[k].fd);
                slot[k].fd = -1;
                failed++;
                busy--;
            }
        }
    }
    printf("{\"tried\": %llu, \"done\": %llu, \"failed\": %llu, \"seconds\": %.6f}\n", (unsigned long long)tried,
           (unsigned long long)done, (unsigned long long)(failed + (uint64_t)busy), (double)(at - begin) / S);
    return 0;
}

/* One connection that is served: sink ADDRESS PORT reads, source ADDRESS PORT SECONDS writes. */
static int streams(int fd, int reads, double seconds, const char *key)
{
    static char room[STREAM_LEN];
    uint64_t bytes = 0;
    int64_t begin = now(), end = seconds > 0 ? begin + (int64_t)(seconds * S) : INT64_MAX;
    while (!stopped && now() < end) {
        ssize_t n = reads ? read(fd, room, sizeof(room)) : write(fd, room, sizeof(room));
        if (n == 0 || (n < 0 && errno != EINTR))
            break;
        bytes += n > 0 ? (uint64_t)n : 0;
    }
    double took = (double)(now() - begin) / S;
    close(fd);
    printf("{\"%s\": %llu, \"seconds\": %.6f}\n", key, (unsigned long long)bytes, took);
    return 0;
}

static int stream_server(char **arg, int reads)
{
    int fd = open_socket(SOCK_STREAM, arg[0], arg[1], 1), one = -1;
    while (!stopped && (one = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) < 0) {}
    return one < 0 ? 1 : streams(one, reads, reads ? 0 : atof(arg[2]), reads ? "received" : "sent");
}

static int usage(void)
{
    fputs("live_load receive|echo|accept|sink ADDRESS PORT\n"
          "live_load flood ADDRESS PORT BYTES SECONDS\n"
          "live_load asks ADDRESS PORT BYTES SECONDS WINDOW\n"
          "live_load delay ADDRESS PORT BYTES SECONDS RATE\n"
          "live_load connect ADDRESS PORT SECONDS WINDOW\n"
          "live_load source|read|write ADDRESS PORT SECONDS\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int count; } verbs[] = {
        {"receive", 2}, {"echo", 2}, {"accept", 2}, {"sink", 2}, {"flood", 4}, {"asks", 5}, {"delay", 5}, {"connect", 4},
        {"source", 3}, {"read", 3}, {"write", 3},
    };
    struct sigaction stop = {.sa_handler = on_stop};    /* no SA_RESTART: calls that wait end */
    char **arg = argv + 2;
    size_t k = 0, n = sizeof(verbs) / sizeof(verbs[0]);
    if (argc < 2)
        return usage();
    while (k < n && strcmp(verbs[k].name, argv[1]))
        k++;
    if (k == n || argc - 2 != verbs[k].count || atoi(argv[3]) <= 0)
        return usage();
    if (k >= 4 && k <= 6 && (atoi(arg[2]) < MARK_LEN || atoi(arg[2]) > LEN))
        return usage();
    if ((k == 5 || k == 7) && atoi(argv[argc - 1]) < 1)
        return usage();
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    signal(SIGPIPE, SIG_IGN);
    switch (k) {
    case 0: return receive(arg);
    case 1: return echo(arg);
    case 2: return accepts(arg);
    case 3: return stream_server(arg, 1);
    case 4: return flood(arg);
    case 5: return asks(arg);
    case 6: return delay(arg);
    case 7: return connects(arg);
    case 8: return stream_server(arg, 0);
    case 9: return streams(open_socket(SOCK_STREAM, arg[0], arg[1], 0), 1, 0, "received");
    default: return streams(open_socket(SOCK_STREAM, arg[0], arg[1], 0), 0, atof(arg[2]), "sent");
    }
}
