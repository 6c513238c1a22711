#include "chaos.h"
#include <cpuid.h>

// The layout is known to the assembly below.
struct guard {
	u64 z[32][8];     // 0
	u64 out[32][8];   // 2048
	u64 k[8];         // 4096
	u64 kout[8];      // 4160
	u64 gp[6];        // 4224: rbx rbp r12 r13 r14 r15
	u64 gpout[6];     // 4272
	u64 arg[8];       // 4320: rax rdi rsi rdx r10 r8 r9, and whether to spin
	u64 argout[8];    // 4384
	u64 level;        // 4448
	uint32_t mxcsr, mxcsrout, mxcsrold; // 4456 4460 4464
	uint16_t fcw, fcwout, fcwold;       // 4468 4470 4472
	uint16_t pad[3];
	double x87[3];    // 4480
	double x87out[3]; // 4504
	u64 flags;        // 4528
	char first[200];  // what was wrong first
};

long guarded_call(struct guard *g);

#define EACH16(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
#define EACH32(m) EACH16(m) m(16) m(17) m(18) m(19) m(20) m(21) m(22) m(23) m(24) m(25) m(26) m(27) m(28) m(29) m(30) m(31)
#define LOADZ(i) "vmovdqu64 64*" #i "(%r11), %zmm" #i "\n"
#define SAVEZ(i) "vmovdqu64 %zmm" #i ", 2048+64*" #i "(%r11)\n"
#define LOADY(i) "vmovdqu 64*" #i "(%r11), %ymm" #i "\n"
#define SAVEY(i) "vmovdqu %ymm" #i ", 2048+64*" #i "(%r11)\n"
#define LOADX(i) "movdqu 64*" #i "(%r11), %xmm" #i "\n"
#define SAVEX(i) "movdqu %xmm" #i ", 2048+64*" #i "(%r11)\n"
#define EACH8(m) m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7)
#define LOADK(i) "kmovq 4096+8*" #i "(%r11), %k" #i "\n"
#define SAVEK(i) "kmovq %k" #i ", 4160+8*" #i "(%r11)\n"

__asm__(
	".text\n.globl guarded_call\n.type guarded_call, @function\nguarded_call:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rdi\n"
	"mov %rdi, %r11\n"
	"stmxcsr 4464(%r11)\nldmxcsr 4456(%r11)\nfnstcw 4472(%r11)\nfldcw 4468(%r11)\n"
	"fldl 4480(%r11)\nfldl 4488(%r11)\nfldl 4496(%r11)\n"
	"cmpq $1, 4448(%r11)\nja 3f\nje 2f\n"
	EACH16(LOADX) "jmp 4f\n"
	"2:\n" EACH16(LOADY) "jmp 4f\n"
	"3:\n" EACH32(LOADZ) EACH8(LOADK)
	"4:\n"
	"mov 4224(%r11), %rbx\nmov 4232(%r11), %rbp\nmov 4240(%r11), %r12\n"
	"mov 4248(%r11), %r13\nmov 4256(%r11), %r14\nmov 4264(%r11), %r15\n"
	"mov 4320(%r11), %rax\nmov 4328(%r11), %rdi\nmov 4336(%r11), %rsi\nmov 4344(%r11), %rdx\n"
	"mov 4352(%r11), %r10\nmov 4360(%r11), %r8\nmov 4368(%r11), %r9\n"
	"cmpq $0, 4376(%r11)\njne 5f\n"
	"syscall\njmp 7f\n"
	"5: std\n"
	"6: pause\ncmpl $0, (%rdi)\nje 6b\nxor %eax, %eax\n"
	"7: mov (%rsp), %r11\npushfq\npopq 4528(%r11)\ncld\n"
	"mov %rbx, 4272(%r11)\nmov %rbp, 4280(%r11)\nmov %r12, 4288(%r11)\n"
	"mov %r13, 4296(%r11)\nmov %r14, 4304(%r11)\nmov %r15, 4312(%r11)\n"
	"mov %rdi, 4392(%r11)\nmov %rsi, 4400(%r11)\nmov %rdx, 4408(%r11)\n"
	"mov %r10, 4416(%r11)\nmov %r8, 4424(%r11)\nmov %r9, 4432(%r11)\n"
	"cmpq $1, 4448(%r11)\nja 9f\nje 8f\n"
	EACH16(SAVEX) "jmp 10f\n"
	"8:\n" EACH16(SAVEY) "vzeroupper\njmp 10f\n"
	"9:\n" EACH32(SAVEZ) EACH8(SAVEK) "vzeroupper\n"
	"10:\n"
	"fstpl 4520(%r11)\nfstpl 4512(%r11)\nfstpl 4504(%r11)\n"
	"stmxcsr 4460(%r11)\nldmxcsr 4464(%r11)\nfnstcw 4470(%r11)\nfldcw 4472(%r11)\n"
	"pop %rdi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	".size guarded_call, .-guarded_call\n");

int guard_best(void) {
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) return 2;
	return __builtin_cpu_supports("avx") ? 1 : 0;
}

struct guard *guard_new(u64 key, int level) {
	struct guard *g = aligned_alloc(64, (sizeof *g + 63) & ~63UL);
	if (!g) die("guard");
	memset(g, 0, sizeof *g);
	fill(g->z, sizeof g->z, key);
	fill(g->k, sizeof g->k, key + 1);
	fill(g->gp, sizeof g->gp, key + 2);
	g->level = (u64)level;
	g->mxcsr = 0x1f80 | (uint32_t)(key & 3) << 13 | (uint32_t)(key >> 2 & 1) << 15 | (uint32_t)(key >> 3 & 1) << 6;
	g->fcw = (uint16_t)(0x037f & ~(3 << 10)) | (uint16_t)((key >> 4 & 3) << 10);
	for (int i = 0; i < 3; i++) g->x87[i] = (double)((key >> i) & 0xffff) + 0.25;
	return g;
}

static void flaw(struct guard *g, const char *what, int i, u64 is, u64 was) {
	if (!g->first[0])
		snprintf(g->first, sizeof g->first, "register %s %d is %#lx, was %#lx, in call %ld", what, i, is, was, (long)g->arg[0]);
}

static void compare(struct guard *g) {
	int vectors = g->level == 2 ? 32 : 16, words = g->level == 2 ? 8 : g->level == 1 ? 4 : 2;
	for (int i = 0; i < vectors; i++)
		for (int w = 0; w < words; w++)
			if (g->out[i][w] != g->z[i][w]) flaw(g, "vector", i, g->out[i][w], g->z[i][w]);
	for (int i = 0; i < 8 && g->level == 2; i++)
		if (g->kout[i] != g->k[i]) flaw(g, "mask", i, g->kout[i], g->k[i]);
	for (int i = 0; i < 6; i++)
		if (g->gpout[i] != g->gp[i]) flaw(g, "general", i, g->gpout[i], g->gp[i]);
	for (int i = 1; i < 7; i++)
		if (g->argout[i] != g->arg[i]) flaw(g, "argument", i, g->argout[i], g->arg[i]);
	for (int i = 0; i < 3; i++)
		if (g->x87out[i] != g->x87[i]) flaw(g, "x87", i, (u64)g->x87out[i], (u64)g->x87[i]);
	if (g->mxcsrout != g->mxcsr) flaw(g, "mxcsr", 0, g->mxcsrout, g->mxcsr);
	if (g->fcwout != g->fcw) flaw(g, "x87 control", 0, g->fcwout, g->fcw);
	if (!!(g->flags & 0x400) != !!g->arg[7]) flaw(g, "flags", 0, g->flags, 0);
}

long guarded(struct guard *g, long nr, long a, long b, long c, long d, long e, long f) {
	long args[] = {nr, a, b, c, d, e, f, 0};
	memcpy(g->arg, args, sizeof args);
	long r = guarded_call(g);
	compare(g);
	return r;
}

long guarded_spin(struct guard *g, volatile int *word) {
	long args[] = {-1, (long)word, 1, 2, 3, 4, 5, 1};
	memcpy(g->arg, args, sizeof args);
	long r = guarded_call(g);
	compare(g);
	return r;
}

void guard_verify(struct guard *g, const char *who) {
	if (g->first[0]) wrong("%s: %s", who, g->first);
}
