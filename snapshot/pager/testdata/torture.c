// A process as CRIU would restore it, whose memory a pager serves: it checks every page that it reads against what must
// be there, while its threads and its forks change their memory in every way there is.
//
// usage: torture SOCKET SEED THREADS PAGES OPS. It prints what is wrong and exits with 1, or prints "ok".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define BASE ((char *)0x300000000000UL)
#define BLOCKS 12
#define MOST 2048 // pages of a block

typedef uint64_t u64;

// A page has an id that says what it must hold; 0 is one of zeros.
struct block { char *addr; long n; u64 id[MOST]; };
struct thread { int nr, depth; u64 rnd, next; struct block b[BLOCKS]; pthread_t t; };

static long ops;
static int bad;

static u64 rnd(struct thread *t) {
	t->rnd ^= t->rnd << 13; t->rnd ^= t->rnd >> 7; t->rnd ^= t->rnd << 17;
	return t->rnd;
}

static u64 word(u64 id, u64 i) { return id ? id * 0x9E3779B97F4A7C15UL + i * 0xC2B2AE3D27D4EB4FUL : 0; }

static void die(const char *what) { perror(what); _exit(2); }

static void check(struct thread *t, struct block *b, long i, const u64 *p, const char *how) {
	for (u64 k = 0; k < PAGE / 8; k++)
		if (p[k] != word(b->id[i], k)) {
			dprintf(1, "thread %d depth %d: %s: page %p (%ld of %ld) word %lu is %#lx, its id is %lu\n", t->nr, t->depth, how,
				b->addr + i * PAGE, i, b->n, k, p[k], b->id[i]);
			bad = 1;
			return;
		}
}

static void look(struct thread *t, struct block *b, long i) {
	char *at = b->addr + i * PAGE;
	u64 buf[PAGE / 8];
	struct iovec l = {buf, PAGE}, r = {at, PAGE};
	switch (rnd(t) % 12) {
	case 0:
		if (process_vm_readv(getpid(), &l, 1, &r, 1, 0) == PAGE)
			check(t, b, i, buf, "process_vm_readv");
		break;
	case 1: {
		int fd[2];
		if (pipe(fd)) die("pipe");
		if (write(fd[1], at, PAGE) == PAGE && read(fd[0], buf, PAGE) == PAGE)
			check(t, b, i, buf, "pipe");
		close(fd[0]); close(fd[1]);
		break;
	}
	case 2: if (madvise(at, PAGE, 22) && errno != EINVAL) die("populate"); break;
	case 3: mlock(at, PAGE); munlock(at, PAGE); break;
	}
	check(t, b, i, (u64 *)at, "read");
}

static void fill(struct thread *t, struct block *b, long i) {
	u64 *p = (u64 *)(b->addr + i * PAGE), id = t->next++;
	if (rnd(t) % 4 == 0) check(t, b, i, p, "before write");
	for (u64 k = 0; k < PAGE / 8; k++) p[k] = word(id, k);
	b->id[i] = id;
}

static void all(struct thread *t) {
	for (int k = 0; k < BLOCKS; k++)
		for (long i = 0; i < t->b[k].n; i++)
			check(t, &t->b[k], i, (u64 *)(t->b[k].addr + i * PAGE), "at last");
}

static void work(struct thread *t, long n);

static void forking(struct thread *t) {
	if (t->depth > 1) return;
	pid_t pid = fork();
	if (pid < 0) die("fork");
	if (pid == 0) {
		t->depth++;
		t->rnd += 77;
		bad = 0;
		work(t, 6);
		if (rnd(t) % 3 == 0) _exit(bad); // in the middle of it
		all(t);
		_exit(bad);
	}
	int status;
	if (rnd(t) % 2) work(t, 2);
	if (waitpid(pid, &status, 0) != pid) die("waitpid");
	if (status) { dprintf(1, "child: status %#x\n", status); bad = 1; }
}

static void move(struct thread *t, struct block *b) {
	long n = b->n;
	switch (rnd(t) % 4) {
	case 0: n += 1 + rnd(t) % 40; break;
	case 1: n -= rnd(t) % n; break;
	case 2: n += n; break;
	}
	if (n > MOST) n = MOST;
	if (n == b->n) { // elsewhere, and what was there goes
		char *p = mremap(b->addr, n * PAGE, n * PAGE, MREMAP_MAYMOVE | 4, 0);
		if (p == MAP_FAILED) return;
		if (rnd(t) % 2) {
			for (long i = 0; i < n; i++)
				if (*(volatile char *)(b->addr + i * PAGE)) { dprintf(1, "left behind: %p\n", b->addr + i * PAGE); bad = 1; }
		}
		munmap(b->addr, n * PAGE);
		b->addr = p;
		return;
	}
	char *p = mremap(b->addr, b->n * PAGE, n * PAGE, MREMAP_MAYMOVE);
	if (p == MAP_FAILED) return;
	for (long i = b->n; i < n; i++) b->id[i] = 0;
	b->addr = p;
	b->n = n;
}

static void work(struct thread *t, long n) {
	while (n-- > 0 && !bad) {
		struct block *b = &t->b[rnd(t) % BLOCKS];
		if (b->n == 0) continue;
		long i = rnd(t) % b->n, len = 1 + rnd(t) % 20;
		if (len > b->n - i) len = b->n - i;
		switch (rnd(t) % 16) {
		default: look(t, b, i); break;
		case 5: case 6: fill(t, b, i); break;
		case 7: case 8: case 9: move(t, b); break;
		case 10:
			madvise(b->addr + i * PAGE, len * PAGE, MADV_DONTNEED);
			memset(b->id + i, 0, len * sizeof(u64));
			if (rnd(t) % 2) look(t, b, i);
			break;
		case 11:
			if (b->n < 8) break;
			len = b->n / 4;
			if (rnd(t) % 2) {
				munmap(b->addr, len * PAGE);
				b->addr += len * PAGE;
				memmove(b->id, b->id + len, (b->n - len) * sizeof(u64));
			} else
				munmap(b->addr + (b->n - len) * PAGE, len * PAGE);
			b->n -= len;
			break;
		case 12:
			mprotect(b->addr + i * PAGE, len * PAGE, PROT_READ);
			look(t, b, i);
			mprotect(b->addr + i * PAGE, len * PAGE, PROT_READ | PROT_WRITE);
			break;
		case 13: if (rnd(t) % 3 == 0) forking(t); break;
		case 14: { // addresses that come and go
			char *p = mmap(0, len * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (p == MAP_FAILED) die("mmap");
			if (*p) { dprintf(1, "new memory is not empty\n"); bad = 1; }
			*p = 1;
			munmap(p, len * PAGE);
			break;
		}
		case 15: { // new memory over old
			char *p = mmap(b->addr + i * PAGE, len * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
			if (p == MAP_FAILED) die("mmap");
			memset(b->id + i, 0, len * sizeof(u64));
		}
		}
	}
}

static void *run(void *arg) {
	struct thread *t = arg;
	work(t, ops);
	if (!bad) all(t);
	return 0;
}

static void tell(int s, uint32_t w) { if (write(s, &w, 4) != 4) die("write"); }

static void serve(const char *path, char *addr, long len) {
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
		UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP};
	struct uffdio_register reg = {.range = {(u64)addr, len}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	int u = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (u < 0 || ioctl(u, UFFDIO_API, &api)) die("userfaultfd");
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	if (connect(s, (void *)&a, sizeof a)) die("connect");
	tell(s, -5); // a zombie
	tell(s, 1);
	char zero = 0, ctl[CMSG_SPACE(4)] = {0};
	struct iovec v = {&zero, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = ctl, .msg_controllen = sizeof ctl};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET; c->cmsg_type = SCM_RIGHTS; c->cmsg_len = CMSG_LEN(4);
	memcpy(CMSG_DATA(c), &u, 4);
	if (sendmsg(s, &m, 0) != 1) die("sendmsg");
	if (ioctl(u, UFFDIO_REGISTER, &reg)) die("register");
	close(u);
	tell(s, 0x52535446);
	close(s);
}

int main(int argc, char **argv) {
	if (argc != 6) return 2;
	u64 seed = strtoull(argv[2], 0, 10);
	int threads = atoi(argv[3]);
	long pages = atol(argv[4]);
	ops = atol(argv[5]);
	struct thread *t = mmap(0, threads * sizeof *t, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *p = mmap(BASE, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (p != BASE || t == MAP_FAILED) die("mmap");
	for (long i = 3; i + 60 < pages; i += 57) // pieces end at mappings
		mprotect(p + i * PAGE, 9 * PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE | PROT_EXEC);
	long per = pages / threads / BLOCKS;
	for (int i = 0; i < threads; i++) {
		t[i].nr = i;
		t[i].rnd = (seed + 1) * 0x9E3779B97F4A7C15UL + i * 1234567891UL;
		t[i].next = (u64)(i + 1) << 40;
		for (int k = 0; k < BLOCKS; k++) {
			struct block *b = &t[i].b[k];
			long first = (k * threads + i) * per; // neighbours belong to different threads
			b->addr = p + first * PAGE;
			b->n = per;
			for (long j = 0; j < per; j++) b->id[j] = (first + j) % 7 == 3 ? 0 : first + j + 1;
		}
	}
	serve(argv[1], p, pages * PAGE);
	for (long i = 3; i + 60 < pages; i += 57)
		mprotect(p + i * PAGE, 9 * PAGE, PROT_READ | PROT_WRITE);
	for (int i = 0; i < threads; i++)
		if (pthread_create(&t[i].t, 0, run, &t[i])) die("pthread_create");
	for (int i = 0; i < threads; i++) pthread_join(t[i].t, 0);
	if (!bad) dprintf(1, "ok\n");
	return bad;
}
