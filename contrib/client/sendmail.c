/*
 * sendmail: the thin client (pysendmail/thin/client.py) once more, for what is called most: a message on standard input.
 *
 * It goes to the daemon in the frames of pysendmail/frames.py, and the answer is shown; promises, words and limits are
 * the Python client's. Whatever else there is to do, that client does, by the same name in CLIENTS: other names and
 * modes, -v, a terminal, per-user instances, a configuration that names no socket, a queue without a daemon. Nearly all
 * of that shows before standard input is touched; what was read and then finds nobody who listens is handed over as an
 * unnamed file. What options mean is for the daemon to know.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM_CONFIG "/etc/pysendmail/pysendmail.toml"
#define SYSTEM_SOCKET "/run/pysendmail/submit"
#define TAKES_VALUE "ABCFLNORVXbefhopr" /* the rest of the word, or the next word */
#define LEFT_TO_PYTHON "-DEIJMOQSadqv"  /* what it looks into, long options among it, and what is hardly ever given */

enum { /* as in thin/client.py, but that times are milliseconds */
    VERSION = 1, HEADER_OCTETS = 5, ID_OCTETS = 16, MAX_ARGV_OCTETS = 1 << 20, MAX_ARGUMENTS = 10000,
    MAX_CHUNK = 256 << 10, MAX_SOCKET_OCTETS = 107, BUFFER = 1 << 20, READ = 64 << 10,
    TRIES = 3, PAUSE_MS = 50, RESTART_MS = 5000, ANSWER_MS = 60000, ASK_MS = 10000, OUTPUT_MS = 5000,
    DRAIN_MS = 5000, DRAIN_QUIET_MS = 1000, IOERR = 74, TEMPFAIL = 75,
    MAX_CLAIM_OCTETS = 1000, SPOOL = 64 << 20, /* of input that is handed over: it is memory */
    UNKNOWN = -1, LOST = -2, NOBODY = -3, UNFINISHED = -4 /* what an answer may be, beside an exit code */
};

__attribute__((used)) static const char mark[] = "pysendmail's client in C"; /* install-client may replace it */
static char **words, text[1024]; /* argv; longer than any of our messages */
static const char *name, *why;   /* argv[0] without directories; the answer was lost */
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static bool dot_ends = true, dotted; /* no -i; a line with a lone dot was read */
static bool ended, whole = true;     /* standard input has; all that was read of it is on the wire */
static bool complete;                /* the daemon has all of it */
static unsigned char hello[1 + ID_OCTETS] = {VERSION};
static unsigned char wire[MAX_ARGV_OCTETS + BUFFER + READ + 4096]; /* to the daemon: V, A and E, then D and Z */
static unsigned char came[HEADER_OCTETS + MAX_CHUNK];             /* and back */
static size_t opening, filled, got;  /* octets of V, A and E; on the wire; that came */

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int left(long long deadline, int most)
{
    long long ms = deadline - now();
    return ms < 0 ? 0 : ms < most ? (int)ms : most;
}

static bool ready(int fd, short events, int ms)
{
    return poll(&(struct pollfd){fd, events, 0}, 1, ms) != 0;
}

static void show(int fd, const void *data, size_t size) /* what nobody takes is dropped: the exit code matters */
{
    static bool dead[3];
    long long deadline = now() + OUTPUT_MS;
    for (const char *at = data; size && !dead[fd];) {
        bool room = ready(fd, POLLOUT, left(deadline, OUTPUT_MS));
        ssize_t n = room ? write(fd, at, size < PIPE_BUF ? size : PIPE_BUF) : -1;
        dead[fd] = n < 0 && (!room || errno != EAGAIN);
        at += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
}

static _Noreturn void leave(int code) /* a refusal does not break the caller's pipe: it is read, within limits */
{
    struct stat st;
    long long deadline = now() + DRAIN_MS;
    bool pipe = code && fstat(0, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode));
    while (pipe && left(deadline, 1) && ready(0, POLLIN, left(deadline, DRAIN_QUIET_MS)))
        pipe = read(0, wire, READ) > 0;
    _exit(code);
}

#define FAIL(code, ...) (show(2, text, (size_t)snprintf(text, sizeof text, __VA_ARGS__)), leave(code))
#define DAEMON_FAILED(fate) FAIL(TEMPFAIL, "%s: the daemon at %s: %s; " fate "\n", name, address.sun_path, why)

static _Noreturn void python(void)
{
    char path[sizeof CLIENTS + 32];
    snprintf(path, sizeof path, "%s/%.30s", CLIENTS, name);
    execv(path, words);
    execv(CLIENTS "/sendmail", words); /* whatever else it is called, it is sendmail */
    FAIL(TEMPFAIL, "%.64s: cannot run %s/sendmail (%s); nothing was queued\n", name, CLIENTS, strerror(errno));
}

static const char *scan(void) /* argv, for the configuration that it names and what a dot means */
{
    const char *config = NULL, *value;
    for (char **next = words + 1; *next && **next == '-' && strcmp(*next, "-") && strcmp(*next, "--"); next++)
        for (const char *option = *next + 1; *option; option++) {
            if (strchr(LEFT_TO_PYTHON, *option))
                python();
            dot_ends = dot_ends && *option != 'i';
            if (!strchr(TAKES_VALUE, *option))
                continue;
            value = option[1] ? option + 1 : next[1] ? *++next : "";
            config = *option == 'C' ? value : config;
            dot_ends = dot_ends && (*option != 'o' || strcmp(value, "i"));
            if ((*option == 'b' && strcmp(value, "m")) || (*option == 'o' && strchr("iv", *value) && strcmp(value, "i")))
                python();
            break;
        }
    return config;
}

static bool finds_socket(const char *path) /* in a configuration: its first line that reads socket = "..." */
{
    struct stat st;
    FILE *file = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "re") : NULL;
    char *line = NULL;
    for (size_t room = 0; file && getline(&line, &room, file) > 0;) {
        int start = 0, end = 0;
        sscanf(line, " socket = \"%n%*[^\"\\]%n", &start, &end);
        if (start && line[end] == '"' && line[start] == '/' && end - start <= MAX_SOCKET_OCTETS)
            return memcpy(address.sun_path, line + start, (size_t)(end - start));
        if ((start && (!end || line[end] == '"')) || *line == '\xef')
            python(); /* no path, one that is too long, a byte order mark */
    }
    return false;
}

static void find_instance(const char *named)
{
    const char *home = getenv("HOME");
    struct stat st;
    if (getuid() != geteuid() || getgid() != getegid() || getenv("NAME"))
        python(); /* a set-id program's environment is that of whoever started it; no name goes into E here */
    if (!named || !*named)
        named = getenv("PYSENDMAIL_CONFIG");
    if (named && *named) {
        if (!finds_socket(named))
            python();
    } else if (getuid() &&
               (getenv("XDG_CONFIG_HOME") || !home || *home != '/' ||
                snprintf(text, sizeof text, "%s/.config/pysendmail/pysendmail.toml", home) >= (int)sizeof text ||
                stat(text, &st) == 0)) {
        python(); /* he has an instance of his own, or may have one */
    } else if (!finds_socket(SYSTEM_CONFIG)) {
        strcpy(address.sun_path, SYSTEM_SOCKET);
    }
}

static size_t size_of(const unsigned char *frame)
{
    return (size_t)frame[1] << 24 | (size_t)frame[2] << 16 | (size_t)frame[3] << 8 | frame[4];
}

static void put(char kind, const void *payload, size_t size)
{
    unsigned char *frame = wire + filled;
    memmove(frame + HEADER_OCTETS, payload, size);
    frame[0] = (unsigned char)kind;
    for (int i = 1; i < HEADER_OCTETS; i++)
        frame[i] = (unsigned char)(size >> (32 - 8 * i));
    filled += HEADER_OCTETS + size;
}

static unsigned char *claim(unsigned char *at, const char *variable, const char *path, const char *begin)
{ /* what this process is of: the rest of a line of that file */
    char found[MAX_CLAIM_OCTETS + 1], *line = found, *end;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, found, MAX_CLAIM_OCTETS);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return at;
    for (found[n] = '\0'; strncmp(line, begin, strlen(begin)); line = end + 1)
        if (!(end = strchr(line, '\n')))
            return at;
    line += strlen(begin);
    return at + sprintf((char *)at, "%s=%.*s", variable, (int)strcspn(line, "\n"), line) + 1;
}

static void put_opening(void)
{
    put('V', hello, sizeof hello);
    unsigned char *start = wire + filled + HEADER_OCTETS, *at = start;
    for (char **word = words; *word; at = mempcpy(at, *word, strlen(*word) + 1), word++)
        if (word - words >= MAX_ARGUMENTS || strlen(*word) >= (size_t)(start + MAX_ARGV_OCTETS - at))
            python();
    put('A', start, (size_t)(at - start));
    start = at = wire + filled + HEADER_OCTETS;
    snprintf(text, sizeof text, "/proc/%d/comm", (int)getppid());
    at = claim(at, "PYSENDMAIL_COMMAND", text, "");
    at = claim(at, "PYSENDMAIL_CGROUP", "/proc/self/cgroup", "0::");
    if (at > start)
        put('E', start, (size_t)(at - start));
    opening = filled;
}

static void take(void) /* the next piece of standard input, or its end */
{
    static enum { INSIDE, START, DOT } line = START;
    unsigned char *piece = wire + filled + HEADER_OCTETS;
    ssize_t n;
    while ((n = read(0, piece, READ)) < 0 && errno == EAGAIN)
        ready(0, POLLIN, -1);
    if (n < 0)
        FAIL(IOERR, "%s: cannot read standard input (%s); nothing was queued\n", name, strerror(errno));
    for (unsigned char *at = piece; at < piece + n; at++) {
        dotted = dotted || (dot_ends && line == DOT && *at == '\n');
        line = *at == '\n' ? START : (line == START && *at == '.') || (line == DOT && *at == '\r') ? DOT : INSIDE;
    }
    ended = n == 0;
    put(ended ? 'Z' : 'D', piece, (size_t)n);
    whole = whole && filled - opening <= BUFFER;
}

static _Noreturn void hand_over(void) /* to Python, as standard input: what was read, up to its end or a lone dot */
{
    int fd = memfd_create("input", MFD_CLOEXEC);
    for (size_t total = 0; fd >= 0 && total <= SPOOL; filled = opening, take()) {
        for (unsigned char *at = wire + opening; at < wire + filled; at += HEADER_OCTETS + size_of(at)) {
            total += size_of(at);
            if (write(fd, at + HEADER_OCTETS, size_of(at)) != (ssize_t)size_of(at))
                total = SPOOL + 1;
        }
        if (total <= SPOOL && (ended || dotted) && lseek(fd, 0, SEEK_SET) == 0 && dup2(fd, 0) == 0)
            python();
    }
    why = "nobody listens, and the message cannot be kept here";
    DAEMON_FAILED("nothing was queued, try again later");
}

static int receive(int sock, bool asked) /* shows what has come; the exit code, or one of its like */
{
    ssize_t n = recv(sock, came + got, sizeof came - got, 0);
    why = n == 0 ? "it closed the connection" : strerror(errno);
    if (n <= 0)
        return LOST;
    for (got += (size_t)n; got >= HEADER_OCTETS;) {
        size_t size = size_of(came);
        bool output = came[0] == '1' || came[0] == '2', code = came[0] == 'X', unknown = came[0] == 'U' && asked;
        why = "it answered with something else than our protocol";
        if (!(output && size <= MAX_CHUNK) && !(code && size == 1) && !(unknown && size == 0))
            return LOST;
        if (got < HEADER_OCTETS + size)
            break;
        if (!output)
            return code ? came[HEADER_OCTETS] : UNKNOWN;
        show(came[0] - '0', came + HEADER_OCTETS, size);
        got -= HEADER_OCTETS + size;
        memmove(came, came + HEADER_OCTETS + size, got);
    }
    return UNFINISHED;
}

static int dial(long long deadline) /* -1: nobody listens. To wait for room in a backlog takes no interpreter */
{
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    while (connect(sock, (struct sockaddr *)&address, sizeof address) != 0)
        if (errno != EAGAIN || !left(deadline, 1) || poll(NULL, 0, PAUSE_MS) != 0) {
            close(sock);
            return -1;
        }
    return sock;
}

static int converse(size_t sent, bool asks, long long deadline) /* from there on the wire to its end */
{
    int sock = dial(asks ? deadline : now() + RESTART_MS), code = sock < 0 ? NOBODY : UNFINISHED;
    bool deaf = false;
    for (got = 0; code == UNFINISHED;) {
        ssize_t n = 0;
        while (sent < filled && (n = send(sock, wire + sent, filled - sent, 0)) >= 0)
            sent += (size_t)n;
        deaf = deaf || (n < 0 && errno != EAGAIN); /* it has said all that it wants to say, which we go on to read */
        sent = deaf ? filled : sent;
        complete = sent == filled && !deaf && ended;
        bool reads = sent == filled && !deaf && !ended;
        struct pollfd fds[] = {{sock, sent < filled ? POLLIN | POLLOUT : POLLIN, 0}, {reads ? 0 : -1, POLLIN, 0}};
        if (poll(fds, 2, reads ? -1 : left(deadline, ANSWER_MS)) == 0) {
            why = sent < filled ? "it has stopped reading" : "it did not answer in time";
            code = LOST;
        } else if (fds[0].revents & ~POLLOUT) {
            code = receive(sock, asks);
        } else if (fds[1].revents) {
            filled = sent = whole ? filled : opening;
            take();
        }
    }
    close(sock);
    return code;
}

static int ask(void) /* what became of a submission that was sent whole */
{
    const char *lost = why;
    long long deadline = now() + ASK_MS;
    size_t end = filled;
    int code;
    put('V', hello, sizeof hello);
    put('Q', "", 0);
    do
        code = converse(end, true, deadline);
    while (code < UNKNOWN && left(deadline, 1) && poll(NULL, 0, PAUSE_MS) == 0);
    filled = end;
    why = lost;
    if (code < UNKNOWN)
        DAEMON_FAILED("the message may have been queued, look at mailq before sending it again");
    return code;
}

int main(int argc, char **argv)
{
    struct stat st;
    words = argc ? argv : (char *[]){"sendmail", NULL};
    name = strrchr(*words, '/') ? strrchr(*words, '/') + 1 : *words;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            python();
    if (strcmp(name, "sendmail") && strcmp(name, "send-mail"))
        python();
    find_instance(scan());
    if (stat(address.sun_path, &st) || isatty(0) || getrandom(hello + 1, ID_OCTETS, 0) != ID_OCTETS)
        python();
    put_opening();
    while (!ended && !dotted && whole)
        take();
    for (int tries = TRIES; tries--; poll(NULL, 0, PAUSE_MS)) {
        int code = converse(0, false, LLONG_MAX);
        if (code == NOBODY)
            hand_over();
        if (code == LOST && complete)
            code = ask();
        if (code >= 0)
            leave(code);
        if (!whole)
            break;
    }
    DAEMON_FAILED("nothing was queued, try again later");
}
