// Descriptors of files, pipes, FIFOs, memory and devices: where they stand and what is in them.
#include "chaos.h"
#include <sys/ioctl.h>
#include <sys/stat.h>

static struct open { int fd, flags, deleted; off_t at; size_t size; u64 key; } files[16];
static int nfiles;

static void make_file(int deleted) {
	static const int modes[] = {O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_APPEND, O_RDWR | O_APPEND, O_RDWR | O_NONBLOCK, O_RDWR | O_SYNC,
		O_RDONLY | O_NOATIME, O_RDWR | O_CLOEXEC};
	struct open *f = &files[nfiles];
	*f = (struct open){.flags = modes[below(COUNT(modes))], .deleted = deleted, .size = 1 + below(20000), .key = draw()};
	char name[40], *b = malloc(f->size);
	snprintf(name, sizeof name, "/file-%d", nfiles++);
	int fd = (int)MUST(open(name, O_CREAT | O_WRONLY | O_TRUNC, 0600 | below(64)));
	fill(b, f->size, f->key);
	MUST(write(fd, b, f->size));
	free(b);
	f->fd = (int)MUST(open(name, f->flags));
	close(fd);
	f->at = MUST(lseek(f->fd, below((unsigned)f->size), SEEK_SET));
	if (deleted) MUST(unlink(name));
}

static void make_files(void) { for (int n = 1 + (int)below(6); n--;) make_file(0); }
static void make_deleted(void) { for (int n = 1 + (int)below(2); n--;) make_file(1); }

static void check_open(struct open *f) {
	char b[64], expected[64];
	off_t at = lseek(f->fd, 0, SEEK_CUR);
	if (at != f->at) wrong("descriptor %d is at %ld, not %ld", f->fd, at, f->at);
	if ((fcntl(f->fd, F_GETFL) & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_NOATIME)) != (f->flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_NOATIME)))
		wrong("descriptor %d has flags %#o, not %#o", f->fd, fcntl(f->fd, F_GETFL), f->flags);
	if ((f->flags & O_ACCMODE) != O_WRONLY) {
		ssize_t n = read(f->fd, b, sizeof b), left = (ssize_t)f->size - at;
		if (n != (left < 64 ? left : 64)) wrong("descriptor %d gives %zd bytes", f->fd, n);
		for (ssize_t i = 0; i < n; i++) expected[i] = (char)content(f->key, (u64)(at + i));
		if (n > 0 && memcmp(b, expected, (size_t)n)) wrong("descriptor %d: its file has other content at %ld", f->fd, at);
	}
	if ((f->flags & O_ACCMODE) != O_RDONLY) {
		if (write(f->fd, "end", 3) != 3) wrong("descriptor %d cannot be written: %s", f->fd, strerror(errno));
		off_t after = lseek(f->fd, 0, SEEK_CUR);
		if (f->flags & O_APPEND && after != (off_t)f->size + 3) wrong("descriptor %d appends at %ld, not %zu", f->fd, after - 3, f->size);
	}
	struct stat st;
	fstat(f->fd, &st);
	if ((st.st_nlink == 0) != f->deleted) wrong("descriptor %d: its file has %lu names", f->fd, st.st_nlink);
}

static void check_deletion(int deleted) { for (int i = 0; i < nfiles; i++) if (files[i].deleted == deleted) check_open(&files[i]); }
static void check_files(void) { check_deletion(0); }
static void check_deleted(void) { check_deletion(1); }

// Copies share their position; some have numbers far up, and flags of their own.
static struct { int from, to, cloexec; } dups[8];
static int ndups;

static void make_dups(void) {
	int base = (int)MUST(open("/dup-me", O_CREAT | O_RDWR, 0600));
	MUST(ftruncate(base, 1 << 20));
	for (int n = 1 + (int)below(6); n--; ndups++) {
		int to = chance(30) ? 100 + (int)below(800) : -1;
		if (to >= 0 && fcntl(to, F_GETFD) >= 0) to = -1; // one that is there stays what it is
		dups[ndups].from = ndups && chance(30) ? dups[ndups - 1].to : base;
		dups[ndups].cloexec = chance(40);
		dups[ndups].to = (int)(to < 0 ? MUST(dup(dups[ndups].from)) : MUST(dup3(dups[ndups].from, to, 0)));
		fcntl(dups[ndups].to, F_SETFD, dups[ndups].cloexec ? FD_CLOEXEC : 0);
	}
	if (chance(40)) close(base), dups[0].from = dups[0].to;
}

static void check_dups(void) {
	for (int i = 0; i < ndups; i++) {
		lseek(dups[i].to, 4711 + i, SEEK_SET);
		if (i && lseek(dups[0].to, 0, SEEK_CUR) != 4711 + i) wrong("descriptor %d is no copy of %d", dups[i].to, dups[0].to);
		if (fcntl(dups[i].to, F_GETFD) != dups[i].cloexec) wrong("descriptor %d has FD_CLOEXEC %d", dups[i].to, fcntl(dups[i].to, F_GETFD));
	}
}

// Pipes and FIFOs, some with content, some with an end closed, some opened once more.
static struct conduit { int in, out, again, fifo, size; size_t queued; u64 key; } conduits[12];
static int nconduits;

static void put(struct conduit *c) {
	c->key = draw();
	c->queued = chance(70) ? below(9000) : 0;
	char b[9000];
	fill(b, c->queued, c->key);
	if (c->queued) MUST(write(c->out, b, c->queued));
}

static void make_pipes(void) {
	for (int n = 1 + (int)below(5); n--;) {
		struct conduit *c = &conduits[nconduits++];
		int ends[2], flags = (chance(50) ? O_NONBLOCK : 0) | (chance(20) ? O_CLOEXEC : 0);
		MUST(pipe2(ends, flags));
		*c = (struct conduit){.in = ends[0], .out = ends[1], .again = -1};
		if (chance(40)) MUST(fcntl(c->out, F_SETPIPE_SZ, (int)PAGE << (2 + below(4))));
		c->size = (int)MUST(fcntl(c->out, F_GETPIPE_SZ));
		put(c);
		char name[40];
		snprintf(name, sizeof name, "/proc/self/fd/%d", c->in);
		if (chance(30)) c->again = (int)MUST(open(name, O_RDONLY | O_NONBLOCK));
		if (chance(30)) close(c->out), c->out = -1;
	}
}

static void make_fifos(void) {
	for (int n = 1 + (int)below(2); n--;) {
		struct conduit *c = &conduits[nconduits];
		char name[40];
		snprintf(name, sizeof name, "/fifo-%d", nconduits++);
		MUST(mkfifo(name, 0600));
		int both = (int)MUST(open(name, O_RDWR));
		*c = (struct conduit){.in = (int)MUST(open(name, O_RDONLY | O_NONBLOCK)), .again = -1, .fifo = 1};
		c->out = (int)MUST(open(name, O_WRONLY));
		c->size = (int)MUST(fcntl(c->out, F_GETPIPE_SZ));
		if (chance(50)) close(both);
		put(c);
	}
}

static void check_conduits(int fifo) {
	for (int i = 0; i < nconduits; i++) {
		struct conduit *c = &conduits[i];
		if (c->fifo != fifo) continue;
		static char b[9000];
		int waiting = -1, flags = fcntl(c->in, F_GETFL);
		ioctl(c->in, FIONREAD, &waiting);
		if ((size_t)waiting != c->queued) { wrong("pipe %d holds %d bytes, not %zu", c->in, waiting, c->queued); continue; }
		if (fcntl(c->in, F_GETPIPE_SZ) != c->size) wrong("pipe %d has room for %d, not %d", c->in, fcntl(c->in, F_GETPIPE_SZ), c->size);
		if (c->queued && (read(c->again >= 0 ? c->again : c->in, b, c->queued) != waiting || !holds(b, c->queued, c->key))) wrong("pipe %d holds something else", c->in);
		fcntl(c->in, F_SETFL, flags | O_NONBLOCK);
		ssize_t n = read(c->in, b, 1);
		if (c->out < 0 ? n != 0 : n != -1 || errno != EAGAIN) wrong("pipe %d, empty: read gives %zd", c->in, n);
		if (c->out >= 0 && (write(c->out, "new", 3) != 3 || read(c->in, b, 3) != 3 || memcmp(b, "new", 3))) wrong("pipe %d does not lead to %d", c->out, c->in);
	}
}
static void check_pipes(void) { check_conduits(0); }
static void check_fifos(void) { check_conduits(1); }

static struct { int fd, seals; size_t size; u64 key; off_t at; } memories[4];
static int nmemories;

static void make_memfds(void) {
	for (int n = 1 + (int)below(3); n--; nmemories++) {
		char name[40], b[20000];
		snprintf(name, sizeof name, "memory %d", nmemories);
		int sealable = chance(60);
		memories[nmemories].fd = (int)MUST(memfd_create(name, (sealable ? MFD_ALLOW_SEALING : 0) | (chance(30) ? MFD_CLOEXEC : 0)));
		memories[nmemories].size = below(sizeof b);
		memories[nmemories].key = draw();
		fill(b, memories[nmemories].size, memories[nmemories].key);
		MUST(write(memories[nmemories].fd, b, memories[nmemories].size));
		memories[nmemories].at = MUST(lseek(memories[nmemories].fd, below(5000), SEEK_SET));
		if (sealable) MUST(fcntl(memories[nmemories].fd, F_ADD_SEALS, (int)below(16)));
		memories[nmemories].seals = fcntl(memories[nmemories].fd, F_GET_SEALS);
	}
}

static void check_memfds(void) {
	static char b[20001];
	for (int i = 0; i < nmemories; i++) {
		int fd = memories[i].fd;
		if (fcntl(fd, F_GET_SEALS) != memories[i].seals) wrong("memfd %d has seals %#x, not %#x", fd, fcntl(fd, F_GET_SEALS), memories[i].seals);
		if (lseek(fd, 0, SEEK_CUR) != memories[i].at) wrong("memfd %d is at %ld, not %ld", fd, lseek(fd, 0, SEEK_CUR), memories[i].at);
		if (pread(fd, b, sizeof b, 0) != (ssize_t)memories[i].size || !holds(b, memories[i].size, memories[i].key)) wrong("memfd %d holds something else", fd);
	}
}

static struct { int fd; const char *name; } devices[8];
static int ndevices;

static void make_devices(void) {
	static const struct { const char *name; int flags; } all[] = {{"/dev/null", O_RDWR}, {"/dev/zero", O_RDONLY}, {"/dev/urandom", O_RDONLY},
		{"/dev/full", O_WRONLY}, {"/dev/random", O_RDONLY}, {"/", O_RDONLY | O_DIRECTORY}, {"/proc", O_PATH}, {"/bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC}};
	for (int i = 0; i < COUNT(all); i++) {
		if (!chance(40)) continue;
		devices[ndevices].name = all[i].name;
		devices[ndevices++].fd = (int)MUST(open(all[i].name, all[i].flags));
	}
}

static void check_devices(void) {
	for (int i = 0; i < ndevices; i++) {
		struct stat there, here;
		if (fstat(devices[i].fd, &there) || stat(devices[i].name, &here) || there.st_mode != here.st_mode || there.st_rdev != here.st_rdev ||
			there.st_ino != here.st_ino || there.st_dev != here.st_dev)
			wrong("descriptor %d is not %s", devices[i].fd, devices[i].name);
	}
}

const struct feature feature_files = {"files", make_files, check_files, 0}, feature_deleted = {"deleted", make_deleted, check_deleted, 0},
	feature_dups = {"dups", make_dups, check_dups, 0}, feature_pipes = {"pipes", make_pipes, check_pipes, 0},
	feature_fifos = {"fifos", make_fifos, check_fifos, 0}, feature_memfds = {"memfds", make_memfds, check_memfds, 0},
	feature_devices = {"devices", make_devices, check_devices, 0};
