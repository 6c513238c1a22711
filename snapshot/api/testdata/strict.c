// A program that ticks under a seccomp filter: one that allows nothing else, or, with a second argument, one that forbids munmap
// alone. What is forbidden kills it, or, with the first argument "errno", fails.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define ALLOW(nr) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
int main(int argc, char **argv) {
	int act = argc > 1 && !strcmp(argv[1], "errno") ? SECCOMP_RET_ERRNO | 1 : SECCOMP_RET_KILL_PROCESS;
	struct sock_filter strict[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), ALLOW(SYS_write), ALLOW(SYS_clock_nanosleep), ALLOW(SYS_restart_syscall), ALLOW(SYS_exit_group), BPF_STMT(BPF_RET | BPF_K, act)};
	struct sock_filter lax[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 0, 1), BPF_STMT(BPF_RET | BPF_K, act), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
	struct sock_fprog p = {sizeof strict / 8, strict}, q = {4, lax};
	int l = argc > 2;
	if (write(1, "ready\n", 6) != 6) return 8;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, l ? &q : &p)) return 9;
	for (;;) {
		struct timespec t = {0, 200000000};
		clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0);
		if (write(1, "tick\n", 5) != 5) return 7;
	}
}
