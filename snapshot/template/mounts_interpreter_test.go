package template

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// mountsChild marks a process of this binary that runs a recipe of mounts.
const mountsChild = "TEMPLATE_TEST_MOUNTS_CHILD"

const mountsBase recipe.Addr = 0x300000000000

// program is a recipe on its way to such a process.
type program struct {
	Memory     []byte
	At         recipe.Addr
	Len, First int
	Count      int // of descriptors
	Dir        string
}

// outcome is what became of it: which call failed, -1 for none.
type outcome struct {
	Failed int
	Took   time.Duration
	Error  string
	Cwd    string
	FDs    []string // open at the end below program.First
}

// runMounts runs a recipe in a process with fresh namespaces that was handed the files as descriptors first and on, and
// returns the process, which waits until the test is over.
func runMounts(t *testing.T, r *recipe.Recipe, first int, files []*os.File) (pid int) {
	t.Helper()
	n := r.Len()
	p := program{At: r.Store(), Len: n, First: first, Count: len(files), Dir: t.TempDir()}
	p.Memory = r.Data().Memory()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestMountsChild$")
	cmd.Env = append(os.Environ(), mountsChild+"=1")
	cmd.Stderr = os.Stderr
	result, report, err := os.Pipe()
	mustDo(t, err)
	defer result.Close()
	cmd.ExtraFiles = append([]*os.File{report}, files...)
	stdin, err := cmd.StdinPipe()
	mustDo(t, err)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID |
		syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWNET}
	mustDo(t, cmd.Start())
	mustDo(t, report.Close())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	mustDo(t, json.NewEncoder(stdin).Encode(p))
	var o outcome
	mustDo(t, json.NewDecoder(result).Decode(&o))
	if o.Failed >= 0 {
		t.Fatalf("call %d, %s: %s", o.Failed, r.What(o.Failed), o.Error)
	}
	if o.Error != "" {
		t.Fatal(o.Error)
	}
	t.Logf("%d calls took %v", n, o.Took)
	if o.Cwd != "/" {
		t.Errorf("the working directory is %s", o.Cwd)
	}
	if len(o.FDs) != 0 {
		t.Errorf("descriptors were left open: %v", o.FDs)
	}
	return cmd.Process.Pid
}

// TestMountsChild is the process that runs recipes for the tests of mounts; among the tests it has nothing to do.
func TestMountsChild(*testing.T) {
	if os.Getenv(mountsChild) == "" {
		return
	}
	report := os.NewFile(3, "report")
	var p program
	decoder := json.NewDecoder(os.Stdin)
	o := outcome{Failed: -1}
	if err := decoder.Decode(&p); err != nil {
		o.Error = err.Error()
	} else if err := bornIn(p); err != nil {
		o.Error = err.Error()
	} else {
		before := openBelow(p.First)
		began := time.Now()
		o.Failed, o.Error = interpret(p)
		o.Took = time.Since(began)
		if o.Failed < 0 {
			o.Cwd, _ = os.Getwd()
			for fd := range openBelow(p.First) {
				if !before[fd] {
					o.FDs = append(o.FDs, fmt.Sprint(fd))
				}
			}
		}
	}
	_ = json.NewEncoder(report).Encode(o)
	_ = report.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// openBelow returns the open descriptors below limit.
func openBelow(limit int) map[int]bool {
	open := make(map[int]bool)
	for fd := range limit {
		var st syscall.Stat_t
		if syscall.Fstat(fd, &st) == nil {
			open[fd] = true
		}
	}
	return open
}

// bornIn makes what a clone begins with: a tmpfs with an empty directory, and its descriptors.
func bornIn(p program) error {
	for i := range p.Count {
		if err := syscall.Dup3(4+i, p.First+i, syscall.O_CLOEXEC); err != nil {
			return fmt.Errorf("dup3: %w", err)
		}
		_ = syscall.Close(4 + i)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", p.Dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := os.Mkdir(p.Dir+bornFiles, 0o700); err != nil {
		return err
	}
	if err := syscall.Mount("", p.Dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := os.Chdir(p.Dir); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return err
	}
	return os.Chdir("/")
}

// interpret makes the calls of a recipe, as the stub does.
func interpret(p program) (failed int, why string) {
	runtime.LockOSThread()
	size := uintptr(len(p.Memory)+4095) &^ 4095
	const fixedNoreplace = 0x100000
	at, _, errno := syscall.RawSyscall6(syscall.SYS_MMAP, uintptr(mountsBase), size, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|fixedNoreplace, ^uintptr(0), 0)
	if errno != 0 || at != uintptr(mountsBase) {
		return 0, "mmap: " + errno.Error()
	}
	var mapped unsafe.Pointer
	*(*uintptr)(unsafe.Pointer(&mapped)) = at
	mem := unsafe.Slice((*byte)(mapped), size)
	copy(mem, p.Memory)
	le := binary.LittleEndian
	for i := range p.Len {
		op := mem[p.At-mountsBase+recipe.Addr(i*72):]
		var a [6]uintptr
		for k := range a {
			v := le.Uint64(op[8+8*k:])
			if op[6]&(1<<k) != 0 {
				v = le.Uint64(mem[v-uint64(mountsBase):])
			}
			a[k] = uintptr(v)
		}
		r, _, errno := syscall.RawSyscall6(uintptr(le.Uint32(op)), a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 && le.Uint16(op[4:])&1 == 0 {
			return i, errno.Error()
		}
		if le.Uint16(op[4:])&2 != 0 && int64(r) != int64(le.Uint64(op[64:])) {
			return i, fmt.Sprintf("the result is %d", r)
		}
		if out := le.Uint64(op[56:]); out != 0 {
			le.PutUint64(mem[out-uint64(mountsBase):], uint64(r))
		}
	}
	return -1, ""
}
