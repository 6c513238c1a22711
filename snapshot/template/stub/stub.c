/*
 * The stub: the program of a template, and for a few hundred microseconds of each clone.
 *
 * It has no C library, no state of its own but what struct control holds, and no opinion: what is to be done is said by
 * recipes, lists of system calls that the engine has written into its memory (package recipe has the same layouts). It
 *
 *   1. says hello on its socket, with what the engine must know of the processor,
 *   2. is told where to live, copies itself there with the memory that it is sent, and leaves its old place,
 *   3. runs the recipe that builds the template around it,
 *   4. forks for each command that arrives, and in the child runs the recipe of a clone, whose threads all wait until the
 *      last of them is complete. Then it unmaps its memory and every thread leaves through rt_sigreturn. What stays are
 *      the pages with this code and with the signal frames, read-only. Where a clone has several processes, each forks
 *      those below it and does the same; all wait for the last one.
 *
 * Security: everything that it reads comes from the engine, its parent. It holds no secrets. All signals are blocked until
 * the registers of the captured threads, and their signal masks with them, are loaded.
 */

typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

enum {
	sys_mmap = 9,
	sys_mprotect = 10,
	sys_munmap = 11,
	sys_rt_sigprocmask = 14,
	sys_rt_sigreturn = 15,
	sys_pread64 = 17,
	sys_read = 0,
	sys_close = 3,
	sys_write = 1,
	sys_sendto = 44,
	sys_recvmsg = 47,
	sys_exit_group = 231,
	sys_futex = 202,
	sys_close_range = 436,
	sys_clone3 = 435,
	sys_clock_gettime = 228,
};

enum { prot_read = 1, prot_write = 2, prot_exec = 4 };
enum { map_private = 2, map_anonymous = 0x20, map_fixed_noreplace = 0x100000 };
enum { futex_wait_private = 128, futex_wake_private = 129 };
enum { esrch = 3, eintr = 4 };

/* Package recipe writes these. */
struct op {
	u32 call;
	u16 flags;
	u8 loads; /* bit i: args[i] is the address of the value */
	u8 unused;
	u64 args[6];
	u64 *out; /* where the result goes, or 0 */
	long want;
};

enum { op_try = 1, op_want = 2 };
enum { call_thread = 0x10000, call_process };

struct recipe {
	const struct op *ops;
	u64 n;
};

struct clone_args {
	u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

/* What the engine and the stub share; package template writes it, and has the same layout. */
struct control {
	struct recipe build;   /* makes the template */
	struct recipe before;  /* in the template, for each clone */
	struct recipe clone;   /* in the clone's first thread */
	struct recipe finish;  /* likewise, once all its threads are complete */
	struct clone_args fork;
	u64 frame;             /* the signal frame of the clone's first thread */
	u64 scratch, scratch_len; /* what a clone unmaps last: this, and all that the recipes point into */
	u64 socket;            /* descriptor of the conversation with the engine */
	u64 report;            /* descriptor, in a clone, to say on that it is complete */
	u64 high;              /* descriptors below are those of clones */
	u64 threads;           /* of a clone, without the first */
	u64 command, command_len; /* where commands are received */
	u32 ready;             /* threads that are complete */
	u32 go;                /* set when all are */
	u64 failed;            /* 1 + index of the call that a thread failed at */
	u64 error;             /* of that call */
	u64 received;          /* when the command arrived */
	u64 number;            /* of the process in its clone; the first one is 0 */
	u64 others;            /* of the first process: how many more there are */
	u64 births;            /* descriptor from which the first process reads their reports */
	u64 gate;              /* descriptor of a pipe that nobody writes to: it ends when all processes are complete */
};

/* What a process of a clone, but for the first, has of its own in the control block. */
struct process {
	struct recipe clone, finish;
	u64 frame, threads, number, report, gate;
};

struct hello {
	u64 xcr0;
	u32 offset[32], size[32]; /* of the state components of XSAVE, standard format */
};

struct load {
	u64 home, total;  /* where to live */
	u64 code;         /* bytes there that are for the code */
	u64 frames;       /* bytes after the code that are read-only from then on */
	u64 control;      /* address of the control block */
	u64 stack;        /* top of the stack from then on */
};

/* What a clone says of itself before its first instruction. Steps of its threads and of the finish are counted from these. */
enum { steps_threads = 0x10000, steps_finish = 0x20000, steps_lost = 0x30000 };

struct report {
	long step;  /* that failed; -1: none */
	long error;
	u64 times[5]; /* command received, forked, first thread made, all threads complete, finished */
	u64 number;   /* of the process */
};

extern const char code_start[] __attribute__((visibility("hidden")));
extern const char code_end[] __attribute__((visibility("hidden")));

static inline __attribute__((always_inline)) long call6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	long result;
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

#define call1(nr, a) call6(nr, (u64)(a), 0, 0, 0, 0, 0)
#define call2(nr, a, b) call6(nr, (u64)(a), (u64)(b), 0, 0, 0, 0)
#define call3(nr, a, b, c) call6(nr, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define call4(nr, a, b, c, d) call6(nr, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0, 0)

static __attribute__((noreturn)) void die(int status)
{
	for (;;)
		call1(sys_exit_group, status);
}

/* The time of day in nanoseconds: the only clock that a time namespace does not move. */
static u64 now(void)
{
	u64 t[2];

	call2(sys_clock_gettime, 0, t);
	return t[0] * 1000000000 + t[1];
}

static __attribute__((noreturn, used)) void thread_main(struct control *c, const struct recipe *r, u64 frame);

/*
 * Starts a thread of this process with the registers that the new thread needs in callee-saved ones: the kernel copies
 * them all. The new thread never returns.
 */
static long start_thread(struct control *c, const struct clone_args *args, const struct recipe *r, u64 frame)
{
	long result;
	register const struct recipe *r12 __asm__("r12") = r;
	register u64 r13 __asm__("r13") = frame;
	register struct control *r14 __asm__("r14") = c;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r14, %%rdi\n\t"
			 "mov %%r12, %%rsi\n\t"
			 "mov %%r13, %%rdx\n\t"
			 "call thread_main\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(result)
			 : "0"((long)sys_clone3), "D"(args), "S"(sizeof(*args)), "r"(r12), "r"(r13), "r"(r14)
			 : "rcx", "r11", "memory");
	return result;
}

static __attribute__((noreturn)) void become(struct control *c);

/* Starts a process of the clone, which has no threads yet. The child has a control block of its own, a copy of ours. */
static long start_process(struct control *c, const struct clone_args *args, const struct process *p)
{
	long pid = call2(sys_clone3, args, sizeof(*args));

	if (pid != 0)
		return pid;
	c->clone = p->clone;
	c->finish = p->finish;
	c->frame = p->frame;
	c->threads = p->threads;
	c->number = p->number;
	c->report = p->report;
	c->gate = p->gate;
	c->others = 0;
	become(c);
}

/* Makes the calls of a recipe. Returns the index of the one that failed, and its error, or -1. */
static long run(struct control *c, const struct recipe *r, long *error)
{
	for (u64 i = 0; i < r->n; i++) {
		const struct op *o = &r->ops[i];
		u64 a[6];
		long result;

		for (int j = 0; j < 6; j++)
			a[j] = o->loads >> j & 1 ? *(const u64 *)o->args[j] : o->args[j];
		if (o->call == call_thread)
			result = start_thread(c, (const struct clone_args *)a[0], (const struct recipe *)a[1], a[2]);
		else if (o->call == call_process)
			result = start_process(c, (const struct clone_args *)a[0], (const struct process *)a[1]);
		else
			result = call6(o->call, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (o->out)
			*o->out = result;
		if (o->flags & op_try)
			continue;
		if (o->flags & op_want ? result != o->want : result < 0 && result > -4096) {
			*error = result;
			return i;
		}
	}
	return -1;
}

/*
 * A thread of a clone: runs its recipe, says that it is ready, waits for the others, and becomes the captured thread.
 * From the moment at which it is counted it must not touch memory: the first thread may unmap it. The futex may then be
 * gone as well, which the kernel reports with EFAULT; that too means that it is time to go.
 */
static __attribute__((noreturn, used)) void thread_main(struct control *c, const struct recipe *r, u64 frame)
{
	long error = 0, step = run(c, r, &error);

	if (step >= 0) {
		c->error = error;
		__atomic_store_n(&c->failed, step + 1, __ATOMIC_RELEASE);
	}
	__asm__ volatile("lock incl (%[ready])\n\t"
			 "mov %[wake], %%esi\n\t"
			 "mov %[ready], %%rdi\n\t"
			 "mov $1, %%edx\n\t"
			 "mov %[futex], %%eax\n\t"
			 "syscall\n"
			 "1:\n\t"
			 "mov %[go], %%rdi\n\t"
			 "mov %[wait], %%esi\n\t"
			 "xor %%edx, %%edx\n\t"
			 "xor %%r10d, %%r10d\n\t"
			 "mov %[futex], %%eax\n\t"
			 "syscall\n\t"
			 "cmp %[eintr], %%rax\n\t"
			 "je 1b\n\t"
			 "mov %[frame], %%rsp\n\t"
			 "mov %[sigreturn], %%eax\n\t"
			 "syscall\n\t"
			 "ud2"
			 :
			 : [ready] "r"(&c->ready), [go] "r"(&c->go), [frame] "r"(frame + 8), [futex] "i"(sys_futex),
			   [wait] "i"(futex_wait_private), [wake] "i"(futex_wake_private), [eintr] "i"(-eintr),
			   [sigreturn] "i"(sys_rt_sigreturn)
			 : "rax", "rdi", "rsi", "rdx", "r10", "rcx", "r11", "memory");
	__builtin_unreachable();
}

/* Unmaps what is not needed any more, the stack included, and becomes the captured thread. */
static __attribute__((noreturn)) void leave(u64 scratch, u64 len, u64 frame)
{
	__asm__ volatile("mov %[munmap], %%eax\n\t"
			 "syscall\n\t"
			 "mov %[frame], %%rsp\n\t"
			 "mov %[sigreturn], %%eax\n\t"
			 "syscall\n\t"
			 "ud2"
			 :
			 : "D"(scratch), "S"(len), [frame] "r"(frame + 8), [munmap] "i"(sys_munmap),
			   [sigreturn] "i"(sys_rt_sigreturn)
			 : "rax", "rcx", "r11", "memory");
	__builtin_unreachable();
}

/* Waits until all threads are complete. Returns 1 + the index of the call that one failed at, or 0. */
static u64 gather(struct control *c)
{
	for (;;) {
		u32 ready = __atomic_load_n(&c->ready, __ATOMIC_ACQUIRE);
		if (ready == c->threads)
			return __atomic_load_n(&c->failed, __ATOMIC_ACQUIRE);
		call4(sys_futex, &c->ready, futex_wait_private, ready, 0);
	}
}

/*
 * Waits until all other processes have said that they are complete. The pipe ends when none is left that could: then one
 * has died. Returns whether all are; else r has what failed.
 */
static int births(struct control *c, struct report *r)
{
	struct report other;

	for (u64 i = 0; i < c->others; i++) {
		long got = call3(sys_read, c->births, &other, sizeof(other));
		if (got != sizeof(other)) {
			r->step = steps_lost;
			r->error = got < 0 ? got : -esrch;
			return 0;
		}
		if (other.step >= 0) {
			r->step = other.step;
			r->error = other.error;
			r->number = other.number;
			return 0;
		}
	}
	if (c->others)
		call1(sys_close, c->births);
	return 1;
}

/* Makes a process of the clone, whose first thread this is. Returns whether it is complete. */
static int assemble(struct control *c, struct report *r)
{
	r->times[0] = c->received;
	r->times[1] = now();
	r->error = 0;
	r->number = c->number;
	r->step = run(c, &c->clone, &r->error);
	r->times[2] = r->times[3] = r->times[4] = now();
	if (r->step >= 0)
		return 0;
	u64 failed = gather(c);
	if (!failed && !births(c, r))
		return 0;
	r->times[3] = now();
	if (failed) {
		r->step = steps_threads + failed - 1;
		r->error = c->error;
		return 0;
	}
	r->step = run(c, &c->finish, &r->error);
	r->times[4] = now();
	if (r->step < 0)
		return 1;
	r->step += steps_finish;
	return 0;
}

static __attribute__((noreturn)) void become(struct control *c)
{
	struct report report;
	int complete = assemble(c, &report);

	if (call3(sys_write, c->report, &report, sizeof(report)) != sizeof(report) || !complete)
		die(127);
	call1(sys_close, c->report);
	/* From here on all go on: the first process has heard of every other one, and its end of the gate is the last. */
	if (c->number && call3(sys_read, c->gate, &report, sizeof(report)) != 0)
		die(127);
	if (c->number || c->others)
		call1(sys_close, c->gate);
	u64 scratch = c->scratch, len = c->scratch_len, frame = c->frame;
	__atomic_store_n(&c->go, 1, __ATOMIC_RELEASE);
	call3(sys_futex, &c->go, futex_wake_private, 0x7fffffff);
	leave(scratch, len, frame);
}

struct iovec {
	u64 base, len;
};

struct msghdr {
	u64 name;
	u32 name_len, pad;
	struct iovec *iov;
	u64 iov_len;
	void *control;
	u64 control_len;
	u32 flags, pad2;
};

/* Room for the descriptors of one message, of which the kernel passes 253 at most. */
struct rights {
	u64 len;
	u32 level, type;
	u32 fds[254];
};

/* Receives one message. Its descriptors get the lowest numbers that are free. */
static long receive(u64 socket, void *to, u64 len, struct rights *rights)
{
	struct iovec iov = { (u64)to, len };
	struct msghdr m;
	long got;

	m.name = m.name_len = m.pad = m.flags = m.pad2 = 0;
	m.iov = &iov;
	m.iov_len = 1;
	m.control = rights;
	do {
		m.control_len = sizeof(*rights);
		got = call3(sys_recvmsg, socket, &m, 0);
	} while (got == -eintr);
	return got;
}

static void answer(u64 socket, long value, long step)
{
	long words[2] = { value, step };

	if (call6(sys_sendto, socket, (u64)words, sizeof(words), 0x4000 /* MSG_NOSIGNAL */, 0, 0) != sizeof(words))
		die(1);
}

/* The template: builds itself, and forks for each command. The engine's end of the socket closed is the end. */
static __attribute__((noreturn, used)) void serve(struct control *c)
{
	struct rights rights;
	long error = 0, step = run(c, &c->build, &error);

	answer(c->socket, error, step);
	if (step >= 0)
		die(1);
	for (;;) {
		if (receive(c->socket, (void *)c->command, c->command_len, &rights) <= 0)
			die(0);
		c->received = now();
		step = run(c, &c->before, &error);
		long pid = error;
		if (step < 0) {
			pid = call2(sys_clone3, &c->fork, sizeof(c->fork));
			if (pid == 0)
				become(c);
		}
		call3(sys_close_range, 0, c->high - 1, 0);
		answer(c->socket, pid, step);
	}
}

/* Moves to its home, where the stack is as well. */
static __attribute__((noreturn)) void move(const struct load *l, u64 memory)
{
	u64 code = code_end - code_start;
	u64 flags = map_private | map_anonymous | map_fixed_noreplace;

	if (code > l->code || call6(sys_mmap, l->home, l->total, prot_read | prot_write, flags, -1, 0) != (long)l->home)
		die(2);
	for (u64 i = 0; i < code; i++)
		((volatile char *)l->home)[i] = code_start[i];
	for (u64 at = l->code; at < l->total;) {
		long got = call4(sys_pread64, memory, l->home + at, l->total - at, at);
		if (got == 0) /* the rest is zeros */
			break;
		if (got < 0)
			die(3);
		at += got;
	}
	call1(sys_close, memory);
	if (call3(sys_mprotect, l->home, l->code, prot_read | prot_exec) ||
	    call3(sys_mprotect, l->home + l->code, l->frames, prot_read))
		die(4);
	u64 to = l->home + ((const char *)serve - code_start);
	__asm__ volatile("mov %[stack], %%rsp\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "call *%[to]\n\t"
			 "ud2"
			 :
			 : [stack] "r"(l->stack), [to] "r"(to), "D"(l->control)
			 : "memory");
	__builtin_unreachable();
}

static void cpuid(u32 leaf, u32 sub, u32 *a, u32 *b, u32 *c)
{
	u32 d;
	__asm__ volatile("cpuid" : "=a"(*a), "=b"(*b), "=c"(*c), "=d"(d) : "0"(leaf), "2"(sub));
}

static u64 xgetbv(void)
{
	u32 low, high;
	__asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return (u64)high << 32 | low;
}

enum { first_socket = 3 };

static __attribute__((noreturn, used)) void begin(void)
{
	struct hello hello;
	struct load load;
	struct rights rights;
	u32 a, b, c;
	u64 all = ~0UL;

	call4(sys_rt_sigprocmask, 0, &all, 0, sizeof(all));
	hello.xcr0 = 0;
	for (int i = 0; i < 32; i++)
		hello.offset[i] = hello.size[i] = 0;
	cpuid(1, 0, &a, &b, &c);
	if (c & 1 << 27) { /* the system uses XSAVE */
		hello.xcr0 = xgetbv();
		for (int i = 2; i < 32; i++)
			cpuid(0xd, i, &hello.size[i], &hello.offset[i], &c);
	}
	if (call6(sys_sendto, first_socket, (u64)&hello, sizeof(hello), 0x4000, 0, 0) != sizeof(hello))
		die(1);
	rights.fds[0] = 0;
	if (receive(first_socket, &load, sizeof(load), &rights) != sizeof(load))
		die(1);
	move(&load, rights.fds[0]);
}

__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"and $-16, %rsp\n\t"
	"call begin\n\t"
	"ud2\n");
