// What is written to /become it keeps on pages of its own program's data; what it keeps it writes to /am. It has its own
// program open from then on.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile char data[3 * 4096] = {1};

int main(void) {
	char *kept = (char *)data + 5000;
	int self = -1;
	strcpy(kept, "born");
	for (;; usleep(5000)) {
		char said[64];
		int fd = open("/become", O_RDONLY);
		ssize_t n = fd < 0 ? 0 : read(fd, said, sizeof said - 1);
		if (fd >= 0)
			close(fd);
		if (n > 0) {
			said[n] = 0;
			strcpy(kept, said);
			unlink("/become");
			if (self >= 0) {
				char magic[4];
				if (pread(self, magic, 4, 0) != 4 || memcmp(magic, "\177ELF", 4))
					return 2;
				close(self);
			}
			if ((self = open("/proc/self/exe", O_RDONLY)) < 0)
				return 3;
		}
		FILE *f = fopen("/am.new", "w");
		if (!f)
			return 1;
		fputs(kept, f);
		fclose(f);
		rename("/am.new", "/am");
	}
}
