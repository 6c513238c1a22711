// Descriptors that tell of events: eventfd, epoll, timerfd, signalfd, inotify.
#include "chaos.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <time.h>

static struct { int fd, semaphore; u64 value; } counters[6];
static int ncounters;

static void make_eventfds(void) {
	for (int n = 1 + (int)below(4); n--; ncounters++) {
		counters[ncounters].semaphore = chance(40);
		counters[ncounters].value = chance(20) ? 0 : draw() >> (1 + below(60));
		counters[ncounters].fd = (int)MUST(eventfd(0, EFD_NONBLOCK | (counters[ncounters].semaphore ? EFD_SEMAPHORE : 0) | (chance(30) ? EFD_CLOEXEC : 0)));
		if (counters[ncounters].value) MUST(write(counters[ncounters].fd, &counters[ncounters].value, 8));
	}
}

static void check_eventfds(void) {
	for (int i = 0; i < ncounters; i++) {
		u64 v = 0, want = counters[i].semaphore && counters[i].value ? 1 : counters[i].value;
		ssize_t n = read(counters[i].fd, &v, 8);
		if (v != want || (n == 8) != (want != 0)) wrong("eventfd %d gives %lu, not %lu", counters[i].fd, v, want);
	}
}

// Members are pipes that can or cannot be read, watched in different ways.
static struct { int epoll, in, out, ready; u64 data; uint32_t events; } members[24];
static int nmembers, inner, outer;

static void make_epolls(void) {
	static const uint32_t ways[] = {0, EPOLLET, EPOLLONESHOT, EPOLLRDHUP, EPOLLPRI | EPOLLERR};
	for (int sets = 1 + (int)below(3); sets--;) {
		int epoll = (int)MUST(epoll_create1(chance(50) ? EPOLL_CLOEXEC : 0));
		for (int n = (int)below(7); n--; nmembers++) {
			int ends[2];
			MUST(pipe(ends));
			members[nmembers].epoll = epoll;
			members[nmembers].in = ends[0];
			members[nmembers].out = ends[1];
			members[nmembers].data = draw();
			members[nmembers].events = EPOLLIN | ways[below(COUNT(ways))];
			members[nmembers].ready = chance(40);
			struct epoll_event event = {.events = members[nmembers].events, .data.u64 = members[nmembers].data};
			MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event));
			if (members[nmembers].ready) MUST(write(ends[1], "x", 1));
		}
	}
	inner = outer = -1;
	if (chance(30)) { // a set in a set
		inner = (int)MUST(epoll_create1(0));
		outer = (int)MUST(epoll_create1(0));
		struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
		MUST(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event));
	}
}

static void check_epolls(void) {
	for (int i = 0; i < nmembers; i++) {
		if (i && members[i].epoll == members[i - 1].epoll) continue;
		struct epoll_event events[32];
		int n = epoll_wait(members[i].epoll, events, 32, 0);
		for (int k = i; k < nmembers && members[k].epoll == members[i].epoll; k++) {
			int found = 0;
			for (int e = 0; e < n; e++) found += events[e].data.u64 == members[k].data;
			if (found != members[k].ready) wrong("epoll %d says that %d is ready: %d, not %d", members[k].epoll, members[k].in, found, members[k].ready);
		}
		for (int k = i; k < nmembers && members[k].epoll == members[i].epoll; k++) {
			char c; // once more: what was not ready becomes so, and what was seen is told again or not
			if (members[k].ready) { if (read(members[k].in, &c, 1) != 1) wrong("member %d holds nothing", members[k].in); }
			else if (write(members[k].out, "y", 1) != 1) wrong("member %d cannot be written", members[k].out);
		}
		n = epoll_wait(members[i].epoll, events, 32, 0);
		for (int k = i; k < nmembers && members[k].epoll == members[i].epoll; k++) {
			int found = 0;
			for (int e = 0; e < n; e++) found += events[e].data.u64 == members[k].data;
			if (found == members[k].ready) wrong("epoll %d says later that %d is ready: %d", members[k].epoll, members[k].in, found);
		}
	}
	if (outer < 0) return;
	int ends[2];
	if (pipe(ends)) return;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 78};
	epoll_ctl(inner, EPOLL_CTL_ADD, ends[0], &event);
	if (write(ends[1], "x", 1) != 1 || epoll_wait(outer, &event, 1, 1000) != 1 || event.data.u64 != 77) wrong("the set in a set tells nothing");
	close(ends[0]);
	close(ends[1]);
}

// The clocks of a container stand still between capture and clone; the time of the day, for which some timers are set, does not.
static struct { int fd, clock, day, expired; time_t left, interval; struct timespec made; } clocks[8];
static int nclocks;

static void make_timerfds(void) {
	static const int kinds[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
	for (int n = 1 + (int)below(4); n--; nclocks++) {
		clocks[nclocks].clock = kinds[below(COUNT(kinds))];
		clocks[nclocks].fd = (int)MUST(timerfd_create(clocks[nclocks].clock, TFD_NONBLOCK));
		clocks[nclocks].expired = chance(25);
		clocks[nclocks].left = chance(20) ? 0 : 1000 + below(9000);
		clocks[nclocks].interval = chance(50) ? 500 + below(5000) : 0;
		int absolute = !clocks[nclocks].expired && clocks[nclocks].left && chance(40);
		clocks[nclocks].day = absolute && clocks[nclocks].clock == CLOCK_REALTIME;
		clock_gettime(clocks[nclocks].day ? CLOCK_REALTIME : CLOCK_MONOTONIC, &clocks[nclocks].made);
		struct itimerspec at = {.it_value = {clocks[nclocks].left, 0}, .it_interval = {clocks[nclocks].interval, 0}};
		if (clocks[nclocks].expired) at = (struct itimerspec){.it_value = {0, 1}, .it_interval = {clocks[nclocks].interval, 0}};
		struct timespec now;
		clock_gettime(clocks[nclocks].clock, &now);
		if (absolute) at.it_value.tv_sec += now.tv_sec;
		MUST(timerfd_settime(clocks[nclocks].fd, absolute ? TFD_TIMER_ABSTIME : 0, &at, 0));
		struct pollfd poll_fd = {clocks[nclocks].fd, POLLIN, 0};
		if (clocks[nclocks].expired) MUST(poll(&poll_fd, 1, 1000));
	}
}

static void check_timerfds(void) {
	for (int i = 0; i < nclocks; i++) {
		struct itimerspec is;
		struct timespec now;
		u64 ticks = 0;
		int fd = clocks[i].fd;
		clock_gettime(clocks[i].day ? CLOCK_REALTIME : CLOCK_MONOTONIC, &now);
		if (timerfd_gettime(fd, &is)) { wrong("timerfd %d: %s", fd, strerror(errno)); continue; }
		time_t left = clocks[i].left - (now.tv_sec - clocks[i].made.tv_sec);
		if (clocks[i].expired) left = clocks[i].interval ? clocks[i].interval - (now.tv_sec - clocks[i].made.tv_sec) : 0;
		if (!clocks[i].left && !clocks[i].expired) left = 0;
		if (labs(is.it_value.tv_sec - left) > 3) wrong("timerfd %d%s has %ld seconds to go, not %ld", fd, clocks[i].day ? " for a time of the day" : "", is.it_value.tv_sec, left);
		time_t interval = clocks[i].left || clocks[i].expired ? clocks[i].interval : is.it_interval.tv_sec;
		if (is.it_interval.tv_sec != interval) wrong("timerfd %d has an interval of %ld, not %ld", fd, is.it_interval.tv_sec, interval);
		ssize_t n = read(fd, &ticks, 8);
		if ((n == 8) != clocks[i].expired) wrong("timerfd %d has expired: %zd, %lu", fd, n, ticks);
		struct itimerspec soon = {.it_value = {0, 1000000}};
		struct pollfd poll_fd = {fd, POLLIN, 0};
		if (timerfd_settime(fd, 0, &soon, 0) || poll(&poll_fd, 1, 3000) != 1) wrong("timerfd %d does not run", fd);
	}
}

static struct { int fd; u64 mask; } queues[4];
static int nqueues;

static void make_signalfds(void) {
	for (int n = 1 + (int)below(3); n--; nqueues++) {
		sigset_t set;
		sigemptyset(&set);
		for (int sig = SIGRTMIN + 10; sig <= 64; sig++)
			if (chance(30)) sigaddset(&set, sig);
		sigaddset(&set, SIGRTMIN + 10 + nqueues);
		queues[nqueues].mask = set.__val[0];
		queues[nqueues].fd = (int)MUST(signalfd(-1, &set, SFD_NONBLOCK));
	}
}

static void check_signalfds(void) {
	for (int i = 0; i < nqueues; i++) {
		int sig = SIGRTMIN + 10 + i;
		sigset_t set, old;
		sigemptyset(&set);
		sigaddset(&set, sig);
		sigprocmask(SIG_BLOCK, &set, &old);
		struct signalfd_siginfo info = {0};
		syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), sig);
		if (read(queues[i].fd, &info, sizeof info) != sizeof info || (int)info.ssi_signo != sig) wrong("signalfd %d tells nothing of signal %d", queues[i].fd, sig);
		sigprocmask(SIG_SETMASK, &old, 0);
	}
}

static int watchers[3], watched[3], nwatchers;
static void make_inotify(void) {
	for (int n = 1 + (int)below(2); n--; nwatchers++) {
		int fd = watchers[nwatchers] = (int)MUST(inotify_init1(chance(50) ? IN_NONBLOCK : IN_CLOEXEC));
		if (chance(40)) MUST(inotify_add_watch(fd, "/etc/passwd", IN_MODIFY | IN_ATTRIB | (chance(50) ? IN_ONESHOT : 0)));
		if (chance(50)) continue;
		watched[nwatchers] = (int)MUST(inotify_add_watch(fd, "/dev/shm", IN_DELETE | IN_MOVED_TO | (chance(50) ? IN_EXCL_UNLINK : 0)));
	}
}

static void check_inotify(void) {
	for (int i = 0; i < nwatchers; i++) {
		char b[512];
		struct inotify_event event = {0};
		int other = open("/dev/shm/watched", O_CREAT | O_WRONLY, 0600);
		close(other);
		unlink("/dev/shm/watched");
		if (watched[i] && (read(watchers[i], b, sizeof b) < (ssize_t)sizeof event || !memcpy(&event, b, sizeof event) || event.wd != watched[i] || event.mask != IN_DELETE))
			wrong("inotify %d tells of watch %d, %#x, not of watch %d", watchers[i], event.wd, event.mask, watched[i]);
		int watch = inotify_add_watch(watchers[i], "/tmp", IN_CREATE);
		if (watch < 0) { wrong("inotify %d: %s", watchers[i], strerror(errno)); continue; }
		close(open("/tmp/watched", O_CREAT | O_WRONLY, 0600));
		unlink("/tmp/watched");
		if (read(watchers[i], b, sizeof b) <= 0) wrong("inotify %d tells nothing", watchers[i]);
	}
}

const struct feature feature_eventfds = {"eventfds", make_eventfds, check_eventfds, 0}, feature_epolls = {"epolls", make_epolls, check_epolls, 0},
	feature_timerfds = {"timerfds", make_timerfds, check_timerfds, 0}, feature_signalfds = {"signalfds", make_signalfds, check_signalfds, 0},
	feature_inotify = {"inotify", make_inotify, check_inotify, 0};
