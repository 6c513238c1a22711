/*
 * A container of several processes that have things in common, and things of their own. The first one answers "ready",
 * "report" and "check" at port 7777, as the program of ../chaos does, and asks the others over sockets.
 *
 *   1 first ── forked:   a session of its own, two threads more, an epoll set, memory kept from forks, no capabilities
 *           ├─ executed: /other, a process group of its own, a limit, an ignored signal, a pending one, other groups
 *           │   └─ below: its child, in its group
 *           └─ joined:   in the group of /other, fewer capabilities, a timer, a context of asynchronous I/O
 *
 * All have one file open, with one offset, one piece of shared memory, and one pipe from the first to "joined". Called with
 * the argument "users", the first two are of other users as well.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* Descriptors that all processes have, by number. */
enum { shared_file = 20, shared_memory = 21, pipe_read = 22, pipe_write = 23 };

struct shared {
	unsigned count; /* of visits */
	unsigned secret;
};

static struct shared *shared;
static char *said;
static size_t room = 1 << 16;
static const char *name;
static unsigned nonce[4]; /* drawn by each process for itself */
static unsigned *large, sum; /* memory of several huge pages, and what is in it */
static char *unforked;
static volatile unsigned signals[65];
static volatile unsigned worked[2];
static int wake[2][2], awake[2][2];
static int poller = -1;
static aio_context_t requests; /* of "joined" */
static int users;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", name, what, strerror(errno));
	exit(1);
}

static void say(const char *format, ...)
{
	va_list list;
	size_t n = strlen(said);

	va_start(list, format);
	n += snprintf(said + n, room - n, "%s ", name);
	vsnprintf(said + n, room - n, format, list);
	va_end(list);
	strncat(said, "\n", room - strlen(said) - 1);
}

static void count(int sig)
{
	signals[sig]++;
}

static void *work(void *arg)
{
	long i = (long)arg;
	char c;

	prctl(PR_SET_NAME, i ? "worker-b" : "worker-a");
	while (read(wake[i][0], &c, 1) == 1) {
		worked[i]++;
		if (write(awake[i][1], &c, 1) != 1)
			break;
	}
	return NULL;
}

enum { large_size = 5 << 20 };

static unsigned sum_of(void)
{
	unsigned n = 0;

	for (size_t i = 0; i < large_size / sizeof(*large); i++)
		n = n * 31 + large[i];
	return n;
}

static void report(void)
{
	struct rlimit l;
	struct itimerval t;
	uid_t r, e, s;

	getresuid(&r, &e, &s);
	getrlimit(RLIMIT_CORE, &l);
	getitimer(ITIMER_REAL, &t);
	say("is %d, child of %d, in group %d of session %d", getpid(), getppid(), getpgid(0), getsid(0));
	say("is user %d %d %d of group %d", r, e, s, getgid());
	say("has %x in large memory, %x when it was filled", sum_of(), sum);
	say("drew %x %x %x %x", nonce[0], nonce[1], nonce[2], nonce[3]);
	say("has %u visits and the secret %x in shared memory", shared->count, shared->secret);
	say("is at %ld of the file", (long)lseek(shared_file, 0, SEEK_CUR));
	say("limits core files to %lu, has a timer of %ld", (unsigned long)l.rlim_cur, (long)t.it_interval.tv_sec);
	for (int i = 1; i < 65; i++)
		if (signals[i])
			say("had signal %d %u times", i, signals[i]);
	if (unforked)
		say("kept %s", unforked);
	say("threads worked %u %u times", worked[0], worked[1]);
}

/* What each process does when all examine themselves, in a fixed order: it finds what the one before it has left. */
static void check(unsigned turn)
{
	char c;

	if (read(shared_file, &c, 1) != 1)
		say("cannot read the file");
	else if (c != 'a' + (char)(turn % 26))
		say("finds %c in the file, not %c: the offset is not shared", c, 'a' + turn % 26);
	if (__atomic_fetch_add(&shared->count, 1, __ATOMIC_SEQ_CST) != turn)
		say("finds %u visits, not %u: memory is not shared", shared->count - 1, turn);
	for (int i = 0; i < 2; i++)
		if (wake[i][1] > 0) {
			unsigned before = worked[i];
			if (write(wake[i][1], "x", 1) != 1 || read(awake[i][0], &c, 1) != 1 || worked[i] != before + 1)
				say("thread %d does not work", i);
		}
	if (poller >= 0) {
		struct epoll_event e;
		if (epoll_wait(poller, &e, 1, 0) != 0)
			say("finds something to do in its epoll set");
		if (write(wake[0][1], "x", 1) != 1 || read(awake[0][0], &c, 1) != 1)
			say("thread does not work");
	}
	if (sum_of() != sum)
		say("finds other things in its memory than it put there");
	large[turn] ^= nonce[turn % 4];
	sum = sum_of();
	if (name[0] == 'j') {
		struct iocb one = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = shared_file, .aio_buf = (unsigned long)&c, .aio_nbytes = 1,
				    .aio_offset = 3 };
		struct iocb *all = &one;
		struct io_event done;
		if (read(pipe_read, &c, 1) != 1 || c != 'p')
			say("does not find in the pipe what the first process wrote");
		if (syscall(SYS_io_submit, requests, 1, &all) != 1 || syscall(SYS_io_getevents, requests, 1, 1, &done, NULL) != 1 || c != 'd')
			say("cannot read by asynchronous I/O");
	}
}

static void prepare(const char *who)
{
	struct sigaction sa = { .sa_handler = count };

	name = who;
	prctl(PR_SET_NAME, who);
	said = calloc(1, room);
	if (getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce))
		die("getrandom");
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared_memory, 0);
	large = mmap(NULL, large_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || large == MAP_FAILED)
		die("mmap");
	for (size_t i = 0; i < large_size / sizeof(*large); i++)
		large[i] = nonce[i % 4] * (i + 1);
	sum = sum_of();
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR2, &sa, NULL);
}

/* Answers over a socket for as long as it is there. below is a socket to a child, or -1. */
static void serve(int socket, int below)
{
	char word[64] = "up";
	unsigned turn;
	ssize_t n;

	if (below >= 0 && recv(below, word, sizeof(word), 0) != 2)
		die("child");
	if (send(socket, "up", 2, 0) != 2)
		die("send");
	while ((n = recv(socket, word, sizeof(word) - 1, 0)) > 0 || (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		word[n] = 0;
		said[0] = 0;
		if (sscanf(word, "check %u", &turn) == 1)
			check(turn);
		else if (!strcmp(word, "report"))
			report();
		if (below >= 0) {
			if (n > 6)
				snprintf(word, sizeof(word), "check %u", turn + 1);
			size_t used = strlen(said);
			if (send(below, word, strlen(word), 0) < 0 || (n = recv(below, said + used, room - used - 1, 0)) <= 0)
				say("its child does not answer");
			else
				said[used + n] = 0;
		}
		if (!said[0])
			strcpy(said, "\n");
		if (send(socket, said, strlen(said), 0) < 0)
			die("send");
	}
	_exit(0);
}

/* Other groups, and another user: where CRIU may not look at one, only for files. */
static void become(unsigned id)
{
	gid_t groups[2] = { id, id + 10 };

	if (setgroups(2, groups))
		die("groups");
	setfsuid(id);
	if (users && (setresgid(id, id, id) || setresuid(id, id, id)))
		die("user");
}

static void forked(int socket)
{
	prepare("forked");
	setsid();
	unforked = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(unforked, "what no fork has");
	madvise(unforked, 8192, MADV_DONTFORK);
	char *wiped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise(wiped, 4096, MADV_WIPEONFORK);
	for (long i = 0; i < 2; i++) {
		pthread_t t;
		if (pipe(wake[i]) || pipe(awake[i]))
			die("pipe");
		if (pthread_create(&t, NULL, work, (void *)i))
			die("thread");
	}
	poller = epoll_create1(0);
	struct epoll_event e = { .events = EPOLLIN, .data.fd = awake[0][0] };
	if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, awake[0][0], &e))
		die("epoll");
	become(1000);
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { 0 };
	if (syscall(SYS_capset, &head, none))
		die("capabilities");
	serve(socket, -1);
}

static void joined(int socket)
{
	struct itimerval t = { { 1000, 0 }, { 1000, 0 } };

	prepare("joined");
	setitimer(ITIMER_REAL, &t, NULL);
	for (int cap = 5; cap < 10; cap++)
		prctl(PR_CAPBSET_DROP, cap);
	if (syscall(SYS_io_setup, 32, &requests))
		die("io_setup");
	umask(077);
	if (chdir("/tmp"))
		die("chdir");
	serve(socket, -1);
}

static void executed(int socket)
{
	struct rlimit l = { 4096, 8192 };
	int pair[2];
	sigset_t set;

	prepare("executed");
	setrlimit(RLIMIT_CORE, &l);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, NULL);
	raise(SIGWINCH); /* pending from now on */
	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
		die("socketpair");
	if (fork() == 0) {
		prepare("below");
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		serve(pair[1], -1);
	}
	close(pair[1]);
	become(1001);
	serve(socket, pair[0]);
}

static int sockets[3][2];
static pid_t children[3];

static void ask(const char *word)
{
	unsigned turn = shared->count;
	int check_all = !strcmp(word, "check");

	if (check_all) {
		if (write(pipe_write, "p", 1) != 1)
			say("cannot write to the pipe");
		check(turn++);
		for (int i = 0; i < 3; i++)
			if (kill(children[i], SIGUSR1) || waitpid(children[i], NULL, WNOHANG) != 0)
				say("child %d is not there", i);
		if (kill(-children[1], SIGUSR2))
			say("the process group is not there");
	} else {
		report();
	}
	for (int i = 0; i < 3; i++) {
		char line[64];
		size_t used = strlen(said);
		ssize_t n;
		if (check_all) {
			snprintf(line, sizeof(line), "check %u", turn);
			turn += i == 1 ? 2 : 1;
		} else {
			strcpy(line, "report");
		}
		if (send(sockets[i][0], line, strlen(line), 0) < 0 || (n = recv(sockets[i][0], said + used, room - used - 1, 0)) <= 0)
			say("child %d does not answer", i);
		else
			said[used + n] = 0;
	}
}

int main(int argc, char **argv)
{
	int ends[2];

	users = argc > 1 && !strcmp(argv[argc - 1], "users");
	if (argc > 1 && argv[1][0] != 'u') {
		name = "executed";
		executed(atoi(argv[1]));
	}
	name = "first";
	int file = open("/letters", O_RDONLY), memory = memfd_create("shared", 0);
	if (file < 0 || memory < 0 || ftruncate(memory, 4096) || pipe(ends))
		die("open");
	if (dup2(file, shared_file) < 0 || dup2(memory, shared_memory) < 0 || dup2(ends[0], pipe_read) < 0 || dup2(ends[1], pipe_write) < 0)
		die("dup2");
	close(file), close(memory), close(ends[0]), close(ends[1]);
	struct shared *anonymous = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	prepare("first");
	getrandom(&shared->secret, 4, 0);
	anonymous->secret = shared->secret;
	for (int i = 0; i < 3; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets[i]))
			die("socketpair");
		if ((children[i] = fork()) == 0) {
			close(sockets[i][0]);
			if (i == 0)
				forked(sockets[i][1]);
			setpgid(0, i == 1 ? 0 : children[1]);
			if (i == 2)
				joined(sockets[i][1]);
			char number[16];
			snprintf(number, sizeof(number), "%d", sockets[i][1]);
			execl("/other", "other", number, users ? "users" : NULL, NULL);
			die("exec");
		}
		close(sockets[i][1]);
		char up[2];
		if (recv(sockets[i][0], up, 2, 0) != 2)
			die("child");
	}
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
		if (read(c, word, sizeof(word) - 1) > 0) {
			word[strcspn(word, "\n")] = 0;
			said[0] = 0;
			if (anonymous->secret != shared->secret)
				say("memory without a file is another's");
			if (strcmp(word, "ready"))
				ask(word);
			dprintf(c, "%s", strlen(said) > strspn(said, "\n") ? said : "ok\n");
		}
		close(c);
	}
}
