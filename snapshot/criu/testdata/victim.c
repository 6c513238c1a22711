// victim ROOT MODE MEGABYTES: a process for tests to dump. As the init of fresh namespaces it makes ROOT its root file
// system, does what MODE says, and reports on descriptor 3 that it is ready. On SIGUSR1 every one of its processes
// writes a digest of its memory to /sum.PID.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static void check(int ok, const char *what)
{
	if (!ok) {
		dprintf(3, "%s: %m\n", what);
		_exit(1);
	}
}

static struct { uint8_t *at; size_t len; } area[8];
static int areas;

static uint8_t *remember(uint8_t *at, size_t len)
{
	check(at != MAP_FAILED, "mmap");
	area[areas].at = at;
	area[areas++].len = len;
	return at;
}

static void report(int sig)
{
	char tmp[32], name[32];
	uint64_t h = 1469598103934665603u;
	int fd;

	(void)sig;
	for (int i = 0; i < areas; i++)
		for (size_t j = 0; j + 8 <= area[i].len; j += 8)
			h = (h ^ *(uint64_t *)(area[i].at + j)) * 1099511628211u;
	snprintf(tmp, sizeof tmp, "/tmp.%d", getpid());
	snprintf(name, sizeof name, "/sum.%d", getpid());
	fd = open(tmp, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	dprintf(fd, "%016llx", (unsigned long long)h);
	close(fd);
	rename(tmp, name);
}

static void *sleeper(void *arg)
{
	(void)arg;
	for (;;)
		pause();
}

static void enter(const char *root)
{
	check(!mount("", "/", "", MS_PRIVATE | MS_REC, ""), "private");
	check(!chdir(root), "chdir");
	mkdir("proc", 0755);
	check(!mount("proc", "proc", "proc", 0, ""), "proc");
	check(!syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(!umount2(".", MNT_DETACH), "umount");
	check(!chdir("/"), "chdir");
}

// Every kind of memory, with zero pages among it.
static void memory(size_t len)
{
	uint8_t *anon, *shared, *file, *memfd;
	int fd;

	anon = remember(mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), len);
	for (size_t i = 0; i < len / PAGE; i++) {
		if (i % 5 == 1)
			continue; // never touched
		if (i % 5 == 2)
			*(volatile uint8_t *)(anon + i * PAGE) = 0; // touched, zero
		else
			memset(anon + i * PAGE, (int)(i % 255) + 1, PAGE - i % 7);
	}
	shared = remember(mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 64 * PAGE);
	fd = memfd_create("victim", 0);
	check(!ftruncate(fd, 64 * PAGE), "ftruncate");
	memfd = remember(mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), 64 * PAGE);
	for (int i = 0; i < 64; i++) {
		memset(shared + i * PAGE, i % 3 ? i : 0, PAGE);
		memset(memfd + i * PAGE, i % 4 ? 0 : i + 1, PAGE);
	}
	fd = open("/file", O_CREAT | O_RDWR, 0600);
	for (int i = 0; i < 16 * PAGE; i++)
		check(write(fd, "f", 1) == 1, "write");
	file = remember(mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), 16 * PAGE);
	memset(file + 3 * PAGE, 0, PAGE); // zero, over a file that is not
	memset(file + 5 * PAGE, 7, PAGE);
	close(fd);
}

static void family(size_t len)
{
	pthread_t t;
	int ready[2];
	char c;

	check(!pipe(ready), "pipe");
	if (fork() == 0) {
		// Shares most pages with its parent, has made some zero, and given some up.
		memset(area[0].at, 0, 10 * PAGE);
		madvise(area[0].at + 20 * PAGE, 10 * PAGE, MADV_DONTNEED);
		memset(area[0].at + len - PAGE, 9, PAGE);
		check(write(ready[1], "", 1) == 1, "write");
		syscall(SYS_close_range, 3, ~0U, 0);
		sleeper(NULL);
	}
	check(read(ready[0], &c, 1) == 1, "read");
	close(ready[0]);
	close(ready[1]);
	pthread_create(&t, NULL, sleeper, NULL);
}

static int bound(int type, const char *ip, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	int s = socket(AF_INET, type, 0);

	inet_pton(AF_INET, ip, &a.sin_addr);
	check(!bind(s, (void *)&a, sizeof a), "bind");
	if (type == SOCK_STREAM)
		check(!listen(s, 5), "listen");
	return s;
}

static void network(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(8080) };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(8086) };
	struct epoll_event ev = { .events = EPOLLIN };
	int s, c, e;

	s = bound(SOCK_DGRAM, "0.0.0.0", 5353);
	check(!ioctl(s, SIOCSIFFLAGS, &r), "lo");
	snprintf(r.ifr_name, IFNAMSIZ, "lo:1");
	struct sockaddr_in *own = (void *)&r.ifr_addr;
	own->sin_family = AF_INET;
	inet_pton(AF_INET, "10.9.8.7", &own->sin_addr);
	check(!ioctl(s, SIOCSIFADDR, &r), "address");
	bound(SOCK_STREAM, "127.0.0.1", 8081);
	bound(SOCK_STREAM, "10.9.8.7", 8082);
	s = socket(AF_INET6, SOCK_STREAM, 0);
	check(!bind(s, (void *)&six, sizeof six) && !listen(s, 5), "bind six");
	s = bound(SOCK_STREAM, "0.0.0.0", 8080);
	c = socket(AF_INET, SOCK_STREAM, 0);
	inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
	check(!connect(c, (void *)&a, sizeof a), "connect");
	accept(s, NULL, NULL);
	e = epoll_create1(0);
	epoll_ctl(e, EPOLL_CTL_ADD, c, &ev);
}

static void uring(void)
{
	struct io_uring_params p = { 0 };
	check(syscall(SYS_io_uring_setup, 8, &p) >= 0, "io_uring_setup");
}

static void uringmap(void)
{
	struct io_uring_params p = { 0 };
	int fd = syscall(SYS_io_uring_setup, 8, &p);
	check(fd >= 0, "io_uring_setup");
	mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	close(fd);
}

static void ghost(void)
{
	int fd = open("/deleted", O_CREAT | O_RDWR, 0600);
	check(!ftruncate(fd, 100L << 20), "ftruncate");
	for (long i = 0; i < 100L << 20; i += PAGE)
		check(pwrite(fd, "x", 1, i) == 1, "pwrite");
	unlink("/deleted");
}

static void other(void)
{
	if (fork() == 0) {
		check(!setgid(12345) && !setuid(12345), "setuid");
		sleeper(NULL);
	}
}

static void nested(void)
{
	check(!unshare(CLONE_NEWPID), "unshare");
	if (fork() == 0)
		sleeper(NULL);
}

static void nestednet(void)
{
	if (fork() == 0) {
		check(!unshare(CLONE_NEWUTS), "unshare");
		sleeper(NULL);
	}
}

static void bpf(void)
{
	check(socket(AF_ALG, SOCK_SEQPACKET, 0) >= 0, "AF_ALG");
}

static void halfopen(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(8080) };
	int s = bound(SOCK_STREAM, "0.0.0.0", 8080), c = socket(AF_INET, SOCK_STREAM, 0);

	ioctl(s, SIOCSIFFLAGS, &r);
	inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
	check(!connect(c, (void *)&a, sizeof a), "connect");
}

static void aio(void)
{
	aio_context_t ctx = 0;
	check(!syscall(SYS_io_setup, 128, &ctx), "io_setup");
}

static void outside(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(a.sun_path, sizeof a.sun_path, "/outside");
	check(!connect(s, (void *)&a, sizeof a), "connect");
}

static void uffd(void)
{
	check(syscall(SYS_userfaultfd, O_NONBLOCK) >= 0, "userfaultfd");
}

int main(int argc, char **argv)
{
	size_t len = (argc > 3 ? atol(argv[3]) : 1) << 20;
	static const struct { const char *name; void (*run)(void); } modes[] = {
		{ "network", network }, { "uring", uring }, { "uringmap", uringmap }, { "ghost", ghost }, { "other", other },
		{ "nested", nested }, { "nestedns", nestednet }, { "alg", bpf }, { "halfopen", halfopen }, { "aio", aio },
		{ "outside", outside }, { "uffd", uffd },
	};

	check(argc > 2, "arguments");
	syscall(SYS_close_range, 0, 2, 0);
	syscall(SYS_close_range, 4, ~0U, 0);
	setsid();
	enter(argv[1]);
	signal(SIGUSR1, report);
	memory(len);
	family(len);
	for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
		if (!strcmp(argv[2], modes[i].name))
			modes[i].run();
	check(write(3, "ready\n", 6) == 6, "write");
	close(3);
	sleeper(NULL);
}
