// Threads of all kinds: each waits in another call, with names, masks, stacks and registers of its own, and examines itself
// when it is woken.
#include "chaos.h"
#include <asm/prctl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <time.h>

#define MOST 16
#define WAKE (SIGRTMIN + 3) // reaches threads that wait for nothing else
#define PARK (SIGRTMIN + 4) // is taken by sigwait

enum kind { FUTEX, BITSET, SLEEP, SLEEP_ABS, PAUSE, SUSPEND, PPOLL, SELECT, EPOLL, READ, SIGWAIT, SPIN, KINDS };
static const char *const kinds[] = {"futex", "futex-bitset", "nanosleep", "clock_nanosleep", "pause", "sigsuspend", "ppoll",
	"pselect", "epoll_wait", "read", "sigtimedwait", "spin"};

enum order { REST, EXAMINE, DESCRIBE };

static struct thread {
	pthread_t handle;
	enum kind kind;
	int index, event, epoll, pipe[2], holds, pending, drops, nice;
	volatile int order; // a futex
	sem_t done;
	pid_t tid;
	struct guard *guard;
	stack_t stack;
	sigset_t mask;
	u64 gs, key;
	pthread_mutex_t held;
	char name[16], who[40], flaw[300], born[1200], now[1200];
} threads[MOST];
static int count;
static _Thread_local struct thread *self;
static _Thread_local u64 mine[8]; // reached through the thread's own base register
static volatile int deaf;

static void flaw(struct thread *t, const char *what, long is, long was) {
	if (!t->flaw[0]) snprintf(t->flaw, sizeof t->flaw, "%s: %ld (%#lx), not %ld (%#lx)", what, is, is, was, was);
}

static void woken(int sig, siginfo_t *info, void *context) {
	char here;
	(void)context;
	if (!self) { deaf = 1; return; }
	int within = &here >= (char *)self->stack.ss_sp && &here < (char *)self->stack.ss_sp + self->stack.ss_size;
	if (sig != WAKE || info->si_pid != getpid()) flaw(self, "sender of the signal", info->si_pid, getpid());
	if (within != !!self->stack.ss_sp) flaw(self, "handler runs on the alternate stack", within, !within);
}

// describe writes down what only the thread itself can find out.
static void describe(struct thread *t, char *to, size_t size) {
	char name[17] = "";
	sigset_t mask;
	stack_t stack;
	struct sched_param param;
	struct { u64 next; long offset; u64 pending; } *head = 0;
	size_t length = 0;
	u64 gs = 0, fs = 0;
	int *address = 0;
	prctl(PR_GET_NAME, name);
	syscall(SYS_rt_sigprocmask, 0, 0, &mask, 8);
	sigaltstack(0, &stack);
	syscall(SYS_get_robust_list, 0, &head, &length);
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs);
	prctl(PR_GET_TID_ADDRESS, &address);
	struct rseq *rs = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	// The same registration once more is refused as busy; any other, or none, in another way.
	long again = syscall(SYS_rseq, rs, 32, 0, RSEQ_SIG), busy = again < 0 ? errno : 0;
	sched_getparam(0, &param);
	const char *who = t->who;
	snprintf(to, size, "%s tid %ld\n%s name %s\n%s mask %#lx\n%s stack %p+%zu flags %d\n%s robust %p+%zu offset %ld first %#lx\n%s gs %#lx fs %#lx\n"
		"%s clear %p\n%s rseq %p again %ld\n%s policy %d priority %d\n%s slack %d\n", who, syscall(SYS_gettid), who, name, who, mask.__val[0],
		who, stack.ss_sp, stack.ss_size, stack.ss_flags, who, (void *)head, length, head ? head->offset : 0, head ? head->next : 0,
		who, gs, fs, who, (void *)address, who, (void *)rs, busy, who, sched_getscheduler(0), param.sched_priority, who, prctl(PR_GET_TIMERSLACK));
}

// changes tells which lines are not as they were.
static void changes(const char *was, const char *is) {
	while (*was && *is) {
		int n = (int)strcspn(was, "\n"), m = (int)strcspn(is, "\n");
		if (n != m || strncmp(was, is, (size_t)n)) wrong("%.*s, was %.*s", m, is, n, was);
		was += n + 1;
		is += m + 1;
	}
}

static void examine(struct thread *t) {
	describe(t, t->now, sizeof t->now);
	if (syscall(SYS_gettid) != t->tid) flaw(t, "gettid", syscall(SYS_gettid), t->tid);
	if (!holds(mine, sizeof mine, t->key)) flaw(t, "thread-local memory", 0, 0);
	if (t->holds && pthread_mutex_unlock(&t->held)) flaw(t, "unlocking its mutex", 1, 0);
	if (t->holds && pthread_mutex_lock(&t->held)) flaw(t, "locking its mutex", 1, 0);
	unsigned cpu = 0;
	struct rseq *rs = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	for (int try = 0; try < 100; try++) { // it may be moved in between
		syscall(SYS_getcpu, &cpu, 0, 0);
		if (rs->cpu_id == cpu) break;
	}
	if (rs->cpu_id != cpu) flaw(t, "processor in the rseq area", rs->cpu_id, cpu);
	sigset_t want;
	sigemptyset(&want);
	sigaddset(&want, SIGRTMIN + 5);
	struct timespec none = {0, 0};
	for (int i = 0; i < t->pending; i++) {
		siginfo_t info = {0};
		int sig = sigtimedwait(&want, &info, &none);
		if (sig != SIGRTMIN + 5 || info.si_value.sival_int != t->index * 100 + i) flaw(t, "signal sent to the thread alone", sig, info.si_value.sival_int);
	}
	if (t->pending && sigtimedwait(&want, 0, &none) != -1) flaw(t, "one signal too many", 1, 0);
	t->pending = 0;
}

static long wait_for_order(struct thread *t) {
	struct timespec far = {100000, 123}, point;
	fd_set reading;
	sigset_t all = t->mask, park;
	struct epoll_event event;
	char byte;
	sigdelset(&all, WAKE);
	struct pollfd poll = {t->pipe[0], POLLIN, 0};
	struct guard *g = t->guard;
	switch (t->kind) {
	case FUTEX: return guarded(g, SYS_futex, (long)&t->order, FUTEX_WAIT, REST, 0, 0, 0);
	case BITSET:
		clock_gettime(CLOCK_MONOTONIC, &point);
		point.tv_sec += 5000;
		return guarded(g, SYS_futex, (long)&t->order, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, REST, (long)&point, 0, 0x55);
	case SLEEP: return guarded(g, SYS_nanosleep, (long)&far, (long)&point, 0, 0, 0, 0);
	case SLEEP_ABS:
		clock_gettime(CLOCK_MONOTONIC, &point);
		point.tv_sec += 9000;
		return guarded(g, SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, (long)&point, 0, 0, 0);
	case PAUSE: return guarded(g, SYS_pause, 0, 0, 0, 0, 0, 0);
	case SUSPEND: return guarded(g, SYS_rt_sigsuspend, (long)&all, 8, 0, 0, 0, 0);
	case PPOLL: return guarded(g, SYS_ppoll, (long)&poll, 1, (long)&far, (long)&all, 8, 0);
	case SELECT:
		FD_ZERO(&reading);
		FD_SET(t->pipe[0], &reading);
		return guarded(g, SYS_pselect6, t->pipe[0] + 1, (long)&reading, 0, 0, 0, 0);
	case EPOLL: return guarded(g, SYS_epoll_wait, t->epoll, (long)&event, 1, -1, 0, 0);
	case READ: return guarded(g, SYS_read, t->pipe[0], (long)&byte, 1, 0, 0, 0);
	case SIGWAIT:
		sigemptyset(&park);
		sigaddset(&park, PARK);
		return guarded(g, SYS_rt_sigtimedwait, (long)&park, 0, 0, 8, 0, 0);
	default: return guarded_spin(g, &t->order);
	}
}

static void drain(struct thread *t) {
	u64 n;
	char byte;
	if (t->kind == EPOLL && read(t->event, &n, 8) != 8) flaw(t, "its eventfd", errno, 0);
	if ((t->kind == PPOLL || t->kind == SELECT) && read(t->pipe[0], &byte, 1) != 1) flaw(t, "its pipe", errno, 0);
}

static void *live(void *arg) {
	struct thread *t = self = arg;
	t->tid = (pid_t)syscall(SYS_gettid);
	prctl(PR_SET_NAME, t->name);
	prctl(PR_SET_TIMERSLACK, 50000 + t->index * 10000);
	if (t->stack.ss_sp) sigaltstack(&t->stack, 0);
	if (t->gs) syscall(SYS_arch_prctl, ARCH_SET_GS, t->gs);
	if (t->drops) { // this thread alone
		struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
		struct __user_cap_data_struct data[2];
		syscall(SYS_capget, &head, data);
		data[0].effective &= ~(1u << t->drops);
		syscall(SYS_capset, &head, data);
	}
	if (t->nice) syscall(SYS_setpriority, PRIO_PROCESS, 0, t->nice);
	if (t->holds) pthread_mutex_lock(&t->held);
	fill(mine, sizeof mine, t->key);
	pthread_sigmask(SIG_SETMASK, &t->mask, 0);
	for (int i = 0; i < t->pending; i++) {
		siginfo_t info = {.si_code = SI_QUEUE, .si_pid = getpid(), .si_value.sival_int = t->index * 100 + i};
		syscall(SYS_rt_tgsigqueueinfo, getpid(), t->tid, SIGRTMIN + 5, &info);
	}
	describe(t, t->born, sizeof t->born);
	sem_post(&t->done);
	for (;;) {
		wait_for_order(t);
		int order = t->order;
		if (order == REST) continue; // a call that was interrupted and does not go on by itself
		drain(t);
		if (order == EXAMINE) examine(t);
		else describe(t, t->now, sizeof t->now);
		t->order = REST;
		sem_post(&t->done);
	}
	return 0;
}

static void make(void) {
	struct sigaction action = {.sa_sigaction = woken, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	sigaction(WAKE, &action, 0);
	count = 1 + (int)below(MOST);
	for (int i = 0; i < count; i++) {
		struct thread *t = &threads[i];
		t->index = i;
		do t->kind = below(KINDS); while (t->kind == SPIN && (i || chance(70))); // one at most: it takes a processor
		t->guard = guard_new(draw(), (int)below((unsigned)guard_best() + 1));
		t->key = draw();
		snprintf(t->name, sizeof t->name, "t%d %s", i, kinds[t->kind]);
		if (chance(20)) snprintf(t->name, sizeof t->name, ") R %d (x", i);
		snprintf(t->who, sizeof t->who, "thread %d (%s)", i, kinds[t->kind]);
		if (chance(50)) {
			t->stack.ss_size = 16384 + PAGE * below(8);
			t->stack.ss_sp = mmap(0, t->stack.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		}
		if (chance(30)) t->gs = (u64)&threads[i];
		t->holds = chance(40);
		t->drops = chance(20) ? CAP_SETGID + (int)below(2) : 0;
		t->nice = chance(20) ? 1 + (int)below(5) : 0;
		pthread_mutexattr_t robust;
		pthread_mutexattr_init(&robust);
		pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
		pthread_mutexattr_settype(&robust, PTHREAD_MUTEX_ERRORCHECK); // who unlocks it is compared
		pthread_mutex_init(&t->held, &robust);
		sigemptyset(&t->mask);
		for (int sig = 1; sig <= 64; sig++)
			if (chance(20) && sig != 32 && sig != 33) sigaddset(&t->mask, sig);
		sigaddset(&t->mask, PARK);
		sigaddset(&t->mask, SIGRTMIN + 5);
		sigaddset(&t->mask, SIGRTMIN + 6); // what is pending for the process must stay so
		sigaddset(&t->mask, SIGUSR1);
		if (t->kind == SUSPEND) sigaddset(&t->mask, WAKE);
		else sigdelset(&t->mask, WAKE);
		t->pending = chance(30) ? 1 + (int)below(3) : 0;
		if (t->kind == EPOLL) {
			t->event = (int)MUST(eventfd(0, 0));
			t->epoll = (int)MUST(epoll_create1(0));
			struct epoll_event event = {.events = EPOLLIN, .data.u64 = draw()};
			MUST(epoll_ctl(t->epoll, EPOLL_CTL_ADD, t->event, &event));
		}
		if (t->kind == READ || t->kind == PPOLL || t->kind == SELECT) MUST(pipe(t->pipe));
		sem_init(&t->done, 0, 0);
		if (pthread_create(&t->handle, 0, live, t)) die("pthread_create");
		sem_wait(&t->done);
	}
}

static int order(struct thread *t, int what) {
	u64 one = 1;
	t->order = what;
	switch (t->kind) {
	case FUTEX: syscall(SYS_futex, &t->order, FUTEX_WAKE, 1, 0, 0, 0); break;
	case BITSET: syscall(SYS_futex, &t->order, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 1, 0, 0, 0x11); break;
	case EPOLL: if (write(t->event, &one, 8) != 8) flaw(t, "waking it", errno, 0); break;
	case READ: case PPOLL: case SELECT: if (write(t->pipe[1], "x", 1) != 1) flaw(t, "waking it", errno, 0); break;
	case SIGWAIT: syscall(SYS_tgkill, getpid(), t->tid, PARK); break;
	case SPIN: break;
	default: syscall(SYS_tgkill, getpid(), t->tid, WAKE);
	}
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 10;
	return sem_timedwait(&t->done, &until);
}

static void check(void) {
	for (int i = 0; i < count; i++) {
		struct thread *t = &threads[i];
		if (order(t, EXAMINE)) { wrong("%s does not wake up", t->who); continue; }
		guard_verify(t->guard, t->who);
		if (t->flaw[0]) wrong("%s: %s", t->who, t->flaw);
		changes(t->born, t->now);
		if (t->holds && pthread_mutex_trylock(&t->held) != EBUSY) wrong("%s does not hold its mutex", t->who);
	}
	if (deaf) wrong("a signal went to a thread that it was not sent to");
}

static void report(void) {
	for (int i = 0; i < count; i++) {
		if (order(&threads[i], DESCRIBE)) say("%s does not wake up", threads[i].who);
		else say("%.*s", (int)strlen(threads[i].now) - 1, threads[i].now);
	}
}

const struct feature feature_threads = {"threads", make, check, report};
