// A program with memory of every kind that checks all of it for ever, in three orders at once: one thread upwards, one
// downwards, and a forked child. After each round it writes "ok ROUND" to /status, or "bad …" once and stops.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096L
typedef uint64_t u64;

static struct region { char *p; long n, step, zero; } r[64];
static int regions;
static pthread_barrier_t barrier;

static u64 word(u64 region, u64 page, u64 i) { return (region * 1000003 + page + 1) * 0x9E3779B97F4A7C15UL + i * 0xC2B2AE3D27D4EB4FUL; }

static void bad(const char *who, int k, long i) {
	char b[200];
	int n = snprintf(b, sizeof b, "bad: %s finds region %d page %ld of %ld changed\n", who, k, i, r[k].n);
	int fd = open("/status.bad", O_CREAT | O_WRONLY, 0600);
	if (write(fd, b, n) != n) _exit(3);
	rename("/status.bad", "/status");
	_exit(1);
}

// step pages apart there is content, in between are zeros; so are the pages from zero on.
static void add(char *p, long n, long step, long zero) {
	if (p == MAP_FAILED) { perror("mmap"); exit(2); }
	struct region *g = &r[regions];
	*g = (struct region){p, n, step, zero};
	for (long i = 0; i < zero; i += step)
		for (long k = 0; k < PAGE / 8; k++) ((u64 *)(p + i * PAGE))[k] = word(regions, i, k);
	regions++;
}

static void check(const char *who, int k, long i) {
	u64 *p = (u64 *)(r[k].p + i * PAGE);
	int filled = i < r[k].zero && i % r[k].step == 0;
	for (long w = 0; w < PAGE / 8; w++)
		if (p[w] != (filled ? word(k, i, w) : 0)) bad(who, k, i);
}

static void upwards(const char *who) {
	for (int k = 0; k < regions; k++)
		for (long i = 0; i < r[k].n; i++) check(who, k, i);
}

static void *downwards(void *arg) {
	(void)arg;
	for (;;) {
		pthread_barrier_wait(&barrier);
		for (int k = regions; k-- > 0;)
			for (long i = r[k].n; i-- > 0;) check("thread", k, i);
		pthread_barrier_wait(&barrier);
	}
}

static char *anon(long n, int prot) { return mmap(0, n * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

int main(void) {
	int rw = PROT_READ | PROT_WRITE;
	for (int i = 0; i < 12; i++) { // odd sizes, neighbours, gaps
		add(anon(1 + i * 37, rw), 1 + i * 37, 1, 1 + i * 37);
		if (i % 3 == 0) anon(2, PROT_NONE);
	}
	char *p = anon(777, rw); // one mapping that becomes many
	add(p, 777, 1, 777);
	for (long i = 5; i + 13 < 777; i += 29) mprotect(p + i * PAGE, 13 * PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_EXEC);
	p = anon(4096, rw);
	p = (char *)(((u64)p + (2 << 20) - 1) & -(2L << 20));
	madvise(p, 6 << 20, MADV_HUGEPAGE);
	add(p, 1536, 1, 1536);
	madvise(p + (1 << 20), 64 * PAGE, MADV_DONTNEED); // a hole in a huge page
	r[regions - 1].n = 256, r[regions - 1].zero = 256;
	add(anon(8192, rw), 8192, 1, 8192);
	add(anon(1 << 16, rw), 1 << 16, 97, 1 << 16); // sparse
	add(mmap(0, 301 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 301, 1, 301);
	int fd = open("/file", O_CREAT | O_RDWR, 0600);
	if (ftruncate(fd, 100 * PAGE)) return 2;
	add(mmap(0, 100 * PAGE, rw, MAP_PRIVATE, fd, 0), 100, 3, 100);
	close(fd);
	sbrk(-(long)sbrk(0) & (PAGE - 1));
	add(sbrk(500 * PAGE), 500, 2, 333);
	p = anon(64, rw); // locked: never missing
	add(p, 64, 1, 64);
	mlock(p, 64 * PAGE);

	pthread_t t;
	pthread_barrier_init(&barrier, 0, 2);
	if (pthread_create(&t, 0, downwards, 0)) return 2;
	for (long round = 1;; round++) {
		pid_t pid = fork();
		if (pid == 0) { upwards("child"); _exit(0); }
		pthread_barrier_wait(&barrier);
		upwards("main");
		pthread_barrier_wait(&barrier);
		int status;
		if (pid < 0 || waitpid(pid, &status, 0) != pid) { perror("fork"); return 2; }
		if (status) return 1;
		FILE *f = fopen("/status.new", "w");
		fprintf(f, "ok %ld\n", round);
		fclose(f);
		if (access("/status.bad", F_OK)) rename("/status.new", "/status");
	}
}
