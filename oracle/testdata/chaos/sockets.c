// Sockets: pairs with what is under way in them, and sockets that wait for somebody.
#include "chaos.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct { int a, b, type, messages, closed; u64 key; } pairs[8];
static int npairs;

static void make_pairs(void) {
	static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
	for (int n = 1 + (int)below(4); n--; npairs++) {
		int ends[2];
		pairs[npairs].type = types[below(3)];
		MUST(socketpair(AF_UNIX, pairs[npairs].type | (chance(40) ? SOCK_CLOEXEC : 0), 0, ends));
		pairs[npairs].a = ends[0];
		pairs[npairs].b = ends[1];
		pairs[npairs].key = draw();
		for (int m = pairs[npairs].messages = (int)below(4); m--;) { // the last first: each has another length
			char b[400];
			fill(b, 100 + (size_t)m * 100, pairs[npairs].key + (u64)m);
			MUST(send(ends[0], b, 100 + (size_t)m * 100, 0));
		}
		if (chance(25)) MUST(shutdown(ends[0], SHUT_WR)), pairs[npairs].closed = 1;
		if (chance(40)) MUST(fcntl(ends[1], F_SETFL, O_NONBLOCK));
	}
}

static void check_pairs(void) {
	for (int i = 0; i < npairs; i++) {
		char b[600];
		for (int m = pairs[i].messages; m--;) {
			ssize_t want = 100 + m * 100, n = recv(pairs[i].b, b, pairs[i].type == SOCK_STREAM ? (size_t)want : sizeof b, MSG_DONTWAIT);
			if (n != want || !holds(b, (size_t)want, pairs[i].key + (u64)m)) wrong("socket %d of a pair: message %d has %zd bytes", pairs[i].b, m, n);
		}
		ssize_t n = recv(pairs[i].b, b, sizeof b, MSG_DONTWAIT);
		int over = pairs[i].closed && pairs[i].type != SOCK_DGRAM;
		if (over ? n != 0 : n != -1) wrong("socket %d of a pair, at its end: %zd", pairs[i].b, n);
		if (send(pairs[i].b, "back", 4, MSG_NOSIGNAL) != 4 || recv(pairs[i].a, b, 4, MSG_DONTWAIT) != 4) wrong("socket %d does not lead to %d", pairs[i].b, pairs[i].a);
		n = send(pairs[i].a, "forth", 5, MSG_NOSIGNAL);
		if (pairs[i].closed ? n != -1 || errno != EPIPE : n != 5) wrong("socket %d can be written: %zd", pairs[i].a, n);
	}
}

static struct local { int fd, type, client, sent; struct sockaddr_un at; socklen_t size; } locals[8];
static int nlocals;

static void make_unix(void) {
	static const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
	for (int n = 1 + (int)below(4); n--;) {
		struct local *l = &locals[nlocals];
		l->type = types[below(3)];
		l->client = -1;
		l->at.sun_family = AF_UNIX;
		int abstract = chance(40);
		l->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)abstract +
			(size_t)snprintf(l->at.sun_path + abstract, 40, "%s-%d", abstract ? "chaos" : "/socket", nlocals));
		if (!abstract) l->size++;
		l->fd = (int)MUST(socket(AF_UNIX, l->type | (chance(30) ? SOCK_NONBLOCK : 0), 0));
		int on = 1, credentials = chance(30);
		if (credentials) MUST(setsockopt(l->fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on));
		MUST(bind(l->fd, (struct sockaddr *)&l->at, l->size));
		if (l->type != SOCK_DGRAM) {
			MUST(listen(l->fd, 1 + (int)below(9)));
		} else if (chance(50)) {
			l->client = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
			MUST(connect(l->client, (struct sockaddr *)&l->at, l->size));
			if ((l->sent = chance(60) && !credentials)) MUST(send(l->client, "queued", 6, 0));
		}
		nlocals++;
	}
}

// talk connects to a listening socket from inside the process, and passes a word each way.
static void talk(const char *what, int listener, const void *at, socklen_t size) {
	struct sockaddr_storage ss;
	memcpy(&ss, at, size);
	int type = 0, domain = ss.ss_family;
	socklen_t n = sizeof type;
	getsockopt(listener, SOL_SOCKET, SO_TYPE, &type, &n);
	int client = socket(domain, type, 0);
	if (connect(client, at, size)) { wrong("%s socket %d: %s", what, listener, strerror(errno)); close(client); return; }
	if (fcntl(listener, F_GETFL) & O_NONBLOCK) usleep(1000);
	int server = accept(listener, 0, 0);
	char b[8];
	if (server < 0 || send(client, "word", 4, 0) != 4 || recv(server, b, 8, 0) != 4 || send(server, "word", 4, 0) != 4 || recv(client, b, 8, 0) != 4)
		wrong("%s socket %d is there but does not work: %s", what, listener, strerror(errno));
	close(server);
	close(client);
}

static void check_unix(void) {
	for (int i = 0; i < nlocals; i++) {
		char b[16];
		if (locals[i].type != SOCK_DGRAM) { talk("unix", locals[i].fd, &locals[i].at, locals[i].size); continue; }
		if (locals[i].client < 0) continue;
		ssize_t n = recv(locals[i].fd, b, sizeof b, MSG_DONTWAIT);
		if (locals[i].sent ? n != 6 : n != -1) wrong("unix socket %d holds %zd bytes", locals[i].fd, n);
		if (send(locals[i].client, "more", 4, 0) != 4 || recv(locals[i].fd, b, sizeof b, MSG_DONTWAIT) != 4) wrong("unix socket %d does not lead to %d", locals[i].client, locals[i].fd);
	}
}

static struct inet { int fd, domain, type, client; struct sockaddr_storage at; socklen_t size; } inets[12];
static int ninets;

static void option(int fd, int level, int name, int value) { (void)!setsockopt(fd, level, name, &value, sizeof value); }

static void make_inet(int domain, int type, int port) {
	struct inet *s = &inets[ninets];
	*s = (struct inet){.domain = domain, .type = type, .client = -1};
	s->fd = socket(domain, type | (chance(40) ? SOCK_NONBLOCK : 0) | (chance(30) ? SOCK_CLOEXEC : 0), 0);
	if (s->fd < 0 && domain == AF_INET6) return; // a host without it
	ninets++;
	if (chance(60)) option(s->fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (chance(20)) option(s->fd, SOL_SOCKET, SO_REUSEPORT, 1);
	if (chance(30)) option(s->fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	if (chance(30)) option(s->fd, SOL_SOCKET, SO_RCVBUF, 8192 + (int)below(20000));
	if (chance(30)) option(s->fd, SOL_SOCKET, SO_SNDBUF, 8192 + (int)below(20000));
	if (chance(20)) option(s->fd, SOL_SOCKET, SO_PRIORITY, (int)below(7));
	if (chance(20)) option(s->fd, SOL_SOCKET, SO_RCVLOWAT, 1 + (int)below(3));
	if (chance(20)) option(s->fd, IPPROTO_IP, IP_TOS, 16);
	if (chance(20)) option(s->fd, IPPROTO_IP, IP_TTL, 33);
	if (type == SOCK_STREAM) {
		if (chance(40)) option(s->fd, IPPROTO_TCP, TCP_NODELAY, 1);
		if (chance(20)) option(s->fd, IPPROTO_TCP, TCP_KEEPIDLE, 100 + (int)below(100));
		if (chance(20)) option(s->fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	} else if (chance(30)) {
		option(s->fd, SOL_SOCKET, SO_BROADCAST, 1);
	}
	int local = chance(50);
	if (domain == AF_INET) {
		struct sockaddr_in *in = (struct sockaddr_in *)&s->at;
		*in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(local ? INADDR_LOOPBACK : INADDR_ANY)};
		s->size = sizeof *in;
	} else {
		struct sockaddr_in6 *in = (struct sockaddr_in6 *)&s->at;
		*in = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
		if (local) in->sin6_addr = in6addr_loopback;
		s->size = sizeof *in;
		option(s->fd, IPPROTO_IPV6, IPV6_V6ONLY, (int)below(2));
	}
	if (chance(10)) { s->size = 0; return; } // neither bound nor connected
	if (bind(s->fd, (struct sockaddr *)&s->at, s->size)) {
		if (errno != EADDRNOTAVAIL) die("bind");
		s->size = 0; // no ::1 here
		return;
	}
	if (type == SOCK_STREAM) {
		if (chance(80)) MUST(listen(s->fd, 1 + (int)below(100)));
		else s->client = -2; // bound only
	} else if (chance(50)) {
		s->client = (int)MUST(socket(domain, type, 0));
		if (connect(s->client, (struct sockaddr *)&s->at, s->size)) die("connect");
	}
}

static void make_tcp(void) {
	for (int n = 1 + (int)below(4); n--;) make_inet(chance(60) ? AF_INET : AF_INET6, SOCK_STREAM, 20000 + ninets * 100 + (int)below(100));
}

static void make_udp(void) {
	for (int n = 1 + (int)below(3); n--;) make_inet(chance(60) ? AF_INET : AF_INET6, SOCK_DGRAM, 30000 + ninets * 100 + (int)below(100));
}

static void check_inet(int type) {
	for (int i = 0; i < ninets; i++) {
		struct inet *s = &inets[i];
		if (s->type != type || !s->size) continue;
		if (type == SOCK_STREAM && s->client == -2) { if (listen(s->fd, 3)) wrong("socket %d: listen: %s", s->fd, strerror(errno)); }
		if (type == SOCK_STREAM) talk("tcp", s->fd, &s->at, s->size);
		else if (s->client >= 0) {
			char b[8];
			option(s->fd, SOL_SOCKET, SO_RCVTIMEO, 0);
			if (send(s->client, "hello", 5, 0) != 5) wrong("udp socket %d: %s", s->client, strerror(errno));
			else if (fcntl(s->fd, F_SETFL, 0) || recv(s->fd, b, 8, 0) != 5) wrong("udp socket %d got nothing", s->fd);
		}
	}
}
static void check_tcp(void) { check_inet(SOCK_STREAM); }
static void check_udp(void) { check_inet(SOCK_DGRAM); }

// A connection of the process to itself, on numbers that nothing else has: an engine closes it, and has to do so in one way.
#define CONNECTED 900

static void make_connected(void) {
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	int listener = (int)MUST(socket(AF_INET, SOCK_STREAM, 0)), client = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&at, size));
	MUST(listen(listener, 1));
	MUST(getsockname(listener, (struct sockaddr *)&at, &size));
	MUST(connect(client, (struct sockaddr *)&at, size));
	int server = (int)MUST(accept(listener, 0, 0));
	close(listener);
	if (chance(50)) MUST(send(client, "under way", 9, 0));
	if (chance(30)) option(client, IPPROTO_TCP, TCP_NODELAY, 1);
	MUST(dup2(client, CONNECTED));
	MUST(dup2(server, CONNECTED + 1));
	close(client);
	close(server);
}

static void report_connected(void) {
	for (int fd = CONNECTED; fd < CONNECTED + 2; fd++) {
		char b[16];
		struct tcp_info info = {0};
		socklen_t size = sizeof info;
		getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size);
		errno = 0;
		ssize_t n = recv(fd, b, sizeof b, MSG_PEEK | MSG_DONTWAIT);
		say("connected %d state %d recv %zd errno %d", fd, info.tcpi_state, n, errno);
	}
}

const struct feature feature_pairs = {"pairs", make_pairs, check_pairs, 0}, feature_unix = {"unix", make_unix, check_unix, 0},
	feature_tcp = {"tcp", make_tcp, check_tcp, 0}, feature_udp = {"udp", make_udp, check_udp, 0},
	feature_connected = {"connected", make_connected, 0, report_connected};
