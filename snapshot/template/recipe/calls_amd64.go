package recipe

// Call is the number of a system call.
type Call uint32

// System calls of amd64, as in the kernel's arch/x86/entry/syscalls/syscall_64.tbl.
const (
	Read             Call = 0
	Write            Call = 1
	Close            Call = 3
	Lseek            Call = 8
	Mmap             Call = 9
	Mprotect         Call = 10
	Munmap           Call = 11
	RtSigaction      Call = 13
	RtSigprocmask    Call = 14
	RtSigreturn      Call = 15
	Ioctl            Call = 16
	Pread            Call = 17
	Pwrite           Call = 18
	Mremap           Call = 25
	Madvise          Call = 28
	Shmget           Call = 29
	Shmat            Call = 30
	Shmctl           Call = 31
	Setitimer        Call = 38
	Sendfile         Call = 40
	Socket           Call = 41
	Connect          Call = 42
	Sendto           Call = 44
	Sendmsg          Call = 46
	Shutdown         Call = 48
	Bind             Call = 49
	Listen           Call = 50
	Socketpair       Call = 53
	Setsockopt       Call = 54
	Kill             Call = 62
	Fcntl            Call = 72
	Flock            Call = 73
	Ftruncate        Call = 77
	Chdir            Call = 80
	Fchdir           Call = 81
	Fchmod           Call = 91
	Fchown           Call = 93
	Umask            Call = 95
	Setpgid          Call = 109
	Setsid           Call = 112
	Setgroups        Call = 116
	Setresuid        Call = 117
	Setresgid        Call = 119
	Setfsuid         Call = 122
	Setfsgid         Call = 123
	Capset           Call = 126
	RtSigqueueinfo   Call = 129
	Sigaltstack      Call = 131
	Personality      Call = 135
	SchedSetparam    Call = 142
	SchedSetsched    Call = 144
	Setpriority      Call = 141
	Mlock            Call = 149
	PivotRoot        Call = 155
	Prctl            Call = 157
	ArchPrctl        Call = 158
	Chroot           Call = 161
	Mount            Call = 165
	Umount2          Call = 166
	Sethostname      Call = 170
	Setdomainname    Call = 171
	Futex            Call = 202
	IoSetup          Call = 206
	SetTidAddress    Call = 218
	TimerCreate      Call = 222
	TimerSettime     Call = 223
	TimerDelete      Call = 226
	EpollCtl         Call = 233
	InotifyAddWatch  Call = 254
	Openat           Call = 257
	Mkdirat          Call = 258
	Mknodat          Call = 259
	Fchownat         Call = 260
	Unlinkat         Call = 263
	Symlinkat        Call = 266
	Fchmodat         Call = 268
	Unshare          Call = 272
	SetRobustList    Call = 273
	Utimensat        Call = 280
	TimerfdSettime   Call = 286
	Signalfd4        Call = 289
	Eventfd2         Call = 290
	EpollCreate1     Call = 291
	Dup3             Call = 292
	Pipe2            Call = 293
	InotifyInit1     Call = 294
	Preadv           Call = 295
	RtTgsigqueueinfo Call = 297
	TimerfdCreate    Call = 283
	Prlimit64        Call = 302
	Setns            Call = 308
	SchedSetattr     Call = 314
	Renameat2        Call = 316
	Seccomp          Call = 317
	MemfdCreate      Call = 319
	Membarrier       Call = 324
	Mlock2           Call = 325
	Rseq             Call = 334
	OpenTree         Call = 428
	MoveMount        Call = 429
	Fsopen           Call = 430
	Fsconfig         Call = 431
	Fsmount          Call = 432
	CloseRange       Call = 436
	Openat2          Call = 437
	MountSetattr     Call = 442
)

// What follows is no system call.
const (
	// Thread starts a thread. Arguments: the address of its struct clone_args, its recipe, how many calls that has, and
	// the address of the signal frame with which it begins.
	Thread Call = 0x10000 + iota
	// Process starts a process. Arguments: the address of its struct clone_args, and that of its struct process.
	Process
)
