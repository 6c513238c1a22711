package proc

import (
	"os"
	"syscall"
	"testing"
)

func TestResident(t *testing.T) {
	before, err := Resident(os.Getpid())
	must(t, err)
	const size = 64 << 20
	mem, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_POPULATE)
	must(t, err)
	defer syscall.Munmap(mem)
	after, err := Resident(os.Getpid())
	must(t, err)
	if grown := after - before; grown < size*9/10 || grown > size*3/2 {
		t.Errorf("%d bytes more after %d were touched", grown, size)
	}
	child := sleeper(t, "exec sleep 600")
	its, err := Resident(child.Process.Pid)
	must(t, err)
	both, err := Resident(os.Getpid())
	must(t, err)
	if its <= 0 || both < size+its {
		t.Errorf("%d bytes with a child that has %d", both, its)
	}
	if n, err := Resident(1 << 30); err == nil {
		t.Errorf("a process that does not exist has %d bytes", n)
	}
}

func TestAvailableMemory(t *testing.T) {
	var host syscall.Sysinfo_t
	must(t, syscall.Sysinfo(&host))
	total := int64(host.Totalram) * int64(host.Unit)
	if n, err := AvailableMemory(); err != nil || n <= 0 || n > total {
		t.Errorf("%d bytes of %d, %v", n, total, err)
	}
}
