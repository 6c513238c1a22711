package spec

import "runtime"

// The system calls that every container may use, by purpose. Names that a kernel or libseccomp does not know are
// skipped when the filter is built, so the lists hold those of all architectures, 32-bit variants included.

func fileCalls() []string {
	return []string{
		// open, close, descriptors
		"open", "openat", "openat2", "creat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "fcntl64", "ioctl",
		"pipe", "pipe2", "flock", "name_to_handle_at", "memfd_create",
		// read and write
		"read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2",
		"lseek", "_llseek", "sendfile", "sendfile64", "splice", "tee", "vmsplice", "copy_file_range", "readahead",
		"fadvise64", "fadvise64_64", "cachestat",
		// size, durability
		"truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate",
		"sync", "syncfs", "fsync", "fdatasync", "sync_file_range", "sync_file_range2",
		// look
		"stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx", "access", "faccessat",
		"faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "statfs", "statfs64", "fstatfs",
		"fstatfs64", "ustat", "file_getattr",
		// change the tree
		"mkdir", "mkdirat", "rmdir", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink",
		"unlinkat", "mknod", "mknodat", "chdir", "fchdir", "umask",
		// owners, modes, times, attributes
		"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
		"utime", "utimes", "utimensat", "utimensat_time64", "futimesat",
		"getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "listxattr",
		"llistxattr", "flistxattr", "listxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "file_setattr",
		// wait for files
		"select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64", "epoll_create", "epoll_create1",
		"epoll_ctl", "epoll_ctl_old", "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2",
		"inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark", "eventfd", "eventfd2",
		// asynchronous input and output of the old kind
		"io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
		"ioprio_get", "ioprio_set",
	}
}

func memoryCalls() []string {
	return []string{
		"brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "pkey_alloc", "pkey_free", "pkey_mprotect", "msync", "mincore",
		"madvise", "mlock", "mlock2", "mlockall", "munlock", "munlockall", "remap_file_pages", "mseal", "map_shadow_stack",
		"membarrier", "process_mrelease",
	}
}

func processCalls() []string {
	return []string{
		// life and death
		"fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid", "pidfd_open",
		"pidfd_send_signal",
		// threads
		"set_tid_address", "set_thread_area", "get_thread_area", "set_robust_list", "get_robust_list", "rseq", "gettid",
		"futex", "futex_time64", "futex_wait", "futex_wake", "futex_requeue", "futex_waitv",
		// who and where
		"getpid", "getppid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid", "getcpu", "uname", "sysinfo",
		"getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32", "getgroups", "getgroups32",
		"getresuid", "getresuid32", "getresgid", "getresgid32",
		"setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid", "setregid32", "setresuid",
		"setresuid32", "setresgid", "setresgid32", "setgroups", "setgroups32", "setfsuid", "setfsuid32", "setfsgid",
		"setfsgid32", "capget", "capset",
		// settings, limits, scheduling
		"prctl", "getrlimit", "ugetrlimit", "setrlimit", "prlimit64", "getrusage", "getpriority", "setpriority", "nice",
		"sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr", "sched_getparam",
		"sched_setparam", "sched_getscheduler", "sched_setscheduler", "sched_get_priority_max", "sched_get_priority_min",
		"sched_rr_get_interval", "sched_rr_get_interval_time64",
		// debuggers: of the container's own processes
		"ptrace", "process_vm_readv", "process_vm_writev",
		// sandboxes of the program's own
		"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
		"getrandom", "restart_syscall",
	}
}

func signalAndTimeCalls() []string {
	return []string{
		"kill", "tkill", "tgkill", "pause", "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigqueueinfo",
		"rt_tgsigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "sigaltstack",
		"sigaction", "signal", "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "signalfd", "signalfd4",
		"time", "times", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64",
		"clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "alarm", "getitimer", "setitimer",
		"adjtimex", "clock_adjtime", "clock_adjtime64", // to read; changing the clock needs CAP_SYS_TIME
		"timer_create", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime",
		"timer_settime64", "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
	}
}

func networkAndIPCCalls() []string {
	return []string{
		// sockets; socket itself has rules of its own
		"socketpair", "socketcall", "bind", "listen", "accept", "accept4", "connect", "shutdown", "getsockname", "getpeername",
		"getsockopt", "setsockopt", "send", "sendto", "sendmsg", "sendmmsg", "recv", "recvfrom", "recvmsg", "recvmmsg",
		"recvmmsg_time64",
		// System V
		"ipc", "shmget", "shmat", "shmdt", "shmctl", "semget", "semop", "semctl", "semtimedop", "semtimedop_time64",
		"msgget", "msgsnd", "msgrcv", "msgctl",
		// POSIX message queues
		"mq_open", "mq_unlink", "mq_timedsend", "mq_timedsend_time64", "mq_timedreceive", "mq_timedreceive_time64",
		"mq_notify", "mq_getsetattr",
	}
}

// compatibilityCalls answer old programs; most of them are not there on new architectures.
func compatibilityCalls() []string {
	return []string{"olduname", "oldolduname", "oldstat", "oldlstat", "oldfstat", "readdir", "sgetmask", "ssetmask"}
}

func architectureCalls() []string {
	switch runtime.GOARCH {
	case "amd64":
		return []string{"arch_prctl", "modify_ldt", "uretprobe"}
	case "arm64":
		return []string{"arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "sync_file_range2"}
	default:
		return nil
	}
}
