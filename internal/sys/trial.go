package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions in this file ask the kernel for one thing each, see whether it does it, and leave nothing behind. Their
// errors hold the kernel's errno.

// TryCloneSetTID asks whether this process may choose the id of a child (clone3 with set_tid), which needs
// CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN. It asks for an id that is taken: the kernel looks at the right first, so that no process is made.
func TryCloneSetTID() error {
	tid := int32(os.Getpid())
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&tid)
	args := struct {
		flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
	}{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&tid))), setTIDSize: 1}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	switch {
	case errno == 0 && pid == 0:
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0) // cannot be: the id is ours
		return nil
	case errno == unix.EEXIST:
		return nil
	case errno == 0:
		return errors.New("clone3 made a process with an id that was taken")
	}
	return os.NewSyscallError("clone3", errno)
}

const (
	uffdAPI             = 0xaa
	uffdioAPI           = 0xc018aa3f
	uffdioRegister      = 0xc020aa00
	uffdioWriteProtect  = 0xc018aa06
	uffdFeatureWPAsync  = 1 << 15
	uffdFeatureUnpopul  = 1 << 13 // WP_UNPOPULATED: pages that are not there can be protected too
	uffdRegisterModeWP  = 1 << 1
	uffdWriteProtectSet = 1
)

// TryUserfaultAsync asks for a userfaultfd that tracks writes by itself (WP_ASYNC, Linux 6.7): it protects a page,
// writes to it, and has [TryPagemapScan]'s ioctl say that it was written.
func TryUserfaultAsync() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	defer unix.Close(int(fd))
	hello := [3]uint64{uffdAPI, uffdFeatureWPAsync | uffdFeatureUnpopul, 0}
	if err := ioctl(fd, uffdioAPI, unsafe.Pointer(&hello), "UFFDIO_API with WP_ASYNC"); err != nil {
		return err
	}
	return withPages(2, func(mem []byte, start uint64) error {
		register := [4]uint64{start, uint64(len(mem)), uffdRegisterModeWP, 0}
		if err := ioctl(fd, uffdioRegister, unsafe.Pointer(&register), "UFFDIO_REGISTER"); err != nil {
			return err
		}
		protect := [3]uint64{start, uint64(len(mem)), uffdWriteProtectSet}
		if err := ioctl(fd, uffdioWriteProtect, unsafe.Pointer(&protect), "UFFDIO_WRITEPROTECT"); err != nil {
			return err
		}
		mem[0] = 1
		n, err := scanPages(start, uint64(len(mem)), pageIsWritten)
		if err == nil && n != 1 {
			return fmt.Errorf("one page of two was written and %d are reported", n)
		}
		return err
	})
}

const (
	pagemapScan   = 0xc0606610
	pageIsWritten = 1 << 1
	pageIsPresent = 1 << 3
)

// TryPagemapScan asks for the PAGEMAP_SCAN ioctl (Linux 6.7): it touches one page of two and counts them.
func TryPagemapScan() error {
	return withPages(2, func(mem []byte, start uint64) error {
		mem[0] = 1
		n, err := scanPages(start, uint64(len(mem)), pageIsPresent)
		if err == nil && n != 1 {
			return fmt.Errorf("PAGEMAP_SCAN: one page of two is there and %d are reported", n)
		}
		return err
	})
}

// scanPages counts the pages of this process in [start, start+size) that are in the category.
func scanPages(start, size uint64, category uint64) (pages uint64, err error) {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var regions [8]struct{ start, end, categories uint64 }
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&regions)
	arg := struct {
		size, flags, start, end, walkEnd, vec, vecLen, maxPages, inverted, mask, anyOf, ret uint64
	}{start: start, end: start + size, vec: uint64(uintptr(unsafe.Pointer(&regions))), vecLen: uint64(len(regions)), mask: category, ret: category}
	arg.size = uint64(unsafe.Sizeof(arg))
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), pagemapScan, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 {
		return 0, os.NewSyscallError("PAGEMAP_SCAN", errno)
	}
	for _, r := range regions[:n] {
		pages += (r.end - r.start) / uint64(os.Getpagesize())
	}
	return pages, nil
}

// TrySoftDirty asks whether the kernel keeps a soft-dirty bit: a page of a fresh mapping that was written has it.
func TrySoftDirty() error {
	return withPages(1, func(mem []byte, start uint64) error {
		mem[0] = 1
		f, err := os.Open("/proc/self/pagemap")
		if err != nil {
			return err
		}
		defer f.Close()
		var entry [8]byte
		if _, err := f.ReadAt(entry[:], int64(start)/int64(os.Getpagesize())*8); err != nil {
			return err
		}
		if binary.NativeEndian.Uint64(entry[:])&(1<<55) == 0 {
			return errors.New("a page that was written has no soft-dirty bit")
		}
		return nil
	})
}

// TryMountAPI asks for a mount by fsopen, fsmount and mount_setattr (Linux 5.12). It is attached nowhere.
func TryMountAPI() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mnt)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(mnt, "", unix.AT_EMPTY_PATH, &attr))
}

// TryPidfd asks for a pidfd of this process, a signal through it and a copy of a descriptor (Linux 5.6).
func TryPidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, 0, nil, 0); err != nil {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	got, err := unix.PidfdGetfd(fd, fd, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_getfd", err)
	}
	return unix.Close(got)
}

// TryTimerRestoreIDs asks whether POSIX timers can be made with chosen ids (PR_TIMER_CREATE_RESTORE_IDS, Linux 6.15).
func TryTimerRestoreIDs() error {
	const prTimerCreateRestoreIDs, get = 77, 2
	_, err := unix.PrctlRetInt(prTimerCreateRestoreIDs, get, 0, 0, 0)
	return os.NewSyscallError("prctl PR_TIMER_CREATE_RESTORE_IDS", err)
}

// TrySeccompFilter asks whether filters can be installed that return errors.
func TrySeccompFilter() error {
	const getActionAvail = 2
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, getActionAvail, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// withPages calls f with n fresh pages of anonymous memory, and the address at which they start.
func withPages(n int, f func(mem []byte, start uint64) error) (err error) {
	mem, err := unix.Mmap(-1, 0, n*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(mem)) }()
	return f(mem, uint64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))))
}

func ioctl(fd, request uintptr, arg unsafe.Pointer, name string) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}
