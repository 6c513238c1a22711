package template

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// The structures below lie in memory as stub.c has them.

type recipeRef struct{ Ops, N uint64 }

// cloneArgs is the kernel's struct clone_args, its version of 88 bytes (Linux 5.7).
type cloneArgs struct {
	Flags, PidFD, ChildTID, ParentTID, ExitSignal uint64
	Stack, StackSize, TLS                         uint64
	SetTID, SetTIDSize, Cgroup                    uint64
}

type control struct {
	Build, Before, Clone, Finish recipeRef
	Fork                         cloneArgs
	Frame                        uint64
	Scratch, ScratchLen          uint64
	Socket, Report, High         uint64
	Threads                      uint64
	Command, CommandLen          uint64
	Ready, Go                    uint32
	Failed, Error                uint64
	Received                     uint64
	Number, Others, Births, Gate uint64
}

// processControl is what a process of a clone, but for the first, has of its own in the control block.
type processControl struct {
	Clone, Finish                        recipeRef
	Frame, Threads, Number, Report, Gate uint64
}

// hello is what the stub says first: the layout of XSAVE on this processor.
type hello struct {
	XCR0         uint64
	Offset, Size [32]uint32
}

// load tells the stub where to live.
type load struct {
	Home, Total, Code, Frames, Control, Stack uint64
}

// The steps of a report are numbers of calls: of a process's own recipe, of those of its threads, of the last one. The last
// step is that a process ended before it was complete.
const (
	stepsThreads = 0x10000
	stepsFinish  = 0x20000
	stepsLost    = 0x30000
)

// report is what a clone says of itself before its first instruction.
type report struct {
	Step, Error                                int64
	Received, Forked, Made, Gathered, Finished uint64 // CLOCK_REALTIME, nanoseconds
	Number                                     uint64 // of the process
}

// answer is what a template says after it was built, and after each fork.
type answer struct{ Value, Step int64 }

func pack(v any) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err) // not of fixed size
	}
	return b.Bytes()
}

func unpack[T any](b []byte) (T, error) {
	var v T
	if len(b) != binary.Size(v) {
		return v, fmt.Errorf("%d bytes in place of %d", len(b), binary.Size(v))
	}
	return v, binary.Read(bytes.NewReader(b), binary.LittleEndian, &v)
}

// commandLen is the room for what a clone is told: see command.
const commandLen = 1024

// command is what differs from clone to clone and is not a descriptor. Recipes load it from fixed addresses.
type command struct {
	HostnameLen uint64
	OffsetsLen  uint64
	Hostname    [64]byte
	Offsets     [128]byte // of the clocks, as /proc/PID/timens_offsets takes them
}

// Addresses of a command's fields.
func commandHostnameLen(at recipe.Addr) recipe.Addr { return at }
func commandOffsetsLen(at recipe.Addr) recipe.Addr  { return at + 8 }
func commandHostname(at recipe.Addr) recipe.Addr    { return at + 16 }
func commandOffsets(at recipe.Addr) recipe.Addr     { return at + 80 }
