#include "chaos.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>

#define PORT 7777

static u64 stream;
static char text[1 << 20];
static size_t used;
static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

u64 draw(void) {
	u64 z = stream += 0x9E3779B97F4A7C15UL;
	z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9UL;
	z = (z ^ z >> 27) * 0x94D049BB133111EBUL;
	return z ^ z >> 31;
}

unsigned below(unsigned n) { return (unsigned)(draw() % n); }
int chance(unsigned percent) { return below(100) < percent; }

static void append(const char *format, va_list args) {
	pthread_mutex_lock(&writing);
	used += (size_t)vsnprintf(text + used, sizeof text - used - 1, format, args);
	if (used > sizeof text - 2) used = sizeof text - 2;
	text[used++] = '\n';
	pthread_mutex_unlock(&writing);
}

static const char *current = "";

void say(const char *format, ...) {
	va_list args;
	va_start(args, format);
	append(format, args);
	va_end(args);
}

void wrong(const char *format, ...) {
	char line[600];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	say("%s: %s", current, line);
}

void die(const char *what) {
	fprintf(stderr, "chaos: %s: %s: %s\n", current, what, strerror(errno));
	exit(2);
}

void fill(void *p, size_t n, u64 key) {
	for (size_t i = 0; i < n; i++) ((unsigned char *)p)[i] = content(key, i);
}

int holds(const void *p, size_t n, u64 key) {
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)p)[i] != content(key, i)) return 0;
	return 1;
}

// listed says whether a name is in a list with commas.
static int listed(const char *list, const char *name) {
	size_t n = strlen(name);
	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : 0)
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n])) return 1;
	return 0;
}

static int chosen[64];

static void each(int checking) {
	for (int i = 0; features[i]; i++) {
		void (*f)(void) = checking ? features[i]->check : features[i]->report;
		current = features[i]->name;
		if (chosen[i] && f) f();
	}
}

static void answer(int conn) {
	char line[32] = "";
	for (size_t n = 0; n < sizeof line - 1; n++)
		if (read(conn, line + n, 1) != 1 || line[n] == '\n') { line[n] = 0; break; }
	used = 0;
	if (!strcmp(line, "check")) each(1);
	else if (!strcmp(line, "report")) each(0);
	else if (strcmp(line, "ready")) say("what is %s?", line);
	if (!used) say("ok");
	for (size_t n = 0; n < used;) {
		ssize_t w = write(conn, text + n, used - n);
		if (w <= 0) break;
		n += (size_t)w;
	}
	memset(text, 0, used); // what was asked of a process leaves no trace in it
	used = 0;
}

int main(int argc, char **argv) {
	if (argc < 2) { fprintf(stderr, "usage: chaos SEED [-only LIST] [-not LIST]\n"); return 2; }
	u64 seed = strtoull(argv[1], 0, 10);
	const char *only = 0, *not = 0;
	for (int i = 2; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "-only")) only = argv[i + 1];
		else if (!strcmp(argv[i], "-not")) not = argv[i + 1];
		else die(argv[i]);
	}
	int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
	MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	MUST(bind(listener, (struct sockaddr *)&any, sizeof any));
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; features[i]; i++) {
		current = features[i]->name;
		chosen[i] = (!only || listed(only, current)) && !(not && listed(not, current));
		stream = seed;
		for (const char *p = current; *p; p++) stream = (stream ^ (u64)*p) * 0x100000001B3UL;
		draw();
		if (chosen[i]) features[i]->make();
	}
	current = "main";
	stream = seed;
	struct guard *g = guard_new(draw(), guard_best());
	MUST(listen(listener, 7));
	for (;;) {
		long conn = guarded(g, SYS_accept4, listener, 0, 0, 0, 0, 0);
		if (conn < 0) continue;
		answer((int)conn);
		guard_verify(g, "main");
		close((int)conn);
	}
}
