// Signal handlers, signals that are pending, and timers that send some.
#include "chaos.h"
#include <sys/time.h>
#include <time.h>

#define QUEUED (SIGRTMIN + 6)
#define TICK (SIGRTMIN + 7)
#define FIRST (SIGRTMIN + 10)

struct kernel_action { void (*handler)(int, siginfo_t *, void *); unsigned long flags; void (*restorer)(void); u64 mask; };

static volatile int got, value;
static sigset_t during;

static void handler(int sig, siginfo_t *info, void *context) {
	(void)context;
	got = sig;
	value = info->si_value.sival_int;
	sigprocmask(SIG_BLOCK, 0, &during);
}

static struct { int sig; int flags; sigset_t mask; } handlers[24];
static int nhandlers;

static void make_handlers(void) {
	static const int ignorable[] = {SIGHUP, SIGUSR2, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH, SIGIO};
	for (int i = 0; i < COUNT(ignorable); i++)
		if (chance(30)) signal(ignorable[i], SIG_IGN);
	for (int n = (int)below(12); n--; nhandlers++) {
		handlers[nhandlers].sig = FIRST + nhandlers;
		handlers[nhandlers].flags = SA_SIGINFO | (chance(50) ? SA_RESTART : 0) | (chance(20) ? SA_NODEFER : 0) | (chance(10) ? SA_RESETHAND : 0);
		sigemptyset(&handlers[nhandlers].mask);
		for (int sig = 1; sig < 64; sig++)
			if (chance(20) && sig != SIGKILL && sig != SIGSTOP && sig != 32 && sig != 33) sigaddset(&handlers[nhandlers].mask, sig);
		struct sigaction action = {.sa_sigaction = handler, .sa_flags = handlers[nhandlers].flags, .sa_mask = handlers[nhandlers].mask};
		MUST(sigaction(handlers[nhandlers].sig, &action, 0));
	}
}

static void check_handlers(void) {
	sigset_t old, none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, 0, &old);
	for (int i = 0; i < nhandlers; i++) {
		siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid(), .si_value.sival_int = 1000 + i};
		got = value = 0;
		if (sigismember(&old, handlers[i].sig)) continue;
		syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), handlers[i].sig, &info);
		if (got != handlers[i].sig || value != 1000 + i) wrong("signal %d is not handled: %d, value %d", handlers[i].sig, got, value);
		for (int sig = 1; sig < 64; sig++) {
			int want = sigismember(&old, sig) || sigismember(&handlers[i].mask, sig) || (sig == handlers[i].sig && !(handlers[i].flags & SA_NODEFER));
			if (sigismember(&during, sig) != want) wrong("handler of %d: signal %d blocked %d", handlers[i].sig, sig, !want);
		}
	}
}

static void report_handlers(void) {
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_action a = {0};
		if (syscall(SYS_rt_sigaction, sig, 0, &a, 8) || (!a.handler && !a.flags)) continue;
		say("signal %d handler %p flags %#lx restorer %p mask %#lx", sig, (void *)a.handler, a.flags, (void *)a.restorer, a.mask);
	}
	sigset_t mask;
	syscall(SYS_rt_sigprocmask, 0, 0, &mask, 8);
	stack_t stack;
	sigaltstack(0, &stack);
	say("main mask %#lx stack %p+%zu flags %d", mask.__val[0], stack.ss_sp, stack.ss_size, stack.ss_flags);
}

static int queued, usual;

static void make_pending(void) {
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, QUEUED);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, 0);
	queued = 1 + (int)below(5);
	for (int i = 0; i < queued; i++) MUST(sigqueue(getpid(), QUEUED, (union sigval){.sival_int = 500 + i * 3}));
	if ((usual = chance(50))) MUST(kill(getpid(), SIGUSR1));
}

static void check_pending(void) {
	sigset_t set;
	struct timespec none = {0, 0};
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, QUEUED);
	for (int i = 0; i < queued; i++) {
		memset(&info, 0, sizeof info);
		int sig = sigtimedwait(&set, &info, &none);
		if (sig != QUEUED || info.si_value.sival_int != 500 + i * 3 || info.si_code != SI_QUEUE || info.si_pid != getpid())
			wrong("pending signal %d: %d, value %d, code %d, from %d", i, sig, info.si_value.sival_int, info.si_code, info.si_pid);
	}
	if (sigtimedwait(&set, &info, &none) != -1) wrong("one pending signal too many");
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	if ((sigtimedwait(&set, &info, &none) == SIGUSR1) != usual) wrong("SIGUSR1 is pending: %d", !usual);
}

static struct { timer_t id; int there; time_t left, interval; struct timespec made; } timers[10];
static int ntimers;

static void make_timers(void) {
	static const int clocks[] = {CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME};
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};
	sigaction(TICK, &action, 0);
	for (ntimers = 0; ntimers < 1 + (int)below(8); ntimers++) {
		struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK, .sigev_value.sival_int = 900 + ntimers};
		if (chance(20)) event.sigev_notify = SIGEV_NONE;
		MUST(timer_create(clocks[below(COUNT(clocks))], &event, &timers[ntimers].id));
		timers[ntimers].there = 1;
		timers[ntimers].left = chance(80) ? 1000 + below(5000) : 0;
		timers[ntimers].interval = chance(50) ? 700 + below(5000) : 0;
		struct itimerspec at = {.it_value = {timers[ntimers].left, 0}, .it_interval = {timers[ntimers].interval, 0}};
		clock_gettime(CLOCK_MONOTONIC, &timers[ntimers].made); // which, like these timers, stands still between capture and clone
		MUST(timer_settime(timers[ntimers].id, 0, &at, 0));
	}
	for (int i = 0; i < ntimers; i++)
		if (chance(30)) MUST(timer_delete(timers[i].id)), timers[i].there = 0;
}

static void check_timers(void) {
	for (int i = 0; i < ntimers; i++) {
		if (!timers[i].there) continue;
		struct itimerspec is;
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (timer_gettime(timers[i].id, &is)) { wrong("timer %d: %s", i, strerror(errno)); continue; }
		time_t left = timers[i].left ? timers[i].left - (now.tv_sec - timers[i].made.tv_sec) : 0;
		if (labs(is.it_value.tv_sec - left) > 3) wrong("timer %d has %ld seconds to go, not %ld", i, is.it_value.tv_sec, left);
		if (timers[i].left && is.it_interval.tv_sec != timers[i].interval) wrong("timer %d has an interval of %ld, not %ld", i, is.it_interval.tv_sec, timers[i].interval);
	}
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK, .sigev_value.sival_int = 12345};
	timer_t fresh;
	if (timer_create(CLOCK_MONOTONIC, &event, &fresh)) { wrong("no new timer: %s", strerror(errno)); return; }
	for (int i = 0; i < ntimers; i++)
		if (timers[i].there && timers[i].id == fresh) wrong("a new timer has the id of timer %d", i);
}

static void report_timers(void) {
	for (int i = 0; i < ntimers; i++) {
		struct itimerspec is = {0};
		if (timers[i].there && timer_gettime(timers[i].id, &is)) say("timer %d is missing", i);
		say("timer %d id %ld there %d interval %ld overrun %d", i, (long)timers[i].id, timers[i].there, is.it_interval.tv_sec, timers[i].there ? timer_getoverrun(timers[i].id) : 0);
	}
}

static struct itimerval intervals[3];
static struct timespec since;

static void make_itimers(void) {
	for (int which = 0; which < 3; which++) {
		if (!chance(50)) continue;
		intervals[which].it_value.tv_sec = 1000 + below(9000);
		intervals[which].it_interval.tv_sec = chance(50) ? 600 + below(900) : 0;
		MUST(setitimer(which, &intervals[which], 0));
	}
	clock_gettime(CLOCK_MONOTONIC, &since);
}

static void check_itimers(void) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	for (int which = 0; which < 3; which++) {
		struct itimerval is;
		getitimer(which, &is);
		time_t left = intervals[which].it_value.tv_sec;
		if (which == ITIMER_REAL && left) left -= now.tv_sec - since.tv_sec;
		if (labs(is.it_value.tv_sec - left) > (which == ITIMER_REAL ? 3 : 15)) wrong("interval timer %d has %ld seconds to go, not %ld", which, is.it_value.tv_sec, left);
		if (is.it_interval.tv_sec != intervals[which].it_interval.tv_sec) wrong("interval timer %d comes every %ld seconds", which, is.it_interval.tv_sec);
	}
}

const struct feature feature_handlers = {"handlers", make_handlers, check_handlers, report_handlers}, feature_pending = {"pending", make_pending, check_pending, 0},
	feature_timers = {"timers", make_timers, check_timers, report_timers}, feature_itimers = {"itimers", make_itimers, check_itimers, 0};
