/*
 * A random tree of processes: forest SEED. Each process has random memory, descriptors, threads, signal handlers, limits and
 * groups of its own, on top of what it inherits, and may execute another program before that (/other, a copy of this one).
 * When all are there the first one answers at port 7777: "ready", and "check", for which every process looks whether its
 * memory is what it was.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { tally = 900 }; /* descriptor of memory that all share */
enum { deepest = 3, most = 14 };

struct counts {
	unsigned processes, right, wrong, serial;
};

static struct counts *counts;
static unsigned long state;

static unsigned any(unsigned n)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 11) % n;
}

static void die(const char *what)
{
	fprintf(stderr, "%d: %s: %s\n", getpid(), what, strerror(errno));
	exit(1);
}

struct piece {
	unsigned *at;
	size_t words;
	unsigned seed;
};

static struct piece pieces[64];
static int count;

static void fill(size_t pages)
{
	size_t size = pages * 4096;
	struct piece *p = &pieces[count];

	p->at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->at == MAP_FAILED)
		die("mmap");
	p->words = size / sizeof(unsigned);
	p->seed = any(1 << 30);
	for (size_t i = 0; i < p->words; i += 1 + p->seed % 700)
		p->at[i] = p->seed * (i + 1);
	switch (any(8)) {
	case 0:
		madvise(p->at, size, MADV_DONTFORK); /* a child that looks at it would die */
		return;
	case 1:
		mprotect(p->at, size, PROT_READ);
		break;
	case 2:
		madvise(p->at, size, MADV_NOHUGEPAGE);
		break;
	case 3:
		mmap(NULL, 4096 * (1 + any(20)), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		break;
	case 4:
		madvise(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 8192, MADV_WIPEONFORK);
		break;
	}
	count++;
}

static int whole(void)
{
	for (int k = 0; k < count; k++)
		for (size_t i = 0; i < pieces[k].words; i++) {
			unsigned want = i % (1 + pieces[k].seed % 700) ? 0 : pieces[k].seed * (i + 1);
			if (pieces[k].at[i] != want)
				return 0;
		}
	return 1;
}

static volatile int asked;

static void ask(int sig)
{
	(void)sig;
	asked = 1;
}

static void nothing(int sig)
{
	(void)sig;
}

static int started; /* threads */

static void *wait_forever(void *arg)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	prctl(PR_SET_NAME, arg);
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	while (pause())
		;
	return NULL;
}

static void descriptors(void)
{
	int p[2];
	char name[32];
	struct epoll_event e = { .events = EPOLLIN | EPOLLET };

	for (unsigned n = any(5); n > 0; n--)
		switch (any(6)) {
		case 0:
			if (pipe2(p, any(2) ? O_CLOEXEC : 0) == 0 && any(2) && write(p[1], "waiting", 1 + any(7)) < 0)
				die("write");
			break;
		case 1:
			lseek(open("/letters", O_RDONLY), any(5000), SEEK_SET);
			break;
		case 2:
			eventfd(any(9), any(2) ? EFD_NONBLOCK : 0);
			break;
		case 3:
			if (socketpair(AF_UNIX, any(2) ? SOCK_STREAM : SOCK_DGRAM, 0, p) == 0) {
				int set = epoll_create1(any(2) ? EPOLL_CLOEXEC : 0);
				e.data.u64 = any(1 << 20);
				if (any(2))
					dup(set);
				if (epoll_ctl(set, EPOLL_CTL_ADD, p[0], &e) || send(p[1], "waits", 5, 0) != 5)
					die("epoll");
			}
			break;
		case 4:
			dup2(tally, 40 + any(200));
			break;
		case 5:
			snprintf(name, sizeof(name), "/tmp/deleted-%u", __atomic_add_fetch(&counts->serial, 1, __ATOMIC_SEQ_CST));
			p[0] = open(name, O_RDWR | O_CREAT, 0600);
			if (write(p[0], name, strlen(name)) < 0)
				die(name);
			if (any(2))
				mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, p[0], 0);
			unlink(name);
			break;
		}
}

static void settings(int depth)
{
	struct sigaction s = { .sa_handler = ask };
	struct rlimit l = { 1000 + any(1000), 5000 };
	char name[16];
	sigset_t set;

	sigaction(SIGUSR1, &s, NULL);
	s.sa_handler = any(2) ? SIG_IGN : nothing;
	s.sa_flags = any(2) ? SA_RESTART : 0;
	sigaction(SIGRTMIN + any(20), &s, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + any(20));
	sigprocmask(SIG_BLOCK, &set, NULL);
	snprintf(name, sizeof(name), "tree-%d-%u", depth, any(1000));
	prctl(PR_SET_NAME, name);
	if (any(3) == 0)
		setrlimit(RLIMIT_CORE, &l);
	if (any(3) == 0)
		umask(any(0100));
	if (any(3) == 0 && chdir("/tmp"))
		die("chdir");
	if (any(3) == 0)
		setpriority(PRIO_PROCESS, 0, 1 + any(10));
	if (any(3) == 0) {
		gid_t groups[3] = { any(100), 200 + any(100), 300 + any(100) };
		setgroups(3, groups);
	}
	if (any(3) == 0)
		prctl(PR_CAPBSET_DROP, 5 + any(20));
	if (any(3) == 0)
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (any(3) == 0)
		brk((char *)sbrk(0) + 4096 * (1 + any(40)));
}

/* Answers for as long as the container is there. */
static __attribute__((noreturn)) void serve(void)
{
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(7777) };

	setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(server, (struct sockaddr *)&at, sizeof(at)) || listen(server, 16))
		die("listen");
	for (;;) {
		char word[64] = "";
		int c = accept4(server, NULL, NULL, SOCK_CLOEXEC);
		if (c < 0)
			continue;
		if (read(c, word, sizeof(word) - 1) > 0 && !strncmp(word, "check", 5)) {
			counts->right = counts->wrong = 0;
			if (!whole())
				counts->wrong++;
			kill(-1, SIGUSR1);
			for (int i = 0; i < 5000 && counts->right + counts->wrong < counts->processes; i++)
				usleep(1000);
		}
		if (counts->wrong || (word[0] == 'c' && counts->right != counts->processes))
			dprintf(c, "of %u processes %u have their memory, and %u have not\n", counts->processes, counts->right, counts->wrong);
		else
			dprintf(c, "ok\n");
		close(c);
	}
}

/* What a process does when it is there: up is a pipe on which its parent hears of that. */
static __attribute__((noreturn)) void grow(int depth, int up)
{
	int ready[2];
	pid_t leader = 0;

	counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, tally, 0);
	if (counts == MAP_FAILED || pipe(ready))
		die("start");
	settings(depth);
	for (unsigned n = 1 + any(4); n > 0; n--)
		fill(any(4) ? 1 + any(30) : 600 + any(900));
	unsigned children = depth < deepest ? any(4) + (depth == 0) : 0, before = any(children + 1);
	for (unsigned i = 0; i < children; i++) {
		if (i == before)
			descriptors();
		if (__atomic_load_n(&counts->processes, __ATOMIC_SEQ_CST) >= most)
			break;
		__atomic_add_fetch(&counts->processes, 1, __ATOMIC_SEQ_CST);
		unsigned how = any(5), execute = any(3) == 0;
		unsigned long seed = state ^ (state << 20) ^ (i + 1);
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			state = seed;
			if (how == 0)
				setsid();
			else if (how == 1)
				setpgid(0, 0);
			else if (how == 2 && leader)
				setpgid(0, leader);
			if (execute) {
				char words[3][32];
				snprintf(words[0], 32, "%lu", seed);
				snprintf(words[1], 32, "%d", depth + 1);
				snprintf(words[2], 32, "%d", ready[1]);
				execl("/other", "other", words[0], words[1], words[2], NULL);
				die("exec");
			}
			grow(depth + 1, ready[1]);
		}
		char c;
		if (read(ready[0], &c, 1) != 1)
			die("child");
		if (how == 1)
			leader = pid;
	}
	for (unsigned n = any(3); n > 0; n--) {
		pthread_t t;
		if (pthread_create(&t, NULL, wait_forever, n == 1 ? "one" : "two"))
			die("thread");
		while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) == 0)
			usleep(100);
		started = 0;
	}
	if (depth == 0)
		serve();
	if (write(up, "x", 1) != 1)
		die("write");
	for (;;) {
		sigset_t usual, set;
		sigprocmask(SIG_BLOCK, NULL, &usual);
		set = usual;
		sigaddset(&set, SIGUSR1);
		sigprocmask(SIG_BLOCK, &set, NULL);
		while (!asked)
			sigsuspend(&usual);
		asked = 0;
		sigprocmask(SIG_SETMASK, &usual, NULL);
		__atomic_add_fetch(whole() ? &counts->right : &counts->wrong, 1, __ATOMIC_SEQ_CST);
	}
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	state = strtoul(argv[1], NULL, 10);
	if (argc > 3)
		grow(atoi(argv[2]), atoi(argv[3]));
	state = state * 0x9e3779b97f4a7c15ul + 1;
	int memory = memfd_create("tally", 0);
	if (memory < 0 || ftruncate(memory, 4096) || dup2(memory, tally) < 0)
		die("memfd");
	close(memory);
	grow(0, -1);
}
