package spec

import (
	"runtime"
	"slices"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// seccomp returns the default system call filter for a container with the given capabilities: what is not allowed
// fails with EPERM. A capability that was granted opens the calls which only it makes useful.
//
// Some calls are left out because a snapshot cannot hold what they make, and every program that tries them falls back
// to something older: io_uring, userfaultfd, memfd_secret, and sockets of the families AF_ALG and AF_VSOCK.
func seccomp(caps []string) *specs.LinuxSeccomp {
	s := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: new(uint(syscall.EPERM)),
		Architectures:   architectures(),
		Syscalls: []specs.LinuxSyscall{
			allow(fileCalls()...),
			allow(memoryCalls()...),
			allow(processCalls()...),
			allow(signalAndTimeCalls()...),
			allow(networkAndIPCCalls()...),
			allow(compatibilityCalls()...),
		},
	}
	if extra := architectureCalls(); len(extra) > 0 {
		s.Syscalls = append(s.Syscalls, allow(extra...))
	}
	s.Syscalls = append(s.Syscalls, socketRules()...)
	s.Syscalls = append(s.Syscalls, personalityRules()...)
	s.Syscalls = append(s.Syscalls, cloneRules(slices.Contains(caps, "CAP_SYS_ADMIN"))...)
	for _, g := range gatedCalls() {
		if slices.Contains(caps, g.capability) {
			s.Syscalls = append(s.Syscalls, allow(g.calls...))
		}
	}
	return s
}

func architectures() []specs.Arch {
	switch runtime.GOARCH {
	case "amd64":
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	default:
		return nil // the native one
	}
}

func allow(names ...string) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: names, Action: specs.ActAllow}
}

func allowIf(name string, conditions ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: conditions}
}

// socketRules allow sockets of all families but AF_ALG (38) and AF_VSOCK (40). Rules for one call are alternatives.
func socketRules() []specs.LinuxSyscall {
	const alg, between, vsock = 38, 39, 40
	return []specs.LinuxSyscall{
		allowIf("socket", specs.LinuxSeccompArg{Index: 0, Value: alg, Op: specs.OpLessThan}),
		allowIf("socket", specs.LinuxSeccompArg{Index: 0, Value: between, Op: specs.OpEqualTo}),
		allowIf("socket", specs.LinuxSeccompArg{Index: 0, Value: vsock, Op: specs.OpGreaterThan}),
	}
}

// personalityRules allow the execution domains PER_LINUX and PER_LINUX32, each with and without UNAME26, and the
// question which one is set. ADDR_NO_RANDOMIZE, which makes attacks easier, stays out.
func personalityRules() []specs.LinuxSyscall {
	const linux32, uname26, query = 0x8, 0x20000, 0xffffffff
	var rules []specs.LinuxSyscall
	for _, v := range []uint64{0, linux32, uname26, uname26 | linux32, query} {
		rules = append(rules, allowIf("personality", specs.LinuxSeccompArg{Index: 0, Value: v, Op: specs.OpEqualTo}))
	}
	return rules
}

// cloneRules keep new namespaces to those who may have them anyway. A filter cannot look into clone3's argument, which
// lies in memory, so clone3 is "not implemented" and the C library falls back to clone.
func cloneRules(admin bool) []specs.LinuxSyscall {
	if admin {
		return []specs.LinuxSyscall{allow("clone", "clone3", "unshare", "setns")}
	}
	const namespaces = syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUSER |
		syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | 0x02000000 // CLONE_NEWCGROUP
	return []specs.LinuxSyscall{
		allowIf("clone", specs.LinuxSeccompArg{Index: 0, Value: namespaces, ValueTwo: 0, Op: specs.OpMaskedEqual}),
		{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: new(uint(syscall.ENOSYS))},
	}
}

type gate struct {
	capability string
	calls      []string
}

func gatedCalls() []gate {
	return []gate{
		{"CAP_BPF", []string{"bpf"}},
		{"CAP_DAC_READ_SEARCH", []string{"open_by_handle_at"}},
		{"CAP_PERFMON", []string{"perf_event_open"}},
		{"CAP_SYS_ADMIN", []string{
			"bpf", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "listmount", "lookup_dcookie", "mount",
			"mount_setattr", "move_mount", "open_tree", "open_tree_attr", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd",
			"setdomainname", "sethostname", "statmount", "swapoff", "swapon", "syslog", "umount", "umount2",
		}},
		{"CAP_SYS_BOOT", []string{"reboot"}},
		{"CAP_SYS_CHROOT", []string{"chroot"}},
		{"CAP_SYS_MODULE", []string{"delete_module", "finit_module", "init_module"}},
		{"CAP_SYS_NICE", []string{
			"get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node",
		}},
		{"CAP_SYS_PACCT", []string{"acct"}},
		{"CAP_SYS_PTRACE", []string{"kcmp", "pidfd_getfd", "process_madvise"}},
		{"CAP_SYS_RAWIO", []string{"ioperm", "iopl"}},
		{"CAP_SYS_TIME", []string{"clock_settime", "clock_settime64", "settimeofday", "stime"}},
		{"CAP_SYS_TTY_CONFIG", []string{"vhangup"}},
		{"CAP_SYSLOG", []string{"syslog"}},
	}
}
