// chaos SEED makes a random process and then answers questions about itself. Every feature draws from a stream of its own, so
// that leaving one out changes nothing in the others.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef uint64_t u64;
#define PAGE 4096L
#define COUNT(a) ((int)(sizeof(a) / sizeof((a)[0])))

struct feature {
	const char *name;
	void (*make)(void);
	void (*check)(void);  // behaviour: may use up what is queued, so it is asked once
	void (*report)(void); // state that /proc does not show: must be the same each time, and in all clones
};

extern const struct feature *const features[];

u64 draw(void);               // of the current feature's stream
unsigned below(unsigned n);   // 0 … n-1
int chance(unsigned percent);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));   // a line of the report
void wrong(const char *format, ...) __attribute__((format(printf, 1, 2))); // a line of the answer to "check"
void die(const char *what) __attribute__((noreturn));                      // while the process is being made
#define MUST(call) ({ long result_ = (long)(call); if (result_ == -1) die(#call); result_; })

// content is byte i of the pattern that belongs to a key.
static inline unsigned char content(u64 key, u64 i) { return (unsigned char)((key + i / 7) * 0x9E3779B97F4A7C15UL >> 41 ^ i * 31); }
void fill(void *p, size_t n, u64 key);
int holds(const void *p, size_t n, u64 key); // 1 when it is the pattern

// A guarded system call is made with known values in all registers that it must preserve, and tells afterwards which it did not.
struct guard;
struct guard *guard_new(u64 key, int level);
int guard_best(void); // 2 with AVX-512, 1 with AVX, else 0
long guarded(struct guard *g, long nr, long a, long b, long c, long d, long e, long f);
long guarded_spin(struct guard *g, volatile int *word); // until the word is not zero
void guard_verify(struct guard *g, const char *who);
