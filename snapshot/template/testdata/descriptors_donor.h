// What donors have, by the name of the test.

static int at(int fd, int want)
{
	check(fd >= 0, "open");
	if (fd != want) {
		check(dup2(fd, want) == want, "dup2");
		close(fd);
	}
	return want;
}

static void file(const char *name, const char *content)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0640);
	check(fd >= 0 && write(fd, content, strlen(content)) >= 0, name);
	close(fd);
}

static void files(void)
{
	at(open("/dev/null", O_RDWR), 0);
	file("/data", "0123456789");
	at(open("/data", O_RDONLY), 3);
	lseek(3, 4, SEEK_SET);
	dup2(3, 7);
	dup3(3, 9, O_CLOEXEC);
	at(open("/data", O_RDWR | O_APPEND | O_CLOEXEC), 8);
	fcntl(8, F_SETFD, FD_CLOEXEC);
	at(open("/dev/urandom", O_RDONLY | O_NONBLOCK), 5);
	at(open("/", O_RDONLY | O_DIRECTORY), 6);
	at(open("/data", O_PATH), 20);
	at(open("/proc/self/status", O_RDONLY), 21);
	read(21, buf, 10);
	file("/gone", "a deleted file");
	at(open("/gone", O_RDWR), 22);
	lseek(22, 2, SEEK_SET);
	at(open("/gone", O_RDONLY), 2);
	unlink("/gone");
	file("/again", "the old one");
	at(open("/again", O_WRONLY | O_APPEND), 23);
	unlink("/again");
	file("/again", "the new one");
	at(open("/again", O_RDONLY), 24);
	mkdir("/dir", 0711);
	at(open("/dir", O_RDONLY), 25);
	rmdir("/dir");
	file("/large", "");
	at(open("/large", O_RDWR), 26);
	for (int i = 0; i < 300000; i++)
		buf[i] = i * 7 + (i >> 8);
	write(26, buf, 300000);
	lseek(26, 5000000, SEEK_SET);
	write(26, "end", 3);
	fchown(26, 1000, 1001);
	unlink("/large");
	at(memfd_create("sealed", MFD_ALLOW_SEALING), 30);
	write(30, "some content", 12);
	fcntl(30, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE);
	at(memfd_create("plain", MFD_CLOEXEC), 31);
	write(31, buf, 200000);
	ftruncate(31, 1000001);
	lseek(31, 17, SEEK_SET);
	at(open("/proc/self/fd/31", O_RDONLY), 1);
}

static void plumbing(void)
{
	int p[2];
	struct itimerspec t = { { 0, 0 }, { 5000, 0 } };
	sigset_t set;
	struct epoll_event e = { EPOLLIN | EPOLLET, { .u64 = 0x123456789abcdef } };

	pipe2(p, O_CLOEXEC); // swapped
	dup2(p[0], 100), dup2(p[1], 101), close(p[0]), close(p[1]);
	dup2(100, 1), dup2(101, 0);
	close(100), close(101);
	write(0, "some bytes", 10);
	at(open("/proc/self/fd/1", O_RDONLY | O_NONBLOCK), 12);
	at(open("/proc/self/fd/1", O_WRONLY), 2);
	pipe2(p, O_NONBLOCK);
	fcntl(p[0], F_SETPIPE_SZ, 1 << 18);
	for (int i = 0; i < 200000; i++)
		buf[i] = i;
	write(p[1], buf, 200000);
	close(p[1]);
	at(p[0], 4);
	pipe2(p, O_CLOEXEC);
	at(p[1], 6), at(p[0], 5);
	fcntl(5, F_SETFD, FD_CLOEXEC), fcntl(6, F_SETFD, FD_CLOEXEC);
	mkfifo("/fifo", 0600);
	at(open("/fifo", O_RDWR), 13);
	at(open("/fifo", O_WRONLY | O_NONBLOCK), 11);
	write(11, "in a fifo", 9);
	at(eventfd(7, EFD_NONBLOCK), 14);
	at(eventfd(0, EFD_CLOEXEC), 15);
	uint64_t much = 1ull << 40;
	write(15, &much, 8);
	at(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), 16);
	timerfd_settime(16, 0, &t, NULL);
	at(timerfd_create(CLOCK_BOOTTIME, 0), 17);
	t.it_interval.tv_sec = 9000;
	t.it_value.tv_sec = 0, t.it_value.tv_nsec = 1; // ticks once
	timerfd_settime(17, 0, &t, NULL);
	at(timerfd_create(CLOCK_REALTIME, 0), 18); // never set
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMAX);
	at(signalfd(-1, &set, SFD_CLOEXEC), 19);
	at(inotify_init1(IN_NONBLOCK), 20);
	at(epoll_create1(EPOLL_CLOEXEC), 3);
	at(epoll_create1(0), 21);
	epoll_ctl(3, EPOLL_CTL_ADD, 14, &e);
	epoll_ctl(3, EPOLL_CTL_ADD, 4, &e);
	e.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
	epoll_ctl(3, EPOLL_CTL_ADD, 16, &e);
	epoll_ctl(21, EPOLL_CTL_ADD, 3, &e);
	epoll_ctl(21, EPOLL_CTL_ADD, 19, &e);
	dup2(21, 22);
}

static int on = 1;

static int inet(int type, int family, int port, int fd)
{
	struct sockaddr_in6 a6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	at(socket(family, type, 0), fd);
	if (family == AF_INET6)
		setsockopt(fd, 41, IPV6_V6ONLY, &on, 4);
	if (port == 8080)
		setsockopt(fd, 1, SO_REUSEADDR, &on, 4);
	if (port)
		check(!bind(fd, family == AF_INET ? (void *)&a : (void *)&a6, family == AF_INET ? sizeof a : sizeof a6), "bind");
	return fd;
}

static void sockets(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(0x7f000001) };
	struct sockaddr_un u = { .sun_family = AF_UNIX };
	struct linger l = { 1, 7 };
	struct timeval tv = { 3, 250000 };
	struct sock_filter code[] = { { 0x28, 0, 0, 0xfffff000 }, { 0x15, 0, 1, 7 }, { 6, 0, 0, 0xffff }, { 6, 0, 0, 0xffff } };
	struct sock_fprog prog = { 4, code };
	int p[2], v;

	inet(SOCK_STREAM, AF_INET, 8080, 3);
	setsockopt(3, 6, TCP_NODELAY, &on, 4);
	listen(3, 77);
	inet(SOCK_STREAM, AF_INET6, 8080, 4);
	listen(4, 10);
	fcntl(4, F_SETFL, O_NONBLOCK);
	inet(SOCK_DGRAM, AF_INET, 5353, 5);
	setsockopt(5, 1, SO_BROADCAST, &on, 4);
	v = 0x10, setsockopt(5, 0, IP_TOS, &v, 4);
	v = 12, setsockopt(5, 0, IP_TTL, &v, 4);
	setsockopt(5, 0, IP_PKTINFO, &on, 4);
	inet(SOCK_DGRAM, AF_INET6, 0, 6);
	setsockopt(6, 41, IPV6_RECVPKTINFO, &on, 4);
	inet(SOCK_DGRAM, AF_INET, 9999, 7);
	check(!connect(7, (void *)&a, sizeof a), "connect udp");
	setsockopt(7, 1, SO_ATTACH_FILTER, &prog, sizeof prog);
	inet(SOCK_STREAM, AF_INET, 0, 8);
	setsockopt(8, 1, SO_KEEPALIVE, &on, 4);
	v = 33, setsockopt(8, 6, TCP_KEEPIDLE, &v, 4);
	setsockopt(8, 1, SO_LINGER, &l, sizeof l);
	v = 5, setsockopt(8, 1, SO_PRIORITY, &v, 4);
	v = 99, setsockopt(8, 1, SO_RCVLOWAT, &v, 4);
	v = 1234, setsockopt(8, 1, SO_MARK, &v, 4);
	v = 11, setsockopt(8, 6, TCP_KEEPCNT, &v, 4);
	setsockopt(8, 1, SO_RCVTIMEO, &tv, sizeof tv);
	v = 50000, setsockopt(8, 1, SO_SNDBUF, &v, 4);
	inet(SOCK_STREAM, AF_INET, 7070, 9);

	socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p); // swapped, with bytes under way
	write(p[0], "to the other end", 16);
	dup2(p[1], 50), dup2(p[0], 51), close(p[0]), close(p[1]);
	socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, p);
	write(p[1], "first", 5), write(p[1], "second message", 14);
	at(p[0], 52), at(p[1], 53);
	
	socketpair(AF_UNIX, SOCK_SEQPACKET, 0, p);
	shutdown(p[0], SHUT_WR);
	at(p[0], 54), at(p[1], 55);
	setsockopt(55, 1, SO_PASSCRED, &on, 4);
	socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	write(p[0], "last words", 10);
	close(p[0]);
	at(p[1], 56);

	at(socket(AF_UNIX, SOCK_STREAM, 0), 10);
	strcpy(u.sun_path, "/listener");
	check(!bind(10, (void *)&u, offsetof(struct sockaddr_un, sun_path) + 10), "bind unix");
	chmod("/listener", 0622);
	listen(10, 5);
	at(socket(AF_UNIX, SOCK_STREAM, 0), 11); // connected, not accepted
	check(!connect(11, (void *)&u, sizeof u), "connect unix");
	at(socket(AF_UNIX, SOCK_DGRAM, 0), 12);
	memcpy(u.sun_path, "\0abstract", 9);
	check(!bind(12, (void *)&u, offsetof(struct sockaddr_un, sun_path) + 9), "bind abstract");
	at(socket(AF_UNIX, SOCK_DGRAM, 0), 13);
	check(!connect(13, (void *)&u, offsetof(struct sockaddr_un, sun_path) + 9), "connect abstract");
	write(13, "by name", 7);
	at(socket(AF_UNIX, SOCK_DGRAM, 0), 14);
	mkdir("/sub", 0755);
	check(!chdir("/sub"), "chdir");
	strcpy(u.sun_path, "relative");
	check(!bind(14, (void *)&u, sizeof u), "bind relative");
	at(socket(AF_UNIX, SOCK_DGRAM, 0), 15); // gone when what it has sent arrives
	check(sendto(15, "from nobody", 11, 0, (void *)&u, sizeof u) == 11, "sendto");
	check(!chdir("/"), "chdir /");
	close(15);
	at(socket(AF_UNIX, SOCK_STREAM, 0), 15);
}

// A TCP connection, which a clone has closed.
static void connected(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(8080), .sin_addr.s_addr = htonl(0x7f000001) };
	inet(SOCK_STREAM, AF_INET, 8080, 3);
	listen(3, 5);
	inet(SOCK_STREAM, AF_INET, 0, 4);
	check(!connect(4, (void *)&a, sizeof a), "connect");
	at(accept4(3, NULL, NULL, SOCK_CLOEXEC), 5);
}

static void donate(const char *what)
{
	if (!strcmp(what, "files"))
		files();
	else if (!strcmp(what, "plumbing"))
		plumbing();
	else if (!strcmp(what, "sockets"))
		sockets();
	else if (!strcmp(what, "connected"))
		connected();
	else
		check(0, what);
}

static void passes(int from, int to)
{
	char last = 0;
	check(send(from, "!", 1, MSG_DONTWAIT) == 1, "send");
	for (ssize_t n; (n = recv(to, buf, sizeof buf, MSG_DONTWAIT)) > 0;)
		last = buf[n - 1];
	check(last == '!', "what was sent did not arrive");
}

// What shows only when descriptors are used.
static void behave(const char *what)
{
	uint64_t n;

	if (!strcmp(what, "sockets")) {
		passes(50, 51), passes(51, 50), passes(52, 53), passes(53, 52), passes(55, 54), passes(13, 12);
		check(recv(56, buf, 100, 0) == 10 && recv(56, buf, 100, 0) == 0, "the end of a closed connection");
		check(accept(10, NULL, NULL) >= 0, "accept");
		check(recv(14, buf, 100, MSG_DONTWAIT) == 11, "a message from nobody");
	}
	if (!strcmp(what, "plumbing")) {
		struct epoll_event e[5];
		struct itimerspec t;
		check(epoll_wait(3, e, 5, 0) == 2 && e[0].data.u64 == 0x123456789abcdef, "epoll_wait");
		check(read(17, &n, 8) == 8 && n == 1, "ticks");
		timerfd_gettime(17, &t);
		check(t.it_value.tv_sec > 8000, "a timer that has ticked goes on");
	}
	if (!strcmp(what, "connected"))
		check(recv(4, buf, 1, 0) == 0 && send(5, "", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "closed");
	if (!strcmp(what, "files")) {
		check(lseek(8, 0, SEEK_SET) == 0 && write(8, "x", 1) == 1 && lseek(8, 0, SEEK_CUR) == 11, "append");
		check(write(30, "x", 1) < 0 && errno == EPERM, "seal");
	}
}
