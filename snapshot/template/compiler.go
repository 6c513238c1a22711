package template

import (
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// compiler turns the images of a snapshot into recipes. It goes on after it has met something that it has no recipe for, so
// that all reasons are known in the end.
type compiler struct {
	images *criu.Images
	config *snapshot.Config
	data   *recipe.Data

	// high is above every descriptor number of the process. The template's own descriptors, and those that a clone is
	// given, are at high and above, and are closed before the clone's first instruction.
	high int
	// given are the numbers of descriptors that take the place of what the captured container had from outside, by the
	// keys of Config.Stdio ("pipe:[123]"): pipes to the log, and an input that is at its end.
	given map[string]int

	// open has every clone given a descriptor for reading of a file of the images, and returns its number, which is at high
	// or above.
	open func(name string) int

	layout  *mountLayout
	ahead   []int // mounts that are attached to the root before there is a clone
	inClone []int // the others, in the order in which the clone makes them

	host   host
	clocks *timens.TimensEntry
	kept   []string // files that every clone inherits from the template: see open

	tree    []*process // all processes, parents before their children
	limit   uint64     // where the first mapping above the stub's home begins
	shadows region     // where the template has the memory of all but the first
	// Of a container with several processes, all that is open is opened by the first one, at numbers from stage on. staged
	// has these as if they were a process's.
	stage   int
	staged  *criu.Task
	holders map[uint32]holder // by id
	owned   []ownedFile
	ghosts  map[uint32]uint32      // deleted files that are mapped for all to see, by id: how they are opened for that
	loose   map[uint64]recipe.Addr // memfds that are mapped and not open, by inode: where the number is kept
	reasons []string
}

// refuse says that the engine cannot make something, which the reason names: "descriptor 7: an io_uring".
func (c *compiler) refuse(format string, args ...any) {
	c.reasons = append(c.reasons, fmt.Sprintf(format, args...))
}

// refuseOnce is refuse for what may come up more than once.
func (c *compiler) refuseOnce(format string, args ...any) {
	if why := fmt.Sprintf(format, args...); !slices.Contains(c.reasons, why) {
		c.reasons = append(c.reasons, why)
	}
}
