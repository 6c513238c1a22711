// A program that has, in threads of its own, one of everything which a clone must have again. It stands ready until there
// is a file /go; then it checks all of it, and says in /report what was right ("ok NAME"), what was not ("bad NAME: WHY")
// and what is neither ("is NAME VALUE"). What the file /end says is how it then ends.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MARK 500 /* no system call: the filter answers it with ERRNO 77 */
#define PAGE 4096
#define REGION (64 * PAGE)
#define WORKERS 8

static FILE *report;
static volatile int go, calm; // calm: those that look at powers stop
static pthread_mutex_t said = PTHREAD_MUTEX_INITIALIZER;

static void say(const char *kind, const char *name, const char *format, va_list args) {
	pthread_mutex_lock(&said);
	fprintf(report, "%s %s%s", kind, name, strcmp(kind, "bad") ? " " : ": ");
	vfprintf(report, format, args);
	fputc('\n', report);
	fflush(report);
	pthread_mutex_unlock(&said);
}

static void check(int right, const char *name, const char *format, ...) {
	va_list args;
	va_start(args, format);
	if (right) format = "";
	say(right ? "ok" : "bad", name, format, args);
	va_end(args);
}

static void is(const char *name, const char *format, ...) {
	va_list args;
	va_start(args, format);
	say("is", name, format, args);
	va_end(args);
}

static void must(int right, const char *what) {
	if (right) return;
	perror(what);
	_exit(3);
}

static void fill(unsigned char *p, size_t n, unsigned seed) {
	for (size_t i = 0; i < n; i++) p[i] = (i * 31 + (i >> 12) * 7 + seed) | 1;
}

static int filled(const unsigned char *p, size_t n, unsigned seed) {
	for (size_t i = 0; i < n; i++)
		if (p[i] != (unsigned char)((i * 31 + (i >> 12) * 7 + seed) | 1)) return 0;
	return 1;
}

static int zero(const unsigned char *p, size_t n) {
	for (size_t i = 0; i < n; i++)
		if (p[i]) return 0;
	return 1;
}

static unsigned char *region(unsigned seed) {
	unsigned char *p = mmap(NULL, REGION + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	must(p != MAP_FAILED && !mprotect(p += PAGE, REGION, PROT_READ | PROT_WRITE), "map");
	fill(p, REGION, seed);
	return p;
}

/* Powers: what a thread may do, and which descriptors are open, looked at all the time. */
struct powers {
	struct __user_cap_data_struct caps[2];
	int nnp, seccomp, mark;
	unsigned char fds[2048];
};

static void look(struct powers *p) {
	static __thread struct pollfd polled[2048];
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	memset(p, 0, sizeof *p);
	syscall(SYS_capget, &h, p->caps);
	p->nnp = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
	p->seccomp = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
	p->mark = syscall(MARK) == -1 ? errno : 0;
	for (int i = 0; i < 2048; i++) polled[i] = (struct pollfd){i, 0, 0};
	syscall(SYS_poll, polled, 2048, 0);
	for (int i = 0; i < 2048; i++) p->fds[i] = !(polled[i].revents & POLLNVAL);
}

static struct powers expected;
static volatile long looked, differed;
static char difference[256];

static void *watch(void *arg) {
	static __thread struct powers now;
	while (!calm) {
		look(&now);
		looked++;
		if (memcmp(&now, &expected, sizeof now) && !differed++) {
			int n = snprintf(difference, sizeof difference, "caps %x/%x nnp %d seccomp %d mark %d fds", now.caps[0].effective,
					 now.caps[0].permitted, now.nnp, now.seccomp, now.mark);
			for (int i = 0; i < 2048 && n < 200; i++)
				if (now.fds[i] != expected.fds[i]) n += snprintf(difference + n, sizeof difference - n, " %d", i);
		}
	}
	return arg;
}

/* Clocks go on. */
static volatile long long largest_step[2], backwards;

static long long nanoseconds(clockid_t c) {
	struct timespec t;
	clock_gettime(c, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void *tick(void *arg) {
	static const clockid_t ids[2] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME};
	long long last[2] = {nanoseconds(ids[0]), nanoseconds(ids[1])};
	while (!go)
		for (int i = 0; i < 2; i++) {
			long long now = nanoseconds(ids[i]);
			if (now < last[i]) backwards = last[i] - now;
			if (now - last[i] > largest_step[i]) largest_step[i] = now - last[i];
			last[i] = now;
		}
	return arg;
}

/* Registers, held by a thread that does nothing else. */
#define Z(n) "vmovdqu64 " #n "*64(%0), %%zmm" #n "\n\t"
#define ZS(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%1)\n\t"
#define Y(n) "vmovdqu " #n "*64(%0), %%ymm" #n "\n\t"
#define YS(n) "vmovdqu %%ymm" #n ", " #n "*64(%1)\n\t"
#define ALL16(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define MORE16(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
static const char *wide = "none";

__attribute__((target("avx512f,avx512bw"))) static void spin512(unsigned char *in, unsigned char *out, uint64_t k[8], uint64_t *control) {
	__asm__ volatile(ALL16(Z) MORE16(Z) "mov $0x1234567812345678, %%rax\n\tkmovq %%rax, %%k1\n\tkmovq %%rax, %%k7\n\t"
			 "1: pause\n\tcmpl $0, (%2)\n\tje 1b\n\t" ALL16(ZS) MORE16(ZS)
			 "kmovq %%k1, (%3)\n\tkmovq %%k7, 8(%3)\n\tfnstcw (%4)\n\tstmxcsr 8(%4)\n\t"
			 : : "r"(in), "r"(out), "r"(&go), "r"(k), "r"(control) : "rax", "memory");
}

__attribute__((target("avx"))) static void spin256(unsigned char *in, unsigned char *out, uint64_t *control) {
	__asm__ volatile(ALL16(Y) "1: pause\n\tcmpl $0, (%2)\n\tje 1b\n\t" ALL16(YS) "fnstcw (%3)\n\tstmxcsr 8(%3)\n\t"
			 : : "r"(in), "r"(out), "r"(&go), "r"(control) : "rax", "memory");
}

static void *hold(void *arg) {
	static __thread unsigned char in[32 * 64], out[32 * 64];
	uint64_t k[8] = {0x1234567812345678, 0x1234567812345678}, control[2] = {0, 0};
	unsigned short cw = 0x0a7f; // another rounding, another precision
	unsigned mxcsr = 0x3f80;
	unsigned n = 0;
	fill(in, sizeof in, 77 + (unsigned)(uintptr_t)arg);
	__asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1\n\tfldpi\n\tfldl2e" : : "m"(cw), "m"(mxcsr));
	if (__builtin_cpu_supports("avx512bw")) {
		wide = "avx512", n = 64;
		spin512(in, out, k, control);
	} else if (__builtin_cpu_supports("avx")) {
		wide = "avx", n = 32;
		spin256(in, out, control);
	}
	long double a, b;
	__asm__ volatile("fstpt %0\n\tfstpt %1" : "=m"(a), "=m"(b));
	cw = 0x037f, mxcsr = 0x1f80;
	__asm__ volatile("fldcw %0\n\tldmxcsr %1" : : "m"(cw), "m"(mxcsr));
	int right = 1;
	for (unsigned i = 0; n && i < (n == 64 ? 32 : 16); i++) right &= !memcmp(in + i * 64, out + i * 64, n);
	check(right, "wide registers", "they changed");
	check(k[0] == 0x1234567812345678 && k[1] == k[0], "mask registers", "%lx %lx", k[0], k[1]);
	check(!n || (control[0] == 0x0a7f && (control[1] & ~0x3fULL) == 0x3f80), "control words", "%lx %lx", control[0], control[1]);
	check(a > 1.44L && a < 1.45L && b > 3.14L && b < 3.15L, "x87 stack", "%Lf %Lf", a, b);
	return NULL;
}

/* Threads that wait, each with all that is a thread's own. */
static struct worker {
	pthread_t thread;
	pid_t tid;
	int number;
	unsigned char *stack;
	void *robust;
	pthread_mutex_t lock; // held by it
	volatile int on_stack;
} workers[WORKERS];
static __thread int mine;
static __thread struct worker *self;
static pthread_barrier_t ready;

static void on_usr1(int sig) {
	char local;
	(void)sig;
	if (self) self->on_stack = (unsigned char *)&local >= self->stack && (unsigned char *)&local < self->stack + REGION ? 1 : -1;
}

static void rseq_follows(const char *name) {
	struct rseq *r = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t before, one;
	int right = __rseq_size > 0, cpu = -1;
	sched_getaffinity(0, sizeof before, &before);
	for (int i = 0; i < CPU_SETSIZE && right; i++) {
		if (!CPU_ISSET(i, &before)) continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		sched_setaffinity(0, sizeof one, &one);
		cpu = *(volatile uint32_t *)&r->cpu_id;
		right = cpu == i && sched_getcpu() == i;
	}
	sched_setaffinity(0, sizeof before, &before);
	check(right, name, "cpu_id %d, size %u", cpu, __rseq_size);
}

static void *work(void *arg) {
	struct worker *w = arg;
	char name[16], want[16];
	stack_t st = {.ss_sp = w->stack = region(w->number), .ss_size = REGION}, got;
	void *head;
	size_t len;
	self = w;
	mine = 1000 + w->number;
	w->tid = syscall(SYS_gettid);
	must(!sigaltstack(&st, NULL), "sigaltstack");
	snprintf(want, sizeof want, "worker%d", w->number);
	prctl(PR_SET_NAME, want);
	prctl(PR_SET_TIMERSLACK, 100000 + w->number);
	setpriority(PRIO_PROCESS, 0, w->number % 3);
	must(!syscall(SYS_get_robust_list, 0, &w->robust, &len), "robust list");
	pthread_mutex_lock(&w->lock);
	pthread_barrier_wait(&ready);
	while (!go) syscall(SYS_futex, &go, FUTEX_WAIT, 0, NULL, NULL, 0);
	check(mine == 1000 + w->number && self == w, "thread-local storage", "%d", mine);
	check(syscall(SYS_gettid) == w->tid, "thread id", "%ld, was %d", syscall(SYS_gettid), w->tid);
	check(!syscall(SYS_get_robust_list, 0, &head, &len) && head == w->robust, "robust list", "%p, was %p", head, w->robust);
	check(!sigaltstack(NULL, &got) && got.ss_sp == w->stack && got.ss_size == REGION && got.ss_flags == 0, "alternate stack",
	      "%p flags %x", got.ss_sp, got.ss_flags);
	check(!prctl(PR_GET_NAME, name) && !strcmp(name, want), "name", "%s, was %s", name, want);
	check(getpriority(PRIO_PROCESS, 0) == w->number % 3, "nice", "%d", getpriority(PRIO_PROCESS, 0));
	if (w->number == 3) is("timer slack of a thread", "%d", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
	rseq_follows("rseq");
	struct powers now;
	look(&now);
	now.fds[fileno(report)] = 0;
	check(!memcmp(&now, &expected, sizeof now), "powers of a thread", "caps %x nnp %d seccomp %d mark %d", now.caps[0].effective, now.nnp, now.seccomp, now.mark);
	pthread_barrier_wait(&ready); // a signal comes
	for (int i = 0; i < 10000 && !w->on_stack; i++) usleep(1000);
	check(w->on_stack == 1, "handler on its alternate stack", "%d", w->on_stack);
	return NULL; // and does not unlock
}

/* Timers and signals. */
static volatile long ticks[3];
static void on_alarm(int sig) { ticks[0] += sig == SIGALRM; ticks[1] += sig == SIGRTMIN + 3; }
static sigjmp_buf back;
static void on_fault(int sig) { siglongjmp(back, sig); }

static int faults(volatile unsigned char *p, int write) {
	if (sigsetjmp(back, 1)) return 1;
	if (write) *p = 1; else (void)*p;
	return 0;
}

static void *return_tid(void *arg) {
	*(volatile pid_t *)arg = syscall(SYS_gettid);
	pthread_barrier_wait(&ready);
	return arg;
}

static int tasks(void) {
	int n = 0;
	char name[64];
	for (int i = 1; i < 2000; i++) {
		snprintf(name, sizeof name, "/proc/self/task/%d", i);
		n += !access(name, F_OK);
	}
	return n;
}

static void threads(void) {
	enum { many = 40 };
	pthread_t t[many];
	pid_t tids[many];
	int before = tasks(), unique = 1;
	pthread_barrier_destroy(&ready);
	pthread_barrier_init(&ready, NULL, many + 1);
	for (int i = 0; i < many; i++) must(!pthread_create(&t[i], NULL, return_tid, &tids[i]), "thread");
	int during = tasks();
	pthread_barrier_wait(&ready);
	for (int i = 0; i < many; i++) pthread_join(t[i], NULL);
	for (int i = 0; i < many; i++)
		for (int j = 0; j < i; j++) unique &= tids[i] != tids[j];
	check(unique && during == before + many, "new threads", "unique %d, %d tasks and then %d", unique, before, during);
}

static int child(int (*f)(void)) {
	pid_t pid = fork();
	int status;
	if (pid == 0) _exit(f());
	if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static unsigned char *plain, *wiped, *unforked, *dropped, *freed, *protected, *guarded, *thp;
static int in_child(void) {
	unsigned char v;
	if (!filled(plain, REGION, 1)) return 1;
	if (!zero(wiped, REGION)) return 2;
	if (mincore(unforked, PAGE, &v) != -1 || errno != ENOMEM) return 3;
	if (getppid() != 1) return 4;
	return 42;
}
static int in_exec(void) {
	execl("/proc/self/exe", "life", "child", NULL);
	return 1;
}

static void memory(void) {
	check(filled(plain, REGION, 1), "memory", "changed");
	is("WIPEONFORK", "%s", filled(wiped, REGION, 2) ? "kept" : zero(wiped, REGION) ? "zero" : "garbage");
	check(filled(unforked, REGION, 3), "memory kept from forks", "changed");
	check(filled(protected, REGION, 6), "read-only memory", "changed");
	check(faults(protected, 1), "write to read-only memory", "no fault");
	check(faults(plain - PAGE, 0), "guard", "no fault");
	is("guard page", "%d", guarded ? faults(guarded + PAGE, 0) : -1);
	check(!mprotect(protected, PAGE, PROT_READ | PROT_WRITE) && !faults(protected, 1), "mprotect", "%m");
	check(filled(dropped, REGION, 4) && !madvise(dropped, REGION, MADV_DONTNEED) && zero(dropped, REGION), "DONTNEED", "not zeros");
	fill(dropped, REGION, 14);
	check(filled(dropped, REGION, 14), "memory after DONTNEED", "changed");
	check(!madvise(freed, REGION, MADV_FREE), "FREE", "%m");
	fill(freed, REGION, 15);
	check(filled(freed, REGION, 15), "memory after FREE", "changed");
	check(filled(thp, 4 << 20, 8), "huge pages", "changed");
	check(!madvise(thp, 4 << 20, MADV_DONTNEED) && zero(thp, 4 << 20), "DONTNEED of huge pages", "not zeros");
	int c = child(in_child);
	check(c == 42, "fork", "%d", c);
	c = child(in_exec);
	check(c == 43, "exec", "%d", c);
	unsigned char *b = sbrk(1 << 20);
	check(b != (void *)-1 && (fill(b, 1 << 20, 9), filled(b, 1 << 20, 9)), "brk", "%m");
	unsigned char *m = mremap(plain, REGION, 4 * REGION, MREMAP_MAYMOVE);
	check(m != MAP_FAILED && filled(m, REGION, 1) && zero(m + REGION, 3 * REGION), "mremap", "%m");
	plain = m;
}

static int deep(int n) {
	volatile char page[PAGE];
	page[0] = n;
	return n ? deep(n - 1) + page[0] - (char)n : 0;
}

static int mapping_of(unsigned long at, char *name, size_t n) {
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned long from, to;
	int found = 0;
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && at >= from && at < to) {
			char *p = strrchr(line, ' ');
			snprintf(name, n, "%s", p ? p + 1 : "");
			name[strcspn(name, "\n")] = 0;
			found = 1;
		}
	if (f) fclose(f);
	return found;
}

static void clocks(void) {
	long long direct, before, after;
	struct timespec t;
	char name[64] = "";
	before = nanoseconds(CLOCK_MONOTONIC);
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
	direct = t.tv_sec * 1000000000LL + t.tv_nsec;
	after = nanoseconds(CLOCK_MONOTONIC);
	check(before <= direct && direct <= after, "vdso's clock", "%lld %lld %lld", before, direct, after);
	check(mapping_of(getauxval(AT_SYSINFO_EHDR), name, sizeof name) && !strcmp(name, "[vdso]"), "vdso", "%s", name);
	check(!memcmp((void *)getauxval(AT_SYSINFO_EHDR), "\177ELF", 4), "vdso's header", "none");
	for (int i = 0; i < 2; i++) check(largest_step[i] < 2500000000LL, i ? "boot time" : "monotonic time", "a step of %lld ns", largest_step[i]);
	check(!backwards, "time", "went back by %lld", backwards);
	check(getauxval(AT_PAGESZ) == PAGE && getauxval(AT_RANDOM), "auxiliary vector", "%lu", getauxval(AT_PAGESZ));
}

static void values(void) {
	static const struct { const char *name; int op; } ops[] = {
		{"dumpable", PR_GET_DUMPABLE}, {"keepcaps", PR_GET_KEEPCAPS}, {"securebits", PR_GET_SECUREBITS},
		{"timer slack", PR_GET_TIMERSLACK}, {"thp", PR_GET_THP_DISABLE}, {"tsc", PR_GET_TSC}, {"no_new_privs", PR_GET_NO_NEW_PRIVS},
		{"mce kill", PR_MCE_KILL_GET}, {"io flusher", 58}, {"mdwe", 66}, {"timing", PR_GET_TIMING},
	};
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		int v = -1, got = prctl(ops[i].op, 0, 0, 0, 0);
		if (ops[i].op == PR_GET_TSC) prctl(ops[i].op, &v), got = v;
		is(ops[i].name, "%d", got);
	}
	int v = -1;
	prctl(PR_GET_CHILD_SUBREAPER, &v);
	is("subreaper", "%d", v);
	is("speculation", "%d %d", prctl(PR_GET_SPECULATION_CTRL, 0, 0, 0, 0), prctl(PR_GET_SPECULATION_CTRL, 1, 0, 0, 0));
	is("umask", "%o", umask(0));
	is("nice", "%d", getpriority(PRIO_PROCESS, 0));
	is("ids", "%d %d %d %d %d", getpid(), getpgrp(), getsid(0), getuid(), getgid());
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit l;
		char name[32];
		getrlimit(i, &l);
		snprintf(name, sizeof name, "limit %d", i);
		is(name, "%ld %ld", (long)l.rlim_cur, (long)l.rlim_max);
	}
	for (int s = 1; s < 65; s++) {
		struct { void *handler; unsigned long flags; void *restorer; unsigned long mask; } sa;
		char name[32];
		if (syscall(SYS_rt_sigaction, s, NULL, &sa, 8)) continue;
		snprintf(name, sizeof name, "signal %d", s);
		is(name, "%p %lx %lx", sa.handler, sa.flags, sa.mask);
	}
	char exe[64] = "";
	must(readlink("/proc/self/exe", exe, sizeof exe - 1) > 0, "exe");
	is("exe", "%s", exe);
	FILE *f = fopen("/proc/self/status", "r");
	char line[256];
	while (f && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		if (!strncmp(line, "Cap", 3) || !strncmp(line, "Seccomp", 7) || !strncmp(line, "Groups", 6) || !strncmp(line, "Sig", 3) || !strncmp(line, "Shd", 3) ||
		    !strncmp(line, "Speculation", 11) || !strncmp(line, "x86", 3) || !strncmp(line, "THP", 3) || !strncmp(line, "Core", 4) || !strncmp(line, "NSpid", 5))
			is("status", "%s", line);
	}
	if (f) fclose(f);
}

static void filter(void) {
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {4, code};
	must(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges");
	must(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog), "filter");
}

int main(int argc, char **argv) {
	if (argc > 1 && !strcmp(argv[1], "child")) return 43;
	struct sigaction alarm = {.sa_handler = on_alarm, .sa_flags = SA_RESTART}, usr = {.sa_handler = on_usr1, .sa_flags = SA_ONSTACK},
			 fault = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
	struct itimerspec every = {{0, 10000000}, {0, 10000000}};
	struct itimerval interval = {{0, 20000}, {0, 20000}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3};
	pthread_mutexattr_t robust;
	pthread_t other[6];
	sigset_t all, some;
	timer_t timer;
	char how[32] = "";
	stack_t own;
	struct timespec ms = {0, 1000000};

	if (argc > 1 && !strcmp(argv[1], "filtered")) filter();
	int filters = prctl(PR_GET_SECCOMP, 0, 0, 0, 0);
	plain = region(1), wiped = region(2), unforked = region(3), dropped = region(4), freed = region(5), protected = region(6);
	thp = aligned_alloc(2 << 20, 4 << 20);
	must(thp && !madvise(thp, 4 << 20, MADV_HUGEPAGE), "huge pages");
	fill(thp, 4 << 20, 8);
	must(!madvise(wiped, REGION, MADV_WIPEONFORK) && !madvise(unforked, REGION, MADV_DONTFORK) && !mprotect(protected, REGION, PROT_READ), "advise");
	guarded = region(7);
	if (madvise(guarded + PAGE, PAGE, 102)) guarded = NULL;
	must(!syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0), "membarrier");
	must(!prctl(PR_SET_TIMERSLACK, 123456) && !prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
	umask(027);
	sbrk(1 << 16);

	int tfd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	must(dup2(tfd, 1000) == 1000, "dup"); // a number beyond the usual
	sigfillset(&all);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	sigaction(SIGRTMIN + 3, &alarm, NULL);
	sigaction(SIGUSR1, &usr, NULL);
	sigaction(SIGSEGV, &fault, NULL);
	must(!timerfd_settime(tfd, 0, &every, NULL) && !setitimer(ITIMER_REAL, &interval, NULL), "timers");
	if (argc < 3) must(!timer_create(CLOCK_MONOTONIC, &event, &timer) && !timer_settime(timer, 0, &every, NULL), "timer");

	own = (stack_t){.ss_sp = region(20), .ss_size = REGION};
	sigaltstack(&own, NULL);
	look(&expected);
	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	pthread_barrier_init(&ready, NULL, WORKERS + 1);
	sigemptyset(&some), sigaddset(&some, SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &some, NULL);
	for (int i = 0; i < WORKERS; i++) {
		workers[i].number = i;
		pthread_mutex_init(&workers[i].lock, &robust);
		must(!pthread_create(&workers[i].thread, NULL, work, &workers[i]), "thread");
	}
	pthread_barrier_wait(&ready);
	sigemptyset(&some), sigaddset(&some, SIGALRM), sigaddset(&some, SIGRTMIN + 3);
	pthread_create(&other[0], NULL, watch, NULL);
	pthread_create(&other[1], NULL, watch, NULL);
	pthread_create(&other[2], NULL, tick, NULL);
	for (int i = 3; i < 5; i++) pthread_create(&other[i], NULL, hold, (void *)(uintptr_t)i);
	pthread_sigmask(SIG_UNBLOCK, &some, NULL);
	dprintf(1, "ready\n");
	while (access("/go", F_OK)) clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL);

	calm = 1;
	pthread_join(other[0], NULL);
	pthread_join(other[1], NULL);
	report = fopen("/report.new", "w");
	must(report != NULL, "report");
	go = 1;
	syscall(SYS_futex, &go, FUTEX_WAKE, 1000, NULL, NULL, 0);
	for (int i = 2; i < 5; i++) pthread_join(other[i], NULL);
	check(looked > 0 && !differed, "powers", "%ld of %ld looks: %s", differed, looked, difference);
	check(prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == filters, "seccomp", "%d, was %d", prctl(PR_GET_SECCOMP, 0, 0, 0, 0), filters);
	pthread_barrier_wait(&ready);
	for (int i = 0; i < WORKERS; i++) {
		int e = pthread_mutex_trylock(&workers[i].lock);
		check(e == EBUSY, "lock that a thread holds", "%d", e);
		pthread_kill(workers[i].thread, SIGUSR1);
	}
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(workers[i].thread, NULL);
		int e = pthread_mutex_lock(&workers[i].lock);
		check(e == EOWNERDEAD, "lock whose owner died", "%d", e);
	}
	long before[3] = {ticks[0], ticks[1], 0};
	uint64_t expirations = 0;
	for (int i = 0; i < 3000 && (ticks[0] < before[0] + 3 || (argc < 3 && ticks[1] < before[1] + 3)); i++) usleep(1000);
	check(ticks[0] >= before[0] + 3, "interval timer", "%ld", ticks[0] - before[0]);
	check(argc > 2 || ticks[1] >= before[1] + 3, "POSIX timer", "%ld", ticks[1] - before[1]);
	check(read(1000, &expirations, 8) == 8 && expirations > 0, "timerfd", "%lu", (unsigned long)expirations);
	check(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0), "membarrier", "%m");
	void *sp = own.ss_sp;
	check(!sigaltstack(NULL, &own) && own.ss_sp == sp && own.ss_size == REGION, "alternate stack of the first thread", "%p", own.ss_sp);
	rseq_follows("rseq of the first thread");
	memory();
	threads();
	check(deep(900) == 0, "stack", "%d", 0);
	clocks();
	values();
	pthread_sigmask(SIG_UNBLOCK, &all, NULL);
	fprintf(report, "done\n");
	fclose(report);
	rename("/report.new", "/report");
	while (access("/end", F_OK)) clock_nanosleep(CLOCK_MONOTONIC, 0, &ms, NULL);
	FILE *f = fopen("/end", "r");
	if (f) (void)!fgets(how, sizeof how, f);
	if (!strcmp(how, "segv")) {
		struct rlimit core = {RLIM_INFINITY, RLIM_INFINITY};
		getrlimit(RLIMIT_CORE, &core);
		core.rlim_cur = core.rlim_max;
		setrlimit(RLIMIT_CORE, &core);
		signal(SIGSEGV, SIG_DFL);
		*(volatile int *)8 = 1;
	}
	while (!strcmp(how, "oom")) fill(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 1 << 20, 1);
	return 7;
}
