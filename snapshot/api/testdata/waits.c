// Threads that wait ten minutes, one in each call that the kernel goes on with by restart_syscall. When one of them
// returns, the program ends with a code that says which. While none has, a number grows in /status.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct timespec wait = {600, 0};

static void returned(int code, const char *what) {
	dprintf(2, "%s returned: %m\n", what);
	_exit(code);
}

static void *in_poll(void *arg) {
	int fds[2];
	if (pipe(fds)) _exit(2);
	struct pollfd p = {.fd = fds[0], .events = POLLIN};
	syscall(SYS_poll, &p, 1, 600 * 1000);
	returned(11, "poll");
	return arg;
}

static void *in_futex(void *arg) {
	static int word = 7;
	syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &wait, 0, 0);
	returned(12, "futex");
	return arg;
}

static void *in_clock(void *arg) {
	syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &wait, 0);
	returned(13, "clock_nanosleep");
	return arg;
}

static void *in_nanosleep(void *arg) {
	syscall(SYS_nanosleep, &wait, 0);
	returned(10, "nanosleep");
	return arg;
}

static void *count(void *arg) {
	for (long round = 1;; round++) {
		FILE *f = fopen("/status.new", "w");
		fprintf(f, "round %ld\n", round);
		fclose(f);
		rename("/status.new", "/status");
		usleep(1000);
	}
	return arg;
}

// The first thread waits in the call that the argument names.
int main(int argc, char **argv) {
	static const struct { const char *name; void *(*wait)(void *); } calls[] = {
		{"nanosleep", in_nanosleep}, {"poll", in_poll}, {"futex", in_futex}, {"clock_nanosleep", in_clock},
	};
	pthread_t t;
	if (argc != 2 || pthread_create(&t, 0, count, 0)) return 2;
	for (int i = 0; i < 4; i++)
		if (strcmp(argv[1], calls[i].name) && pthread_create(&t, 0, calls[i].wait, 0)) return 2;
	for (int i = 0; i < 4; i++)
		if (!strcmp(argv[1], calls[i].name)) calls[i].wait(0);
}
