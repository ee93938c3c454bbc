/*
 * Lets a process that loads it first see a wall clock that jumps by ten seconds, back and forth, twice a second. It is
 * never ahead of the kernel's, by which a thread that waits until a time of day would sleep for so long; one that
 * works out how long to wait just when the clock is set back sleeps for these ten seconds (for a day, when it was one).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <sys/time.h>
#include <time.h>

static int (*real_clock_gettime)(clockid_t, struct timespec *);

static long jump(void) {
    struct timespec steady;
    if (!real_clock_gettime) {
        real_clock_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    }
    real_clock_gettime(CLOCK_MONOTONIC, &steady);
    return (steady.tv_nsec < 500000000L) ? 0L : -10L;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    long seconds = jump();
    int status = real_clock_gettime(clock, now);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        now->tv_sec += seconds;
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact)) {
        return -1;
    }
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) {
        *now = exact.tv_sec;
    }
    return exact.tv_sec;
}
