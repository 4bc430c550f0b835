/*
 * A disk that turns: named in /etc/ld.so.preload, it makes each fsync and fdatasync of all programs (set-id ones, too)
 * take DELAY_US longer. Those that go on at the same time wait at the same time, as in the queue of a disk that sorts
 * them well, which is kind to whoever syncs often.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

static int later(const char *name, int fd)
{
    struct timespec delay = {DELAY_US / 1000000, DELAY_US % 1000000 * 1000};
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int done = real(fd);
    if (!done)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &delay, 0);
    return done;
}

int fsync(int fd)
{
    return later("fsync", fd);
}

int fdatasync(int fd)
{
    return later("fdatasync", fd);
}
