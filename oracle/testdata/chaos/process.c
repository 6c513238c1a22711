// The process as a whole: credentials, limits, scheduling, what prctl sets, where it stands.
#include "chaos.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

static void make_place(void) {
	umask(below(512));
	char name[20];
	snprintf(name, sizeof name, "/place-%u", below(10));
	mkdir(name, 0700);
	if (chance(70)) MUST(chdir(name));
	if (chance(20)) rmdir(name); // it stands in a folder without a name
}

static void report_place(void) {
	struct stat here = {0};
	char name[100];
	int named = getcwd(name, sizeof name) != 0;
	stat(".", &here);
	say("stands in %s, mode %o, %lu links, owner %u:%u", named ? name : strerror(errno), here.st_mode, here.st_nlink, here.st_uid, here.st_gid);
}

static void check_place(void) {
	int fd = open("inside", O_CREAT | O_WRONLY, 0600);
	struct stat here = {0};
	stat(".", &here);
	if ((fd >= 0) != (here.st_nlink > 0)) wrong("a file in its folder: %s", strerror(errno));
	if (fd >= 0) unlink("inside"), close(fd);
}

static void write_file(const char *name, const char *text) {
	int fd = open(name, O_WRONLY);
	if (fd < 0) return;
	(void)!write(fd, text, strlen(text));
	close(fd);
}

static void make_limits(void) {
	static const int which[] = {RLIMIT_NOFILE, RLIMIT_CORE, RLIMIT_STACK, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE};
	for (int i = 0; i < COUNT(which); i++) {
		struct rlimit is;
		if (!chance(40) || getrlimit(which[i], &is)) continue;
		rlim_t soft = (1 << 20) + below(1 << 20);
		if (which[i] == RLIMIT_NOFILE) soft = 1000 + below(24);
		if (which[i] == RLIMIT_SIGPENDING) soft = 500 + below(500);
		if (soft > is.rlim_max) soft = is.rlim_max;
		if (chance(30) && soft * 2 < is.rlim_max) is.rlim_max = soft * 2;
		is.rlim_cur = soft;
		MUST(setrlimit(which[i], &is));
	}
	char text[20];
	snprintf(text, sizeof text, "%u", below(900));
	if (chance(50)) write_file("/proc/self/oom_score_adj", text);
	snprintf(text, sizeof text, "%#x", below(0x200));
	if (chance(30)) write_file("/proc/self/coredump_filter", text);
}

static void make_schedule(void) {
	if (chance(40)) MUST(setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + (int)below(15))); // no right to lower it
	struct sched_param param = {0};
	if (chance(30)) MUST(sched_setscheduler(0, chance(50) ? SCHED_BATCH : SCHED_IDLE, &param));
	if (chance(30)) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(below(2), &set);
		sched_setaffinity(0, sizeof set, &set);
	}
	if (chance(30)) prctl(PR_SET_TIMERSLACK, 60000 + below(60000));
}

static void report_schedule(void) {
	cpu_set_t set;
	CPU_ZERO(&set);
	sched_getaffinity(0, sizeof set, &set);
	say("nice %d policy %d", getpriority(PRIO_PROCESS, 0), sched_getscheduler(0));
	say("processors %#lx", set.__bits[0]);
	say("slack %d", prctl(PR_GET_TIMERSLACK));
}

static void report_ioprio(void) { say("io priority %ld", syscall(SYS_ioprio_get, 1, 0)); }
static void make_ioprio(void) { syscall(SYS_ioprio_set, 1, 0, 2 << 13 | below(8)); }

static void make_prctl(void) {
	if (chance(60)) prctl(PR_SET_NAME, "chaos (name) x");
	if (chance(40)) prctl(PR_SET_DUMPABLE, 0);
	if (chance(40)) prctl(PR_SET_PDEATHSIG, 1 + below(30));
	if (chance(40)) prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (chance(30)) prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (chance(40)) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void report_prctl(void) {
	char name[17] = "";
	int death = 0, reaper = 0;
	prctl(PR_GET_NAME, name);
	prctl(PR_GET_PDEATHSIG, &death);
	prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	int tsc = 0;
	prctl(PR_GET_TSC, &tsc);
	say("name %s", name);
	say("dumpable %d", prctl(PR_GET_DUMPABLE));
	say("death signal %d", death);
	say("subreaper %d", reaper);
	say("huge pages off %d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	say("no new privileges %d", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	say("keepcaps %d securebits %#x", prctl(PR_GET_KEEPCAPS), prctl(PR_GET_SECUREBITS));
	say("tsc %d", tsc);
}

static void make_credentials(void) {
	if (chance(30)) prctl(PR_SET_KEEPCAPS, 1);
	if (chance(30)) prctl(PR_SET_SECUREBITS, (chance(50) ? SECBIT_NO_CAP_AMBIENT_RAISE : 0) | (chance(50) ? SECBIT_NOROOT : 0) | SECBIT_NO_SETUID_FIXUP);
	if (chance(50)) {
		gid_t groups[8];
		int n = (int)below(8);
		for (int i = 0; i < n; i++) groups[i] = 100 + below(1000);
		MUST(syscall(SYS_setgroups, n, groups));
	}
	for (int cap = 0; cap < 40; cap++) // whoever checks needs these
		if (chance(15) && cap != CAP_KILL && cap != CAP_DAC_OVERRIDE && cap != CAP_NET_BIND_SERVICE && cap != CAP_FOWNER) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	MUST(syscall(SYS_capget, &head, data));
	u64 gone = 0;
	for (int cap = 0; cap < 40; cap++)
		if (chance(20) && cap != CAP_KILL && cap != CAP_DAC_OVERRIDE && cap != CAP_FOWNER && cap != CAP_SETPCAP) gone |= 1UL << cap;
	for (int i = 0; i < 2; i++) {
		data[i].effective &= ~(uint32_t)(gone >> 32 * i);
		if (chance(50)) data[i].permitted &= ~(uint32_t)(gone >> 32 * i);
		data[i].inheritable = data[i].permitted & (uint32_t)draw();
	}
	(void)!syscall(SYS_capset, &head, data);
	for (int cap = 0; cap < 40; cap++)
		if (chance(20)) prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

static void make_seccomp(void) {
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_acct, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {COUNT(code), code};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (int n = 1 + (int)below(2); n--;) MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}

static void check_seccomp(void) {
	if (syscall(SYS_acct, 0) != -1 || errno != 77) wrong("the filter lets a call through: %d", errno);
}

const struct feature feature_place = {"place", make_place, check_place, report_place}, feature_limits = {"limits", make_limits, 0, 0},
	feature_schedule = {"schedule", make_schedule, 0, report_schedule}, feature_ioprio = {"ioprio", make_ioprio, 0, report_ioprio},
	feature_prctl = {"prctl", make_prctl, 0, report_prctl}, feature_credentials = {"credentials", make_credentials, 0, 0},
	feature_seccomp = {"seccomp", make_seccomp, check_seccomp, 0};
