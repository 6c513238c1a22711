// A process as CRIU would restore it, whose memory a pager serves, for measurements.
//
// usage: bench SOCKET fill|fault PAGES. It prints the nanoseconds that a touch of a missing page takes (0 for fill), and
// lives until its input ends.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define WINDOW (16 * PAGE)

static void die(const char *what) { perror(what); exit(2); }

static void serve(const char *path, char *addr, long len) {
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
		UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP};
	struct uffdio_register reg = {.range = {(uint64_t)addr, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int u = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (u < 0 || ioctl(u, UFFDIO_API, &api) || ioctl(u, UFFDIO_REGISTER, &reg)) die("userfaultfd");
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	if (connect(s, (void *)&a, sizeof a)) die("connect");
	uint32_t task = 1, restored = 0x52535446;
	char zero = 0, ctl[CMSG_SPACE(4)] = {0};
	struct iovec v = {&zero, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(4);
	memcpy(CMSG_DATA(c), &u, 4);
	if (write(s, &task, 4) != 4 || sendmsg(s, &m, 0) != 1 || write(s, &restored, 4) != 4) die("send");
	close(u);
	close(s);
}

int main(int argc, char **argv) {
	if (argc != 4) return 2;
	long pages = atol(argv[3]), n = 0;
	char *p = mmap((void *)0x300000000000UL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (p == MAP_FAILED) die("mmap");
	serve(argv[1], p, pages * PAGE);
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	if (!strcmp(argv[2], "fault"))
		for (unsigned long at = 0; at < pages * PAGE && n < 500; at += WINDOW, n++) *(volatile char *)(p + at);
	clock_gettime(CLOCK_MONOTONIC, &to);
	printf("%.0f\n", n ? ((to.tv_sec - from.tv_sec) * 1e9 + to.tv_nsec - from.tv_nsec) / n : 0);
	fflush(stdout);
	while (read(0, &n, sizeof n) > 0) {}
	return 0;
}
