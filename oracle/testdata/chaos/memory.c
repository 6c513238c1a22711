// Memory of every kind, with a known pattern in it.
#include "chaos.h"
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/wait.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

static struct region { const char *kind; char *p; size_t n; u64 key; size_t zeros; int prot; } regions[64];
static int count;

static struct region *add(const char *kind, char *p, size_t n) {
	if (p == MAP_FAILED) die(kind);
	struct region *r = &regions[count++];
	*r = (struct region){kind, p, n, draw(), 0, PROT_READ | PROT_WRITE};
	return r;
}

static char *anon(size_t n, int flags) { return mmap(0, n, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | flags, -1, 0); }

// protect takes away what the pattern no longer needs.
static void protect(struct region *r) {
	static const int prots[] = {PROT_READ | PROT_WRITE, PROT_READ, PROT_READ | PROT_EXEC, PROT_NONE};
	r->prot = prots[below(COUNT(prots))];
	mprotect(r->p, r->n, r->prot);
}

static char *file(size_t n, int flags, u64 key) {
	char name[40], *b = malloc(n);
	static int serial;
	snprintf(name, sizeof name, "/memory-%d", serial++);
	int fd = (int)MUST(open(name, O_CREAT | O_RDWR | O_TRUNC, 0600));
	fill(b, n, key);
	MUST(write(fd, b, n));
	free(b);
	char *p = mmap(0, n, PROT_READ | PROT_WRITE, flags, fd, 0);
	MUST(close(fd));
	return p;
}

static void make(void) {
	static const struct { const char *name; int how; } advices[] = {{"dontfork", MADV_DONTFORK}, {"wipeonfork", MADV_WIPEONFORK},
		{"dontdump", MADV_DONTDUMP}, {"hugepage", MADV_HUGEPAGE}, {"nohugepage", MADV_NOHUGEPAGE}, {"sequential", MADV_SEQUENTIAL},
		{"random", MADV_RANDOM}};
	int n = 3 + (int)below(20);
	for (int i = 0; i < n; i++) {
		size_t size = PAGE * (1 + below(chance(10) ? 1200 : 40));
		struct region *r;
		switch (below(12)) {
		case 0: case 1: case 2:
			r = add("private", anon(size, MAP_PRIVATE), size);
			fill(r->p, r->n, r->key);
			protect(r);
			break;
		case 3:
			r = add("shared", anon(size, MAP_SHARED), size);
			fill(r->p, r->n, r->key);
			protect(r);
			break;
		case 4: { // every other page written in this process, the rest as in the file
			u64 key = draw();
			r = add("file-private", file(size, MAP_PRIVATE, key), size);
			r->key = key;
			for (size_t at = 0; at < size; at += 2 * PAGE) r->p[at] = (char)content(key, at);
			break;
		}
		case 5: {
			u64 key = draw();
			r = add("file-shared", file(size, MAP_SHARED, key), size);
			r->key = key;
			break;
		}
		case 6: {
			int fd = (int)MUST(memfd_create("mapped", 0));
			MUST(ftruncate(fd, (off_t)size));
			r = add("memfd-shared", mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), size);
			if (chance(50)) MUST(close(fd));
			fill(r->p, r->n, r->key);
			break;
		}
		case 7: case 8: {
			int a = (int)below(COUNT(advices));
			r = add(advices[a].name, anon(size, MAP_PRIVATE), size);
			fill(r->p, r->n, r->key);
			madvise(r->p, r->n, advices[a].how);
			break;
		}
		case 9: // a hole, and a tail that was never touched
			r = add("sparse", anon(size, MAP_PRIVATE), size);
			fill(r->p, r->n, r->key);
			r->zeros = size - PAGE * below((unsigned)(size / PAGE));
			madvise(r->p + r->zeros, size - r->zeros, MADV_DONTNEED);
			break;
		case 10:
			size = size % (40 * PAGE) + PAGE; // it cannot grow beyond the limit for stacks
			r = add("growsdown", anon(size + 64 * PAGE, MAP_PRIVATE), size);
			mprotect(r->p, 64 * PAGE, PROT_NONE); // it grows towards what is below only where that is out of reach
			r->p += 64 * PAGE;
			munmap(r->p - 8 * PAGE, 8 * PAGE + size);
			if (mmap(r->p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0) != r->p) die("growsdown");
			fill(r->p, r->n, r->key);
			break;
		default:
			r = add("named", anon(size, MAP_PRIVATE), size);
			fill(r->p, r->n, r->key);
			prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, r->p, r->n, "chaos name");
		}
		if (chance(30)) anon(PAGE * (1 + below(4)), MAP_PRIVATE), mprotect(anon(PAGE, MAP_PRIVATE), PAGE, PROT_NONE);
	}
	char *heap = sbrk((intptr_t)(PAGE * (1 + below(100))));
	add("heap", heap, PAGE);
	fill(heap, PAGE, regions[count - 1].key);
}

static struct region *guards;
static void make_guards(void) {
	guards = add("guard", anon(16 * PAGE, MAP_PRIVATE), 16 * PAGE);
	guards->zeros = 0;
	fill(guards->p, guards->n, guards->key);
	if (madvise(guards->p + 4 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL)) guards->kind = "no-guards";
}

// readable says whether the byte at p can be read.
static int readable(char *p) {
	int ends[2];
	if (pipe(ends)) return -1;
	int ok = write(ends[1], p, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return ok;
}

static void check_guards(void) {
	if (strcmp(guards->kind, "guard")) return;
	for (int i = 0; i < 16; i++) {
		int open = readable(guards->p + i * PAGE);
		if (open != (i < 4 || i > 5)) wrong("page %d of a mapping with guards: readable %d", i, open);
		if (open && guards->p[i * PAGE] != (char)content(guards->key, (u64)i * PAGE)) wrong("page %d beside a guard is changed", i);
	}
}

static int zero(const char *p, size_t n) {
	for (size_t i = 0; i < n; i++)
		if (p[i]) return 0;
	return 1;
}

static void check(void) {
	for (int i = 0; i < count; i++) {
		struct region *r = &regions[i];
		if (!strcmp(r->kind, "guard")) continue;
		mprotect(r->p, r->n, PROT_READ | PROT_WRITE);
		size_t n = r->zeros ? r->zeros : r->n;
		if (!strcmp(r->kind, "wipeonfork")) { // a clone is a fork: it may find zeros
			if (!holds(r->p, r->n, r->key) && !zero(r->p, r->n)) wrong("%s memory at %p is neither as before nor wiped", r->kind, (void *)r->p);
			continue;
		}
		if (!holds(r->p, n, r->key)) wrong("%s memory at %p+%zu is changed", r->kind, (void *)r->p, r->n);
		if (!zero(r->p + n, r->n - n)) wrong("%s memory at %p is not empty behind %zu", r->kind, (void *)r->p, n);
		if (!strcmp(r->kind, "growsdown")) r->p[-PAGE] = 1; // ends the process where it does not grow
		int anonymous = strstr("private sparse named hugepage nohugepage heap", r->kind) != 0;
		if (anonymous && (madvise(r->p, PAGE, MADV_DONTNEED) || !zero(r->p, PAGE))) wrong("%s memory at %p is not empty once it is given back", r->kind, (void *)r->p);
		if (!strcmp(r->kind, "dontfork") || !strcmp(r->kind, "private")) {
			pid_t child = fork();
			if (!child) _exit(readable(r->p) << 1 | 1);
			int status = 0;
			waitpid(child, &status, 0);
			int inherited = WEXITSTATUS(status) >> 1;
			if (inherited != !strcmp(r->kind, "private")) wrong("%s memory at %p: a child has it: %d", r->kind, (void *)r->p, inherited);
		}
	}
	void *end = sbrk(0);
	if (sbrk(PAGE) != end || ((char *)end)[0]) wrong("the heap does not grow");
}

static void report(void) {
	for (int i = 0; i < count; i++) {
		struct region *r = &regions[i];
		say("memory %s %p+%zu prot %d", r->kind, (void *)r->p, r->n, r->prot);
	}
	say("heap %p", sbrk(0));
}

// Shared memory of System V.
static struct { int id; char *p; size_t n; u64 key; } segments[3];
static int nsegments;

static void make_segments(void) {
	for (int n = 1 + (int)below(2); n--; nsegments++) {
		segments[nsegments].n = PAGE * (1 + below(20));
		segments[nsegments].key = draw();
		segments[nsegments].id = (int)MUST(shmget(chance(50) ? IPC_PRIVATE : 0x4711 + n, segments[nsegments].n, IPC_CREAT | 0600));
		segments[nsegments].p = shmat(segments[nsegments].id, 0, 0);
		fill(segments[nsegments].p, segments[nsegments].n, segments[nsegments].key);
		if (chance(40)) MUST(shmat(segments[nsegments].id, 0, chance(50) ? SHM_RDONLY : 0)); // once more
		if (chance(30)) MUST(shmctl(segments[nsegments].id, IPC_RMID, 0)); // it goes when nobody has it any more
	}
}

static void check_segments(void) {
	for (int i = 0; i < nsegments; i++) {
		if (!holds(segments[i].p, segments[i].n, segments[i].key)) wrong("segment %d is changed", segments[i].id);
		char *again = shmat(segments[i].id, 0, 0);
		if (again == (char *)-1) { wrong("segment %d: %s", segments[i].id, strerror(errno)); continue; }
		again[0] ^= 1;
		if (holds(segments[i].p, segments[i].n, segments[i].key)) wrong("segment %d is not what is attached", segments[i].id);
	}
}

static void report_segments(void) {
	for (int i = 0; i < nsegments; i++) {
		struct shmid_ds ds = {0};
		shmctl(segments[i].id, IPC_STAT, &ds);
		say("segment %d key %#x size %zu mode %o attached %lu", segments[i].id, ds.shm_perm.__key, ds.shm_segsz, ds.shm_perm.mode & 0777, ds.shm_nattch);
		say("segment %d goes when nobody has it %d", segments[i].id, !!(ds.shm_perm.mode & SHM_DEST));
	}
}

const struct feature feature_memory = {"memory", make, check, report}, feature_guards = {"guards", make_guards, check_guards, 0},
	feature_segments = {"segments", make_segments, check_segments, report_segments};
