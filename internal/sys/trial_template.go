package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions in this file are trials as well, of what templates and their forks need.

// cloneArguments is the kernel's struct clone_args, its version of 88 bytes (Linux 5.7).
type cloneArguments struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// TryCloneParent asks whether a child of ours can make a process that is our child too, the first of a pid namespace of
// its own (clone3 with CLONE_PARENT and CLONE_NEWPID), and with an id that was chosen. Both processes end at once.
func TryCloneParent() error {
	return Aside(func() error {
		one := [1]int32{1} // the only id that a namespace's first process can have
		second := cloneArguments{flags: unix.CLONE_PARENT | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			setTID: uint64(uintptr(unsafe.Pointer(&one))), setTIDSize: 1}
		first := cloneArguments{exitSignal: uint64(unix.SIGCHLD)}
		var said [2]int // the first says on it which child the second is, or the kernel's errno
		if err := unix.Pipe2(said[:], unix.O_CLOEXEC); err != nil {
			return os.NewSyscallError("pipe2", err)
		}
		defer unix.Close(said[0])
		var pin runtime.Pinner
		defer pin.Unpin()
		pin.Pin(&one)
		all, before := ^uint64(0), uint64(0)
		sigprocmask(&all, &before) // no handler of ours must run in the children
		pid, errno := cloneTwice(&first, &second, said[1])
		sigprocmask(&before, nil)
		unix.Close(said[1])
		if errno != 0 {
			return os.NewSyscallError("clone3", errno)
		}
		return heard(int(pid), said[0])
	})
}

// heard reaps the children of a trial and says what the first has said of the second.
func heard(first, said int) error {
	var word int64
	n, err := unix.Read(said, unsafe.Slice((*byte)(unsafe.Pointer(&word)), 8))
	if kerr := KillAndReap(first); kerr != nil {
		return kerr
	}
	switch {
	case err != nil:
		return err
	case n != 8:
		return errors.New("a child of this process ended without a word")
	case word < 0:
		return os.NewSyscallError("clone3 with CLONE_PARENT and CLONE_NEWPID", unix.Errno(-word))
	}
	if _, err := unix.Wait4(int(word), nil, 0, nil); err != nil {
		return fmt.Errorf("the process made with CLONE_PARENT is not our child: %w", err)
	}
	return nil
}

func sigprocmask(set, old *uint64) {
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), 8, 0, 0)
}

// cloneTwice makes a child, which makes another, reports on the descriptor and ends. In the children nothing of Go's may
// run but system calls: they have none of its other threads.
//
//go:noinline
//go:nosplit
//go:norace
func cloneTwice(first, second *cloneArguments, report int) (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(first)), unsafe.Sizeof(*first), 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	child, _, e := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(second)), unsafe.Sizeof(*second), 0)
	word := int64(child)
	if e != 0 {
		word = -int64(e)
	}
	if word != 0 { // not in the second
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(report), uintptr(unsafe.Pointer(&word)), 8)
	}
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// TryDetachedMounts asks for a bind made by open_tree that is nowhere, and puts it below dir, a directory in a mount
// namespace of the caller's own, with move_mount (Linux 5.12).
func TryDetachedMounts(dir string) error {
	at := filepath.Join(dir, "at")
	if err := os.Mkdir(at, 0o700); err != nil {
		return err
	}
	m, err := DetachedBind(dir, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := unix.MoveMount(int(m.File().Fd()), "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return Unmount(at)
}

// TryNestedMounts asks whether a mount that is nowhere can be attached to another one that is nowhere (Linux 6.15).
func TryNestedMounts() error {
	on, err := NewDetached("tmpfs", nil, 0)
	if err != nil {
		return err
	}
	defer on.Close()
	m, err := NewDetached("tmpfs", nil, 0)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := unix.Mkdirat(int(on.f.Fd()), "at", 0o700); err != nil {
		return os.NewSyscallError("mkdirat", err)
	}
	return m.AttachTo(on, "/at")
}

// TrySeccompTsync asks whether a filter can be installed in all threads of a process at once. It names no filter: a kernel
// that can finds that out only after it has taken the flag.
func TrySeccompTsync() error {
	const setModeFilter, tsync = 1, 1
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, tsync, 0)
	if errno == unix.EFAULT {
		return nil
	}
	return os.NewSyscallError("seccomp with SECCOMP_FILTER_FLAG_TSYNC", errno)
}

// TryCollapse asks for memory to be put into a huge page at once (MADV_COLLAPSE, Linux 6.1).
func TryCollapse() error {
	const collapse, huge = 25, 2 << 20
	mem, err := unix.Mmap(-1, 0, 2*huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	start := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	from := (start+huge-1)&^(huge-1) - start
	mem[from] = 1
	return os.NewSyscallError("madvise with MADV_COLLAPSE", unix.Madvise(mem[from:from+huge], collapse))
}
