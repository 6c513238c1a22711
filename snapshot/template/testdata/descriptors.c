// descriptors donor ROOT | descriptors replay ROOT RECIPE: a process for tests of recipes for descriptors. As the init of
// fresh namespaces it makes ROOT its root file system. A donor then opens files of every kind; a replay runs the recipe
// that was made of a dump of the donor. Both describe their descriptors on descriptor 900, and wait. What they say is the
// same if the recipe is right.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#define HIGH 200
#define OUT 900

static void check(int ok, const char *what)
{
	if (!ok) {
		dprintf(OUT, "FAILED %s: %m\n", what);
		_exit(1);
	}
}

static void enter(const char *root)
{
	struct ifreq up = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	check(!ioctl(s, SIOCSIFFLAGS, &up), "lo");
	close(s);
	check(!mount("", "/", "", MS_PRIVATE | MS_REC, ""), "private");
	check(!chdir(root), "chdir");
	check(!mount("proc", "proc", "proc", 0, ""), "proc");
	check(!syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(!umount2(".", MNT_DETACH), "umount");
	check(!chdir("/"), "chdir /");
}

static uint64_t digest(const void *p, size_t n)
{
	uint64_t h = 1469598103934665603u;
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const uint8_t *)p)[i]) * 1099511628211u;
	return h;
}

static char buf[1 << 22];

static void pr_address(const char *what, struct sockaddr_storage *a, socklen_t n, int ok)
{
	dprintf(OUT, " %s ", what);
	if (!ok)
		dprintf(OUT, "errno %d", errno);
	for (socklen_t i = 0; ok && i < n; i++)
		dprintf(OUT, "%02x", ((uint8_t *)a)[i]);
}

static void pr_socket(int fd)
{
	static const struct { int level, name; } option[] = {
		{ 1, SO_TYPE }, { 1, SO_DOMAIN }, { 1, SO_PROTOCOL }, { 1, SO_ACCEPTCONN }, { 1, SO_SNDBUF }, { 1, SO_RCVBUF }, { 1, 72 },
		{ 1, SO_REUSEADDR }, { 1, SO_REUSEPORT }, { 1, SO_KEEPALIVE }, { 1, SO_BROADCAST }, { 1, SO_OOBINLINE }, { 1, SO_LINGER },
		{ 1, SO_PRIORITY }, { 1, SO_RCVLOWAT }, { 1, SO_MARK }, { 1, SO_PASSCRED }, { 1, SO_DONTROUTE }, { 1, SO_NO_CHECK },
		{ 1, SO_RCVTIMEO }, { 1, SO_SNDTIMEO }, { 1, SO_ERROR }, { 0, IP_TOS }, { 0, IP_TTL }, { 0, IP_FREEBIND }, { 0, IP_PKTINFO },
		{ 41, IPV6_V6ONLY }, { 41, IPV6_RECVPKTINFO }, { 6, TCP_NODELAY }, { 6, TCP_CORK }, { 6, TCP_KEEPCNT }, { 6, TCP_KEEPIDLE },
		{ 6, TCP_KEEPINTVL },
	};
	struct sockaddr_storage a = { 0 };
	socklen_t n = sizeof a;
	int r;

	for (size_t i = 0; i < sizeof option / sizeof *option; i++) {
		uint64_t v[2] = { 0 };
		n = sizeof v;
		if (!getsockopt(fd, option[i].level, option[i].name, v, &n))
			dprintf(OUT, " %d/%d=%lx,%lx", option[i].level, option[i].name, v[0], v[1]);
	}
	n = 0;
	if (!getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) && n) {
		getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, buf, &n);
		dprintf(OUT, " filter %d %lx", n, digest(buf, n * 8));
	}
	n = sizeof a;
	r = getsockname(fd, (void *)&a, &n);
	pr_address("name", &a, n, !r);
	memset(&a, 0, n = sizeof a);
	r = getpeername(fd, (void *)&a, &n);
	pr_address("peer", &a, n, !r);
	r = -1;
	ioctl(fd, FIONREAD, &r);
	dprintf(OUT, " queued %d", r);
	r = recv(fd, buf, sizeof buf, MSG_PEEK | MSG_DONTWAIT);
	dprintf(OUT, " first %d %lx", r < 0 ? -errno : r, digest(buf, r < 0 ? 0 : r));
}

static void pr_pipe(int fd)
{
	int p[2], n;
	dprintf(OUT, " size %d", fcntl(fd, F_GETPIPE_SZ));
	if ((fcntl(fd, F_GETFL) & O_ACCMODE) == O_WRONLY)
		return;
	check(!pipe(p), "pipe");
	fcntl(p[1], F_SETPIPE_SZ, 1 << 20);
	n = tee(fd, p[1], 1 << 20, SPLICE_F_NONBLOCK);
	if (n > 0)
		n = read(p[0], buf, n);
	dprintf(OUT, " content %d %lx", n < 0 ? -errno : n, digest(buf, n < 0 ? 0 : n));
	close(p[0]);
	close(p[1]);
}

// Identity of pipes: the lowest descriptor of the same inode.
static int twin(int fd, const struct stat *st)
{
	struct stat o;
	for (int i = 0; i < fd; i++)
		if (!fstat(i, &o) && o.st_ino == st->st_ino && o.st_dev == st->st_dev)
			return i;
	return fd;
}

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

// What /proc says of a descriptor, but for what differs between equal ones.
static void pr_fdinfo(const char *path)
{
	static char line[100][300];
	int n = 0, ticked = 0;
	FILE *f = fopen(path, "r");

	for (char *l = line[0], *p; n < 100 && fgets(l, 300, f); l = line[n]) {
		if (!strncmp(l, "mnt_id", 6) || !strncmp(l, "ino:", 4) || !strncmp(l, "scm_fds", 7) || !strncmp(l, "eventfd-id", 10))
			continue;
		ticked |= !strncmp(l, "ticks", 5) && atoi(l + 6);
		if (!strncmp(l, "it_value", 8)) { // a moving target: in units of 1,000 s
			if (ticked) // in the original it is 0 until the timer is read
				continue;
			sprintf(l, "it_value: about %d\n", (atoi(l + 11) + 500) / 1000);
		}
		if ((p = strstr(l, " pos:"))) // of epoll: inode and device follow
			*p = 0;
		l[strcspn(l, "\n")] = 0;
		n++;
	}
	fclose(f);
	qsort(line, n, sizeof *line, by_text); // sets are in no order
	for (int i = 0; i < n; i++)
		dprintf(OUT, "; %s", line[i]);
}

static void describe(int fd)
{
	char path[64], link[300] = { 0 };
	struct stat st;
	int first = 0, n;

	while (first < fd && syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, first, fd) != 0)
		first++;
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	check(readlink(path, link, sizeof link - 1) > 0 && !fstat(fd, &st), "fstat");
	dprintf(OUT, "%d same %d cloexec %d", fd, first, fcntl(fd, F_GETFD));
	if (!strncmp(link, "socket:", 7) || !strncmp(link, "pipe:", 5))
		dprintf(OUT, " %.4s", link);
	else
		dprintf(OUT, " %s", link);
	dprintf(OUT, " mode %o owner %d %d links %d", st.st_mode, st.st_uid, st.st_gid, (int)st.st_nlink);
	if (S_ISREG(st.st_mode) && st.st_size) {
		dprintf(OUT, " size %ld mtime %ld", st.st_size, strncmp(link, "/memfd", 6) ? st.st_mtime : 0);
		n = pread(fd, buf, sizeof buf, 0);
		dprintf(OUT, " content %d %lx", n < 0 ? -errno : n, digest(buf, n < 0 ? 0 : n));
		dprintf(OUT, " seals %x", fcntl(fd, F_GET_SEALS));
	}
	if (S_ISSOCK(st.st_mode))
		pr_socket(fd);
	if (S_ISFIFO(st.st_mode)) {
		dprintf(OUT, " twin %d", twin(fd, &st));
		pr_pipe(fd);
	}
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	pr_fdinfo(path);
	dprintf(OUT, "\n");
}

#include "descriptors_donor.h"

struct op {
	uint32_t call;
	uint16_t flags;
	uint8_t loads, unused;
	uint64_t args[6];
	int64_t *out;
	int64_t want;
};

// Runs the recipe in a file: base, length of the data, address of the calls, how many they are; then the data.
static void replay(int fd)
{
	uint64_t head[4];
	struct op *op;
	char *at;

	check(pread(fd, head, sizeof head, 0) == sizeof head, "recipe");
	at = mmap((void *)head[0], head[1] + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	check(at == (void *)head[0] && pread(fd, at, head[1], sizeof head) == (ssize_t)head[1], "recipe");
	op = (struct op *)head[2];
	for (uint64_t i = 0; i < head[3]; i++, op++) {
		uint64_t a[6];
		long r;

		for (int j = 0; j < 6; j++)
			a[j] = op->loads >> j & 1 ? *(uint64_t *)op->args[j] : op->args[j];
		r = syscall(op->call, a[0], a[1], a[2], a[3], a[4], a[5]);
		if (r < 0)
			r = -errno;
		if (op->out)
			*op->out = r;
		if (!(op->flags & 1) && (op->flags & 2 ? r != op->want : r < 0)) {
			dprintf(OUT, "CALL %lu %ld\n", i, r);
			_exit(1);
		}
	}
}

static void describe_all(void)
{
	for (int fd = 0; fd < HIGH; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			describe(fd);
	for (int i = 0; i < 2; i++) {
		const char *name = i ? "/sub/relative" : "/listener";
		struct stat st;
		if (!lstat(name, &st))
			dprintf(OUT, "%s mode %o owner %d %d\n", name, st.st_mode, st.st_uid, st.st_gid);
	}
	dprintf(OUT, "END\n");
}

int main(int argc, char **argv)
{
	sigset_t set;
	int fd, sig;

	if (argc < 3)
		return 2;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (!strcmp(argv[1], "replay")) {
		fd = open(argv[3], O_RDONLY);
		check(fd >= 0 && dup2(fd, OUT - 1) == OUT - 1, "open recipe");
		enter(argv[2]);
		close_range(0, HIGH - 1, 0);
		replay(OUT - 1);
		close(OUT - 1);
	} else {
		enter(argv[2]);
		close_range(0, HIGH - 1, 0);
		donate(argv[1]);
	}
	describe_all();
	if (!strcmp(argv[1], "replay"))
		behave(argv[4]);
	dprintf(OUT, "DONE\n");
	close_range(HIGH, ~0U, 0);
	for (;;) { // after a restore: once more, into a file
		sigwait(&set, &sig);
		fd = open("/report.new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		dup2(fd, OUT);
		close(fd);
		describe_all();
		close(OUT);
		rename("/report.new", "/report");
	}
}
