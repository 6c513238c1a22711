// A plugin of CRIU, for dumps whose tasks run on. A task that is merely stopped in a call with a timeout continues that
// call afterwards; one that CRIU has dumped gets EINTR from it, which programs that handle no signal do not expect. Only
// a task's tracer can change its registers, and it must be done before the task is let go: that is CRIU, and the time is
// when it takes leave of its plugins. Here the tasks are sent back to make the call again, as package criu does it in
// the images; see there for why these registers mean nothing else.
//
// The root of the tree is named by the environment, SNAPD_CTR_TREE. What fails is left as it is: the dump itself is good.
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

#define CODE_SEGMENT_64 0x33
#define SYSCALL 0x050f // the instruction, as a little-endian number
#define SYSCALL_LENGTH 2

struct list {
	int *pids;
	size_t n, room;
};

static void add(struct list *l, int pid) {
	if (l->n == l->room) {
		size_t room = l->room ? 2 * l->room : 64;
		int *more = realloc(l->pids, room * sizeof *more);
		if (!more) return;
		l->pids = more, l->room = room;
	}
	l->pids[l->n++] = pid;
}

static int continued(long long number) {
	return number == SYS_poll || number == SYS_nanosleep || number == SYS_futex || number == SYS_clock_nanosleep;
}

// Says whether a signal is about to run a handler: the call must then fail as it did. What cannot be read counts as one.
static int signalled(int tid) {
	unsigned long long own = 0, shared = 0, blocked = 0, caught = 0;
	char line[256], path[64];
	int found = 0;

	snprintf(path, sizeof path, "/proc/%d/status", tid);
	FILE *f = fopen(path, "re");
	if (!f) return 1;
	while (fgets(line, sizeof line, f))
		found += sscanf(line, "SigPnd: %llx", &own) == 1 || sscanf(line, "ShdPnd: %llx", &shared) == 1 ||
			 sscanf(line, "SigBlk: %llx", &blocked) == 1 || sscanf(line, "SigCgt: %llx", &caught) == 1;
	fclose(f);
	return found != 4 || ((own | shared) & ~blocked & caught) != 0;
}

static void repeat(int tid) {
	struct user_regs_struct r;
	struct iovec v = {&r, sizeof r};

	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &v) || v.iov_len != sizeof r || r.cs != CODE_SEGMENT_64) return;
	if ((long long)r.rax != -EINTR || !continued(r.orig_rax) || signalled(tid)) return;
	errno = 0;
	long code = ptrace(PTRACE_PEEKTEXT, tid, (void *)(r.rip - SYSCALL_LENGTH), 0);
	if (errno || (code & 0xffff) != SYSCALL) return;
	r.rax = r.orig_rax;
	r.rip -= SYSCALL_LENGTH;
	r.orig_rax = -1; // the task is not in a call any more
	ptrace(PTRACE_SETREGSET, tid, (void *)NT_PRSTATUS, &v);
}

// Sends the threads of a process back, and adds its children to the list.
static void process(int pid, struct list *l) {
	char path[64];
	struct dirent *e;

	snprintf(path, sizeof path, "/proc/%d/task", pid);
	DIR *d = opendir(path);
	if (!d) return;
	while ((e = readdir(d))) {
		int tid = atoi(e->d_name), child;
		if (tid <= 0) continue;
		repeat(tid);
		snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, tid);
		FILE *f = fopen(path, "re");
		if (!f) continue;
		while (fscanf(f, "%d", &child) == 1) add(l, child);
		fclose(f);
	}
	closedir(d);
}

int cr_plugin_init(int stage) {
	(void)stage;
	return 0;
}

void cr_plugin_fini(int stage, int failed) {
	const char *root = getenv("SNAPD_CTR_TREE");
	struct list l = {0};

	(void)stage, (void)failed; // tasks run on after a dump that failed as well
	if (!root) return;
	add(&l, atoi(root));
	for (size_t i = 0; i < l.n; i++) process(l.pids[i], &l);
	free(l.pids);
}
