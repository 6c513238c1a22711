package template

import (
	"fmt"
	"path"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// plan is all that a stub is told once.
type plan struct {
	load   load
	memory []byte // what lies at home after the code
	high   int
	ahead  []int // mounts that are on the root before a clone has it

	clocks        *timens.TimensEntry // nil: those of the host
	build, before *recipe.Recipe
	tree          []*process
}

// A clone is given descriptors in this order; after them come its cgroups and its mounts.
const (
	givenReport = iota
	givenStdin
	givenStdout
	givenStderr
	givenNetns
	givenCgroups
)

const (
	// givenMax is how many descriptors the kernel passes in one message.
	givenMax = 253
	// keptAt is where descriptors begin, above high, that every clone inherits from the template.
	keptAt = 1 + givenMax
)

// host is what a plan must know of the machine that it is for.
type host struct {
	xsave    xsaveLayout
	vdso     []region
	vdsoCode []byte // content of the last region
	cgroups  int    // hierarchies in which a clone is placed
	nested   bool   // mounts can be attached to one another while they are in no mount namespace
	// noTimerIDs says that the kernel does not let a process choose the ids of its timers.
	noTimerIDs bool
	images     string // directory of CRIU's images
	rootfs     string
	root       string
	processors uint64 // that there could be; 0: not known
	nofile     uint64 // how many descriptors a process may have at most; 0: not known
	mappings   uint64 // how many mappings a process may have; 0: not known
}

// Refusals returns why the engine cannot clone a snapshot: what it has no recipe for. It is empty where it can, on a host
// with the capturing one's kernel and processor.
func Refusals(images *criu.Images, config *snapshot.Config) ([]string, error) {
	everything := xsaveLayout{features: 1<<10 - 1}
	for i := range everything.offset[:10] {
		everything.offset[i], everything.size[i] = uint32(fxsaveSize+xsaveHeader+i*1024), 1024
	}
	_, reasons, err := compile(images, config, host{xsave: everything})
	return reasons, err
}

// compile turns a snapshot into a plan for a template. reasons says why it cannot; the error is one of reading the images.
func compile(images *criu.Images, config *snapshot.Config, h host) (p *plan, reasons []string, err error) {
	tasks, err := images.Tasks()
	if err != nil {
		return nil, nil, err
	}
	tree, why := family(tasks)
	if why != "" {
		return nil, []string{why}, nil
	}
	var vmas []*vma.VmaEntry
	threads, high := 0, 0
	for _, t := range tree {
		vmas = append(vmas, t.Space.GetVmas()...)
		threads = max(threads, len(t.Threads))
		for _, d := range t.FDs {
			high = max(high, int(d.GetFd())+1)
		}
	}
	where, err := findHome(vmas, threads, h.xsave)
	if err != nil {
		return nil, []string{err.Error()}, nil
	}
	c := &compiler{images: images, config: config, data: recipe.NewData(where.scratch), host: h, high: max((high+63)&^63, 1+givenMax), tree: tree}
	c.stageFiles()
	c.given, c.open = make(map[string]int), c.keep
	for i, key := range config.Stdio {
		if _, dup := c.given[key]; key != "" && !dup {
			c.given[key] = c.givenFD(givenStdin + i)
		}
	}
	return c.compile(where), c.reasons, nil
}

// givenFD is the number that the descriptor which a clone was given at an index has in its recipe.
func (c *compiler) givenFD(i int) int { return c.high + 1 + i }

// keep returns the descriptor, in every clone, of a file of CRIU's images, which the template keeps open.
func (c *compiler) keep(image string) int {
	i := slices.Index(c.kept, image)
	if i < 0 {
		i = len(c.kept)
		c.kept = append(c.kept, image)
	}
	return c.high + keptAt + i
}

func (c *compiler) compile(where home) *plan {
	d, first := c.data, c.tree[0]
	s := surroundings{images: c.host.images, rootfs: c.host.rootfs, root: c.host.root, vdso: c.host.vdso, end: where.scratch + 64<<20}
	controlAt := d.Space(len(pack(control{})))
	commandAt := d.Space(commandLen)
	stack := d.Space(stackRoom) + stackRoom
	c.checkFirst(first.Task)
	for _, p := range c.tree {
		c.about(p, func() {
			c.checkProcess(p.Task)
			c.checkMappings(p.Task)
		})
	}
	if c.checkTree(); len(c.reasons) > 0 && len(c.tree) > 1 {
		return nil // what follows takes for granted that it can be done
	}
	c.placeShadows(where, s.end)
	c.cloneRecipes(first, where, commandAt, s.end)
	before := c.beforeRecipe(commandAt)
	// What build adds to the data must not move the end that it has been told of.
	build := d.New()
	c.buildRecipe(build, where, s)
	refs := [4]recipeRef{}
	for i, r := range []*recipe.Recipe{build, before, first.clone, first.finish} {
		refs[i] = recipeRef{Ops: uint64(r.Store()), N: uint64(r.Len())}
	}
	frames, err := c.frames(first.Task, where, where.frames)
	if err != nil {
		c.refuse("%v", err)
		return nil
	}
	length := roundUp(len(d.Memory()))
	if where.scratch+recipe.Addr(length) > s.end {
		c.refuse("its recipes need %d bytes", length)
		return nil
	}
	ctl := control{
		Build: refs[0], Before: refs[1], Clone: refs[2], Finish: refs[3],
		Fork:    cloneArgs{Flags: c.forkFlags(first.Task)},
		Frame:   uint64(where.at + codeRoom),
		Scratch: uint64(where.scratch), ScratchLen: uint64(length),
		Socket: uint64(c.high), Report: uint64(c.givenFD(givenReport)), High: uint64(c.high),
		Threads: uint64(len(first.Threads) - 1),
		Others:  uint64(len(c.tree) - 1), Births: uint64(c.births()), Gate: uint64(c.gateEnd()),
		Command: uint64(commandAt), CommandLen: commandLen,
	}
	copy(d.Memory(), pack(ctl))
	return &plan{
		load: load{Home: uint64(where.at), Total: uint64(codeRoom + where.frames + length), Code: codeRoom, Frames: uint64(where.frames),
			Control: uint64(controlAt), Stack: uint64(stack) &^ 15},
		memory: append(frames, d.Memory()...), high: c.high, ahead: c.ahead,
		clocks: c.clocks, build: build, before: before, tree: c.tree,
	}
}

// forkFlags says which namespaces a clone gets of its own at birth. It joins its network namespace later.
func (c *compiler) forkFlags(t *criu.Task) uint64 {
	flags := uint64(cloneParent | cloneNewpid | cloneNewns)
	host := c.images.RootNamespaces()
	if host.GetIpcNsId() != t.IDs.GetIpcNsId() {
		flags |= cloneNewipc
	}
	if host.GetUtsNsId() != t.IDs.GetUtsNsId() {
		flags |= cloneNewuts
	}
	return flags
}

// frames returns the signal frames of a process's threads as they lie after the code, and zeros up to a size.
func (c *compiler) frames(t *criu.Task, where home, size int) ([]byte, error) {
	b := make([]byte, 0, size)
	for i, core := range t.Threads {
		at := uint64(where.at) + codeRoom + uint64(i*c.host.xsave.stride())
		f, err := sigframe(core, c.host.xsave, at)
		if err != nil {
			return nil, fmt.Errorf("thread %d: %w", t.Tree.GetThreads()[i], err)
		}
		b = append(b, f...)
	}
	return append(b, make([]byte, size-len(b))...), nil
}

// beforeRecipe is run in the template for each clone: the clocks of its time namespace go on from the capture.
func (c *compiler) beforeRecipe(commandAt recipe.Addr) *recipe.Recipe {
	r := c.data.New()
	var err error
	if c.clocks, err = c.images.Clocks(); err != nil {
		c.refuse("clocks: %v", err)
	}
	if c.clocks == nil {
		return r
	}
	r.Call("time namespace", recipe.Unshare, recipe.Int(cloneNewtime))
	r.Call("clocks", recipe.Write, recipe.Int(c.open(offsetsFile)), recipe.At(commandOffsets(commandAt)), recipe.Load(commandOffsetsLen(commandAt)))
	return r
}

// offsetsFile is kept open in the template, next to files of the images.
const offsetsFile = "/proc/self/timens_offsets"

// cloneRecipes writes what a clone's first thread does before and after all threads are complete. Where there are other
// processes, it makes what they have in common and starts those below it in between.
func (c *compiler) cloneRecipes(p *process, where home, commandAt, end recipe.Addr) {
	d, t := c.data, p.Task
	r := d.New()
	c.layMounts()
	mounts := givenCgroups + c.host.cgroups
	total := mounts + len(sandbox.Detached(c.config.Mounts, c.ahead))
	if total > givenMax {
		c.refuse("%d mounts", total-mounts)
	}
	for i := range total {
		r.Call("take descriptors", recipe.Dup3, recipe.Int(i), recipe.Int(c.givenFD(i)), recipe.Int(oCloexec))
	}
	r.Call("take descriptors", recipe.CloseRange, recipe.Int(0), recipe.Int(c.high-1), recipe.Int(0))
	for i := range c.host.cgroups {
		r.Call("enter its cgroup", recipe.Write, recipe.Int(c.givenFD(givenCgroups+i)), recipe.At(d.String("0")), recipe.Int(1)).Want(1)
	}
	if c.config.NetnsKey != "" {
		r.Call("enter its network", recipe.Setns, recipe.Int(c.givenFD(givenNetns)), recipe.Int(cloneNewnet))
	}
	c.mounts(r, c.givenFD(mounts))
	r.Call("hostname", recipe.Sethostname, recipe.At(commandHostname(commandAt)), recipe.Load(commandHostnameLen(commandAt)))
	if name, err := c.images.Domainname(); err == nil && name != "" && name != "(none)" {
		r.Call("domain name", recipe.Setdomainname, recipe.At(d.String(name)), recipe.Int(len(name)))
	}
	r.Call("session", recipe.Setsid)
	if c.staged != nil {
		c.startTree(r, p, where, end)
	} else {
		c.descriptors(r, t)
		c.ownMemory(r, t)
		c.process(r, t)
		r.Call("close the socket", recipe.Close, recipe.Int(c.high))
		r.Call("close what it was given", recipe.CloseRange, recipe.Int(c.high+2), recipe.Int(1<<32-1), recipe.Int(0))
	}
	c.about(p, func() { c.complete(r, p, where) })
}

// complete ends a process's recipe with its threads, and writes the one that it runs when they are complete.
func (c *compiler) complete(r *recipe.Recipe, p *process, where home) {
	c.threads(r, p, where.at+codeRoom, c.host.xsave.stride())
	c.leader(r, p.Task)
	finish := c.data.New()
	c.timers(finish, p.Core.GetTc().GetTimers())
	c.filters(finish, p.Task)
	c.dropPrivileges(finish, p.Core.GetThreadCore())
	c.dumpable(finish, p.Task) // which a change of credentials has cleared
	c.checkFilters(finish, p, where)
	p.clone, p.finish = r, finish
}

// Flags of mount and umount2, as in the kernel's headers.
const (
	msReadonly  = 1
	msRemount   = 1 << 5
	msRecursive = 1 << 14
	msPrivate   = 1 << 18
	mntDetach   = 2
)

// buildRecipe makes the template.
func (c *compiler) buildRecipe(r *recipe.Recipe, where home, s surroundings) {
	d := r.Data()
	const firstSocket, limitNofile = 3, 7
	if h := c.host.nofile; h > 0 {
		if most := c.high + keptAt + len(c.kept); uint64(most) >= h {
			c.refuse("descriptor %d: this host has %d descriptors for a process, and %d are needed", c.high-1, h, most)
		}
		r.Call("limit of descriptors", recipe.Prlimit64, recipe.Int(0), recipe.Int(limitNofile), recipe.At(d.Put([2]uint64{h, h})), recipe.Int(0))
	}
	r.Call("keep the socket", recipe.Dup3, recipe.Int(firstSocket), recipe.Int(c.high), recipe.Int(oCloexec))
	r.Call("close descriptors", recipe.CloseRange, recipe.Int(0), recipe.Int(c.high-1), recipe.Int(0))
	r.Call("close descriptors", recipe.CloseRange, recipe.Int(c.high+1), recipe.Int(1<<32-1), recipe.Int(0))
	for i, name := range c.kept {
		mode := oRdonly
		if _, is := exeOf(name); is {
			continue // see openMapped
		}
		if name == offsetsFile {
			mode = oWronly
		} else {
			name = path.Join(s.images, name)
		}
		r.Call("open "+name, recipe.Openat, recipe.Int(atFDCWD), recipe.At(d.String(name)), recipe.Int(mode|oCloexec), recipe.Int(0)).Want(0)
		r.Call("keep "+name, recipe.Dup3, recipe.Int(0), recipe.Int(c.high+keptAt+i), recipe.Int(oCloexec))
		r.Call("keep "+name, recipe.Close, recipe.Int(0))
	}
	c.inherited(r, c.tree[0])
	r.Call("mount namespace", recipe.Unshare, recipe.Int(cloneNewns))
	none := recipe.At(d.String("none"))
	r.Call("private mounts", recipe.Mount, none, recipe.At(d.String("/")), recipe.Int(0), recipe.Int(msPrivate|msRecursive), recipe.Int(0))
	c.memory(r, where, s)
	at := recipe.At(d.String(s.root))
	r.Call("mount the template's root", recipe.Mount, none, at, recipe.At(d.String("tmpfs")), recipe.Int(0), recipe.At(d.String("size=64k,mode=700")))
	r.Call("enter it", recipe.Chdir, at)
	r.Call("make "+bornFiles, recipe.Mkdirat, recipe.Int(atFDCWD), recipe.At(d.String("."+bornFiles)), recipe.Int(0o700))
	here := recipe.At(d.String("."))
	r.Call("make it read-only", recipe.Mount, none, here, recipe.Int(0), recipe.Int(msRemount|msReadonly), recipe.Int(0))
	r.Call("change the root", recipe.PivotRoot, here, here)
	r.Call("leave the old root", recipe.Umount2, here, recipe.Int(mntDetach))
	r.Call("change directory", recipe.Chdir, recipe.At(d.String("/")))
	r.Call("name", recipe.Prctl, recipe.Int(prSetName), recipe.At(d.String("snapd-template")), recipe.Int(0), recipe.Int(0), recipe.Int(0))
	r.Call("close files", recipe.CloseRange, recipe.Int(0), recipe.Int(c.high-1), recipe.Int(0))
	c.dumpable(r, c.tree[0].Task)
}

// dumpable says whether others may look into the process.
func (c *compiler) dumpable(r *recipe.Recipe, t *criu.Task) {
	if t.Space.Dumpable != nil {
		r.Call("dumpable", recipe.Prctl, recipe.Int(prSetDumpable), recipe.Int(t.Space.GetDumpable()), recipe.Int(0), recipe.Int(0), recipe.Int(0)).Try()
	}
}
