/*
 * sink PORT ROUND_TRIP_MS: a smarthost on 127.0.0.1 that takes every message and keeps none.
 *
 * One thread, no disk: it is to be the last thing that a sender waits for. It offers what Postfix offers but STARTTLS,
 * and answers commands that come together in one write. With a round trip, each reply leaves that much after what it
 * answers has come, the greeting twice as much (a connection costs a round trip of its own, which loopback does not
 * have); TCP's windows stay those of loopback.
 *
 * Says "listening PORT" when it does (with PORT 0, which one the kernel gave). Each line on standard input is a number of messages; when so many have come since the
 * start it answers "MESSAGES CONNECTIONS MOST_AT_ONCE OCTETS FIRST_NS LAST_NS": octets of content, CLOCK_MONOTONIC of
 * the first connection and of the last final dot. It ends when standard input does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 4096, PIECE = 256 << 10, REPLIES = 8192, MOST = 1 << 16 };
enum mode { COMMAND, CONTENT, CHUNK };

static const char GREETING[] = "220 sink.test ESMTP\r\n";
static const char EHLO[] = "250-sink.test\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-ENHANCEDSTATUSCODES\r\n"
                           "250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

struct connection {
    enum mode mode;
    int quitting, last_chunk;
    uint64_t left;       /* of the chunk */
    char line[LINE];     /* the beginning of a command whose end has not come */
    size_t held;
    char tail[5];        /* the last octets of the content so far */
    char out[REPLIES];   /* what answers the octets that were read at once */
    size_t ready;
};

struct reply { /* one that waits for its time */
    struct reply *next;
    uint64_t due;
    int fd, closing;
    unsigned generation;
    size_t size;
    char text[];
};

struct line { /* replies that all wait equally long, so that the first to come is the first to go */
    struct reply *oldest, **newest;
    uint64_t wait;
};

static struct connection *connections[MOST];
static unsigned generations[MOST];
static struct line greetings = {NULL, &greetings.oldest, 0}, replies = {NULL, &replies.oldest, 0};
static uint64_t messages, opened, octets, first, last, wanted = UINT64_MAX;
static unsigned open_now, most_at_once;
static int poller, timer;

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static void must(int fine, const char *what)
{
    if (!fine) {
        perror(what);
        exit(1);
    }
}

static void tell(void)
{
    if (messages < wanted)
        return;
    wanted = UINT64_MAX;
    printf("%lu %lu %u %lu %lu %lu\n", messages, opened, most_at_once, octets, first, last);
    fflush(stdout);
}

static void hang_up(int fd)
{
    free(connections[fd]);
    connections[fd] = NULL;
    generations[fd]++;
    open_now--;
    close(fd);
}

static void set_timer(void)
{
    struct itimerspec at = {0};
    uint64_t due = UINT64_MAX;
    if (replies.oldest)
        due = replies.oldest->due;
    if (greetings.oldest && greetings.oldest->due < due)
        due = greetings.oldest->due;
    if (due == UINT64_MAX)
        return;
    at.it_value.tv_sec = due / 1000000000;
    at.it_value.tv_nsec = due % 1000000000;
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

/* Replies are small: a client for whom the kernel takes no more reads none, and is left. */
static void put(int fd, const char *text, size_t size, int closing)
{
    if (send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)size || closing)
        hang_up(fd);
}

static void answer(struct line *line, int fd, const char *text, size_t size, int closing)
{
    if (!line->wait) {
        put(fd, text, size, closing);
        return;
    }
    struct reply *one = malloc(sizeof *one + size);
    must(one != NULL, "malloc");
    *one = (struct reply){NULL, now() + line->wait, fd, closing, generations[fd], size};
    memcpy(one->text, text, size);
    *line->newest = one;
    line->newest = &one->next;
    if (line->oldest == one)
        set_timer();
}

static void answer_due(struct line *line)
{
    uint64_t at = now();
    while (line->oldest && line->oldest->due <= at) {
        struct reply *one = line->oldest;
        line->oldest = one->next;
        if (line->oldest == NULL)
            line->newest = &line->oldest;
        if (connections[one->fd] && generations[one->fd] == one->generation)
            put(one->fd, one->text, one->size, one->closing);
        free(one);
    }
}

static void say(struct connection *it, const char *text)
{
    size_t size = strlen(text);
    if (it->ready + size <= sizeof it->out) {
        memcpy(it->out + it->ready, text, size);
        it->ready += size;
    }
}

static void received(struct connection *it)
{
    it->mode = COMMAND;
    messages++;
    last = now();
    say(it, "250 2.0.0 taken\r\n");
    tell();
}

static void command(struct connection *it, const char *line)
{
    if (!strncasecmp(line, "EHLO", 4))
        say(it, EHLO);
    else if (!strncasecmp(line, "HELO", 4))
        say(it, "250 sink.test\r\n");
    else if (!strncasecmp(line, "DATA", 4)) {
        it->mode = CONTENT;
        memcpy(it->tail, "..\r\n", 4); /* so that an end at once is one */
        say(it, "354 go on\r\n");
    } else if (!strncasecmp(line, "BDAT ", 5)) {
        it->mode = CHUNK;
        it->left = strtoull(line + 5, NULL, 10);
        it->last_chunk = strcasestr(line, " LAST") != NULL;
    } else if (!strncasecmp(line, "QUIT", 4)) {
        it->quitting = 1;
        say(it, "221 2.0.0 bye\r\n");
    } else
        say(it, "250 2.0.0 ok\r\n"); /* MAIL, RCPT, RSET, NOOP */
}

/* How many octets of `data` are content, with its end: all of them if the end is not among them. */
static size_t content(struct connection *it, const char *data, size_t size)
{
    static const char END[] = "\r\n.\r\n";
    char seam[8];
    size_t head = size < 4 ? size : 4;
    memcpy(seam, it->tail, 4);
    memcpy(seam + 4, data, head);
    char *found = memmem(seam, 4 + head, END, 5);
    size_t used = size;
    if (found)
        used = (size_t)(found - seam) + 5 - 4;
    else if ((found = memmem(data, size, END, 5)))
        used = (size_t)(found - data) + 5;
    octets += used;
    if (found) {
        received(it);
    } else if (size >= 4) {
        memcpy(it->tail, data + size - 4, 4);
    } else {
        memmove(it->tail, it->tail + size, 4 - size);
        memcpy(it->tail + 4 - size, data, size);
    }
    return used;
}

static size_t commands(struct connection *it, const char *data, size_t size)
{
    const char *end = memchr(data, '\n', size);
    size_t used = end ? (size_t)(end - data) + 1 : size;
    size_t kept = used < LINE - 1 - it->held ? used : LINE - 1 - it->held;
    memcpy(it->line + it->held, data, kept);
    it->held += kept;
    if (end) {
        it->line[it->held] = 0;
        it->held = 0;
        command(it, it->line);
    }
    return used;
}

static size_t chunk(struct connection *it, size_t size)
{
    size_t used = size < it->left ? size : it->left;
    it->left -= used;
    octets += used;
    return used;
}

static void hear(int fd)
{
    static char data[PIECE];
    struct connection *it = connections[fd];
    ssize_t size = recv(fd, data, sizeof data, MSG_DONTWAIT);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0) {
        hang_up(fd);
        return;
    }
    for (size_t at = 0; at < (size_t)size && !it->quitting;) {
        if (it->mode == COMMAND)
            at += commands(it, data + at, size - at);
        else if (it->mode == CONTENT)
            at += content(it, data + at, size - at);
        else
            at += chunk(it, size - at);
        if (it->mode == CHUNK && !it->left) {
            it->mode = COMMAND;
            if (it->last_chunk)
                received(it);
            else
                say(it, "250 2.0.0 ok\r\n");
        }
    }
    size_t ready = it->ready;
    it->ready = 0;
    if (ready)
        answer(&replies, fd, it->out, ready, it->quitting);
}

static void greet(int listener)
{
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        must(fd < MOST, "too many connections");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        connections[fd] = calloc(1, sizeof **connections);
        must(connections[fd] != NULL, "calloc");
        if (!opened++)
            first = now();
        if (++open_now > most_at_once)
            most_at_once = open_now;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        must(!epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
        answer(&greetings, fd, GREETING, strlen(GREETING), 0);
    }
}

static void asked(void)
{
    char text[64];
    ssize_t size = read(0, text, sizeof text - 1);
    if (size <= 0)
        exit(0);
    text[size] = 0;
    wanted = strtoull(text, NULL, 10);
    tell();
}

int main(int argc, char **argv)
{
    must(argc == 3, "usage: sink PORT ROUND_TRIP_MS");
    replies.wait = strtoull(argv[2], NULL, 10) * 1000000;
    greetings.wait = 2 * replies.wait;
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files = {MOST, MOST};
    setrlimit(RLIMIT_NOFILE, &files);
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    must(!bind(listener, (struct sockaddr *)&where, sizeof where), "bind");
    must(!listen(listener, 4096), "listen");
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int ours[] = {listener, timer, 0};
    for (int i = 0; i < 3; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = ours[i]};
        must(!epoll_ctl(poller, EPOLL_CTL_ADD, ours[i], &event), "epoll_ctl");
    }
    socklen_t size = sizeof where;
    getsockname(listener, (struct sockaddr *)&where, &size);
    printf("listening %d\n", ntohs(where.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[64];
        int count = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < count; i++) {
            uint64_t ticks;
            int fd = events[i].data.fd;
            if (fd == 0)
                asked();
            else if (fd == listener)
                greet(listener);
            else if (fd == timer) {
                if (read(timer, &ticks, sizeof ticks) > 0) {
                    answer_due(&greetings);
                    answer_due(&replies);
                    set_timer();
                }
            } else if (connections[fd])
                hear(fd);
        }
    }
}
