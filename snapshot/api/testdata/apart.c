// A program that has, from before the snapshot, one of each thing that processes can share. When a file /go holds a number it
// writes that number to all of them; when there is a file /check it looks whether any of them has another's number, and says
// so in /apart: "ok NAME" or "bad NAME: WHY", and "done" at the end.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static FILE *report;

static void must(int right, const char *what) {
	if (right) return;
	perror(what);
	_exit(3);
}

static void check(int right, const char *name, const char *format, ...) {
	va_list args;
	va_start(args, format);
	fprintf(report, right ? "ok %s" : "bad %s: ", name);
	if (!right) vfprintf(report, format, args);
	fputc('\n', report);
	va_end(args);
}

static volatile sig_atomic_t signals;
static void on_signal(int sig) { (void)sig; signals++; }

static long wait_for(const char *name) {
	struct timespec ms = {0, 2000000};
	char b[32] = "";
	int fd;
	while ((fd = open(name, O_RDONLY)) < 0) nanosleep(&ms, NULL);
	(void)!read(fd, b, sizeof b - 1);
	close(fd);
	return atol(b);
}

static long *shared(int fd) {
	long *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
	must(p != MAP_FAILED, "map");
	return p;
}

int main(void) {
	enum { old = 4242 };
	long n;
	char text[64];
	uint64_t count;
	int pipes[2], pair[2], writing[2];
	struct epoll_event e = {EPOLLIN, {.u64 = 1}}, got[4];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10};
	struct sockaddr_un name = {AF_UNIX, "/socket"};

	int file = open("/file", O_RDWR | O_CREAT, 0644), append = open("/append", O_RDWR | O_CREAT | O_APPEND, 0644);
	must(file >= 0 && append >= 0 && ftruncate(file, 1 << 16) == 0 && lseek(file, 100, SEEK_SET) == 100, "file");
	int gone = open("/gone", O_RDWR | O_CREAT, 0600);
	must(gone >= 0 && write(gone, "x", 1) == 1 && !unlink("/gone"), "deleted file");
	int mapped_file = open("/mapped", O_RDWR | O_CREAT, 0644);
	must(mapped_file >= 0 && !ftruncate(mapped_file, 4096), "mapped file");
	int memfd = memfd_create("m", 0);
	must(memfd >= 0 && !ftruncate(memfd, 8192), "memfd");
	int shm = open("/dev/shm/s", O_RDWR | O_CREAT, 0600);
	must(shm >= 0 && !ftruncate(shm, 4096), "shm");
	long *anonymous = shared(-1), *of_file = shared(mapped_file), *of_memfd = shared(memfd);
	long *private = malloc(1 << 20), *twice = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memfd, 0);
	*anonymous = *of_file = *of_memfd = *private = old;
	int event = eventfd(7, EFD_NONBLOCK), poll = epoll_create1(0), other = eventfd(0, EFD_NONBLOCK);
	must(!pipe2(pipes, O_NONBLOCK) && !pipe2(writing, O_NONBLOCK) && !socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair), "pipes");
	must(write(pipes[1], "from before", 11) == 11, "write");
	must(!epoll_ctl(poll, EPOLL_CTL_ADD, event, &e), "epoll");
	int listening = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	must(!bind(listening, (void *)&name, sizeof name), "bind");
	int abstract = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_un hidden = {AF_UNIX, "\0hidden"};
	must(!bind(abstract, (void *)&hidden, sizeof hidden), "bind");
	signal(SIGUSR1, on_signal);
	dprintf(1, "ready\n");

	n = wait_for("/go");
	*anonymous = *of_file = *of_memfd = *private = n;
	snprintf(text, sizeof text, "number %ld\n", n);
	must(lseek(file, 0, SEEK_CUR) == 100, "offset");
	must(lseek(file, n * 16, SEEK_SET) == n * 16 && write(file, &n, 8) == 8, "write");
	must(write(append, text, strlen(text)) > 0 && pwrite(gone, &n, 8, 0) == 8 && pwrite(memfd, &n, 8, 4096) == 8 && pwrite(shm, &n, 8, 0) == 8, "write");
	count = n;
	must(write(event, &count, 8) == 8 && write(writing[1], &n, 8) == 8 && send(pair[0], &n, 8, 0) == 8, "send");
	for (int i = 0; i < n % 5; i++) kill(getpid(), SIGUSR1);
	if (n % 2) must(!epoll_ctl(poll, EPOLL_CTL_DEL, event, NULL) && !epoll_ctl(poll, EPOLL_CTL_ADD, other, &e), "epoll");
	int sender = socket(AF_UNIX, SOCK_DGRAM, 0);
	must(sendto(sender, &n, 8, 0, (void *)&name, sizeof name) == 8 && sendto(sender, &n, 8, 0, (void *)&hidden, sizeof hidden) == 8, "send");
	int locked = !flock(file, LOCK_EX | LOCK_NB), record = !fcntl(append, F_SETLK, &lock);
	must(!symlink("x", "/wrote"), "symlink");

	wait_for("/check");
	report = fopen("/apart.new", "w");
	must(report != NULL, "report");
	check(*anonymous == n, "shared memory", "%ld", *anonymous);
	check(*of_file == n, "shared mapping of a file", "%ld", *of_file);
	check(*of_memfd == n && *twice == n, "shared mapping of a memfd", "%ld %ld", *of_memfd, *twice);
	check(*private == n, "memory", "%ld", *private);
	long v = 0;
	check(lseek(file, 0, SEEK_CUR) == n * 16 + 8, "offset", "%ld", (long)lseek(file, 0, SEEK_CUR));
	int only = 1;
	for (long i = 0; i < 4096; i++) only &= pread(file, &v, 8, i * 16) != 8 || v == (i == n ? n : 0);
	check(only, "file", "another's number is in it");
	struct stat st;
	check(!fstat(append, &st) && st.st_size == (off_t)strlen(text), "appended file", "%ld bytes", (long)st.st_size);
	check(pread(gone, &v, 8, 0) == 8 && v == n, "deleted file", "%ld", v);
	check(pread(memfd, &v, 8, 4096) == 8 && v == n, "memfd", "%ld", v);
	int again = open("/dev/shm/s", O_RDONLY);
	check(read(again, &v, 8) == 8 && v == n, "/dev/shm", "%ld", v);
	check(read(event, &count, 8) == 8 && count == (uint64_t)n + 7, "eventfd", "%lu", (unsigned long)count);
	memset(text, 0, sizeof text);
	check(read(pipes[0], text, sizeof text) == 11 && !strcmp(text, "from before") && read(pipes[0], text, 1) == -1, "pipe with content", "%s", text);
	check(read(writing[0], &v, 8) == 8 && v == n && read(writing[0], &v, 8) == -1, "pipe", "%ld", v);
	check(recv(pair[1], &v, 8, 0) == 8 && v == n && recv(pair[1], &v, 8, 0) == -1, "socket pair", "%ld", v);
	check(recv(listening, &v, 8, 0) == 8 && v == n && recv(listening, &v, 8, 0) == -1, "named socket", "%ld", v);
	check(recv(abstract, &v, 8, 0) == 8 && v == n && recv(abstract, &v, 8, 0) == -1, "abstract socket", "%ld", v);
	check(signals == n % 5 || (n % 5 && signals > 0), "signals", "%d", (int)signals);
	count = 1;
	must(write(n % 2 ? other : event, &count, 8) == 8, "write");
	check(epoll_wait(poll, got, 4, 0) == 1, "epoll", "nothing");
	must(read(n % 2 ? other : event, &count, 8) == 8 && write(n % 2 ? event : other, &count, 8) == 8, "write");
	check(epoll_wait(poll, got, 4, 0) == 0, "epoll's set", "another's");
	check(locked && record, "locks", "%d %d", locked, record);
	gethostname(text, sizeof text);
	char host[80];
	snprintf(host, sizeof host, "apart-%ld", n);
	check(!strcmp(text, host), "host name", "%s", text);
	check(getpid() == 1 && kill(2, 0) == -1 && access("/proc/2", F_OK), "processes", "there is another one");
	fprintf(report, "done\n");
	fclose(report);
	rename("/apart.new", "/apart");
	for (;;) pause();
}
