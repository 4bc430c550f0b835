/*
 * load run  MESSAGE COUNT PARALLEL ARGV...    each message by a process of its own, MESSAGE on its standard input
 * load unix MESSAGE COUNT PARALLEL SOCKET     each over a connection of its own to pysendmail's socket
 * load smtp MESSAGE COUNT PARALLEL PORT       SMTP to 127.0.0.1, PARALLEL sessions, each sends one after the other
 * load pipe MESSAGE COUNT PARALLEL ARGV...    the same to so many processes (sendmail -bs)
 *
 * PARALLEL at a time, until COUNT are done. For each a line "BEGUN_NS ENDED_NS CPU_US": CLOCK_MONOTONIC before it is
 * begun and when its success is known, and for `run` the processor time of the process and of what it waited for (else
 * 0). Last a line with the processor time of load itself, in microseconds. SMTP waits for each reply, as mail programs
 * do, and begins a new session where the message is refused for now, which is how OpenSMTPD ends a long one, or has no
 * answer in ANSWER_S, as it leaves one of many. What else is not a success ends it all with a word on standard error.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER_S = 5 };

extern char **environ;

struct one { uint64_t begun, ended, cpu; };

static struct one *all;
static long count, parallel;
static long next_one; /* by the threads, atomically */
static char **rest;   /* ARGV, SOCKET or PORT */
static char *message; /* as it goes over the wire: for SMTP with CRLF */
static size_t size;

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000ull + at.tv_nsec;
}

static uint64_t processor(const struct rusage *used)
{
    return (used->ru_utime.tv_sec + used->ru_stime.tv_sec) * 1000000ull + used->ru_utime.tv_usec + used->ru_stime.tv_usec;
}

static void must(int fine, const char *what)
{
    if (!fine) {
        fprintf(stderr, "load: %s: %m\n", what);
        _exit(1);
    }
}

static void put(int fd, const void *data, size_t left)
{
    for (const char *at = data; left;) {
        ssize_t sent = send(fd, at, left, MSG_NOSIGNAL);
        must(sent > 0, "send");
        at += sent;
        left -= sent;
    }
}

static pid_t start(char **argv, int in, int out)
{
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, in, 0);
    posix_spawn_file_actions_adddup2(&files, out, 1);
    pid_t pid;
    int failed = posix_spawn(&pid, argv[0], &files, NULL, argv, environ);
    must(!failed, argv[0]);
    posix_spawn_file_actions_destroy(&files);
    return pid;
}

/* run */

static void run(const char *path)
{
    pid_t pids[parallel];
    long which[parallel];
    memset(pids, 0, sizeof pids);
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    for (long begun = 0, done = 0; done < count;) {
        for (long slot = 0; slot < parallel && begun < count; slot++)
            if (!pids[slot]) {
                int in = open(path, O_RDONLY | O_CLOEXEC);
                must(in >= 0, path);
                which[slot] = begun++;
                all[which[slot]].begun = now();
                pids[slot] = start(rest, in, nowhere);
                close(in);
            }
        int status;
        struct rusage used;
        pid_t ended = wait4(-1, &status, 0, &used);
        uint64_t at = now();
        must(ended > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, "it did not exit 0");
        for (long slot = 0; slot < parallel; slot++)
            if (pids[slot] == ended) {
                struct one *it = &all[which[slot]];
                it->ended = at;
                it->cpu = processor(&used);
                pids[slot] = 0;
                done++;
            }
    }
}

/* unix: the frames of pysendmail/frames.py */

static size_t frame(char *to, char kind, const void *payload, size_t length)
{
    to[0] = kind;
    uint32_t big = htonl(length);
    memcpy(to + 1, &big, 4);
    memcpy(to + 5, payload, length);
    return 5 + length;
}

static void *submit(void *unused)
{
    static const size_t MOST = 256 << 10; /* of a frame */
    static const char ARGV[] = "sendmail\0-i\0-f\0alice@example.com\0bob@example.org";
    char *out = malloc(size + 5 * (size / MOST + 8) + 256);
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    strncpy(where.sun_path, rest[0], sizeof where.sun_path - 1);
    long mine;
    while ((mine = __atomic_fetch_add(&next_one, 1, __ATOMIC_RELAXED)) < count) {
        all[mine].begun = now();
        char hello[17] = {1}, answer[512], *end = out;
        must(getrandom(hello + 1, 16, 0) == 16, "getrandom");
        end += frame(end, 'V', hello, sizeof hello);
        end += frame(end, 'A', ARGV, sizeof ARGV);
        for (size_t at = 0; at < size; at += MOST)
            end += frame(end, 'D', message + at, size - at < MOST ? size - at : MOST);
        end += frame(end, 'Z', "", 0);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        must(!connect(fd, (struct sockaddr *)&where, sizeof where), "connect");
        put(fd, out, end - out);
        size_t came = 0;
        do {
            ssize_t more = recv(fd, answer + came, sizeof answer - came, 0);
            must(more > 0, "the daemon hung up");
            came += more;
        } while (came < 6);
        must(answer[0] == 'X' && answer[5] == 0, "it was refused");
        close(fd);
        all[mine].ended = now();
    }
    free(out);
    return unused;
}

/* smtp and pipe */

/* A reply that begins with this digit: true; with '4' or none in time, where that may be: false. */
static int hear(int fd, char digit, int may_be_refused)
{
    char text[2048];
    size_t held = 0, line = 0;
    for (;;) {
        must(held < sizeof text, "too long a reply");
        ssize_t more = read(fd, text + held, sizeof text - held);
        if (more < 0 && errno == EAGAIN && may_be_refused)
            return 0;
        must(more > 0, "the server hung up");
        held += more;
        for (char *end; (end = memchr(text + line, '\n', held - line)); line = end - text + 1)
            if (end - (text + line) >= 3 && text[line + 3] != '-') {
                if (text[line] == '4' && may_be_refused)
                    return 0;
                if (text[line] != digit)
                    fprintf(stderr, "load: it said %.*s\n", (int)(end - (text + line)), text + line);
                must(text[line] == digit, "refused");
                return 1;
            }
    }
}

static int try(int fd, char digit, const char *line)
{
    put(fd, line, strlen(line));
    return hear(fd, digit, 1);
}

static int transact(int fd)
{
    if (!try(fd, '2', "MAIL FROM:<alice@example.com>\r\n") || !try(fd, '2', "RCPT TO:<bob@example.org>\r\n") ||
        !try(fd, '3', "DATA\r\n"))
        return 0;
    put(fd, message, size);
    return hear(fd, '2', 1);
}

static int dial(int piped)
{
    int yes = 1, fd;
    if (piped) {
        int pair[2];
        must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
        start(rest, pair[1], pair[1]);
        close(pair[1]);
        return pair[0];
    }
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = htons(atoi(rest[0]))};
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    must(!connect(fd, (struct sockaddr *)&where, sizeof where), "connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = ANSWER_S}, sizeof(struct timeval));
    return fd;
}

static int begin(int piped)
{
    for (int tries = 3; tries--;) {
        int fd = dial(piped);
        if (hear(fd, '2', 1) && try(fd, '2', "EHLO client.test\r\n"))
            return fd;
        close(fd);
    }
    must(0, "no greeting");
    return -1;
}

static void end(int fd)
{
    try(fd, '2', "QUIT\r\n");
    close(fd);
}

static void *session(void *piped)
{
    int fd = begin(piped != NULL);
    long mine;
    while ((mine = __atomic_fetch_add(&next_one, 1, __ATOMIC_RELAXED)) < count) {
        all[mine].begun = now();
        while (!transact(fd)) {
            end(fd);
            fd = begin(piped != NULL);
        }
        all[mine].ended = now();
    }
    end(fd);
    return NULL;
}

static void *read_all(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat about;
    must(fd >= 0 && !fstat(fd, &about), path);
    message = malloc(about.st_size + 1);
    must(message != NULL && read(fd, message, about.st_size) == about.st_size, path);
    size = about.st_size;
    close(fd);
    return message;
}

/* The messages of this harness have no line that begins with a dot. */
static void for_the_wire(void)
{
    char *plain = message, *to = message = malloc(2 * size + 8);
    must(message != NULL, "malloc");
    for (size_t at = 0; at < size; at++) {
        if (plain[at] == '\n')
            *to++ = '\r';
        *to++ = plain[at];
    }
    memcpy(to, ".\r\n", 3);
    size = to + 3 - message;
}

static void in_threads(void *(*work)(void *), void *argument)
{
    pthread_t threads[parallel];
    for (long i = 0; i < parallel; i++)
        must(!pthread_create(&threads[i], NULL, work, argument), "pthread_create");
    for (long i = 0; i < parallel; i++)
        pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
    must(argc >= 6, "usage: load run|unix|smtp|pipe MESSAGE COUNT PARALLEL ...");
    const char *how = argv[1];
    count = atol(argv[3]);
    parallel = atol(argv[4]);
    rest = argv + 5;
    all = calloc(count, sizeof *all);
    must(all != NULL, "calloc");
    read_all(argv[2]);
    if (!strcmp(how, "run"))
        run(argv[2]);
    else if (!strcmp(how, "unix"))
        in_threads(submit, NULL);
    else {
        for_the_wire();
        in_threads(session, !strcmp(how, "pipe") ? rest : NULL);
    }
    for (long i = 0; i < count; i++)
        printf("%lu %lu %lu\n", all[i].begun, all[i].ended, all[i].cpu);
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    printf("%lu\n", processor(&own));
    return 0;
}
