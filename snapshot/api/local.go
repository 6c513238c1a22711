package api

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
	"github.com/snapd-ctr/snapd-ctr/snapshot/shim"
	"github.com/snapd-ctr/snapd-ctr/snapshot/store"
)

// Config says where things are.
type Config struct {
	Root   string // persistent state: the store and the containers' files
	Run    string // run-time state: sockets, address leases; gone after a reboot
	CRIU   string // the criu binary
	Shim   string // the snapd-ctr-shim binary
	Bridge string // name of the bridge of containers with --network bridge
	Subnet string // its subnet, "10.88.64.0/18"
	// LogMaxBytes is how long the log of a container made here becomes before a new one is begun; the one before is
	// kept. Zero stands for 64 MiB.
	LogMaxBytes int64
}

// Local is the service in this process.
type Local struct {
	cfg    Config
	store  *store.Store
	tool   criu.Tool
	bridge sandbox.Bridge
}

var _ Service = (*Local)(nil)

// OpenLocal opens the service in this process. It makes the state directories where they are missing.
func OpenLocal(ctx context.Context, cfg Config) (*Local, error) {
	if os.Geteuid() != 0 {
		return nil, &snapshot.Error{Kind: snapshot.KindUnsupported, Op: "open", Err: errors.New("needs root"),
			Hint: "run snapd-ctr as root: it makes namespaces, mounts and cgroups"}
	}
	subnet, err := netip.ParsePrefix(cfg.Subnet)
	if err != nil {
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "subnet", On: cfg.Subnet, Err: err,
			Hint: "give a prefix such as 10.88.64.0/18"}
	}
	bridge := sandbox.Bridge{Name: cfg.Bridge, Subnet: subnet, Dir: shim.Paths{Run: cfg.Run}.Leases()}
	if err := bridge.Check(); err != nil {
		return nil, err
	}
	for _, d := range []string{cfg.Root, cfg.Run, filepath.Join(cfg.Root, "containers")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	st, err := store.Open(filepath.Join(cfg.Root, "store"))
	if err != nil {
		return nil, err
	}
	return &Local{
		cfg: cfg, store: st, tool: criu.Tool{Path: cfg.CRIU, Plugins: plugins(cfg.Shim)}, bridge: bridge,
	}, nil
}

// pluginsVariable names the directory of our plugin of CRIU, which else lies beside the shim.
const pluginsVariable = "SNAPD_CTR_CRIU_PLUGINS"

// plugins returns the directory of our plugin of CRIU; empty where there is none, as on other machines than x86-64.
func plugins(shim string) string {
	dir := os.Getenv(pluginsVariable)
	if dir == "" {
		dir = filepath.Join(filepath.Dir(shim), "criu-plugins")
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return ""
	}
	return dir
}

// Close closes the service. Containers go on.
func (l *Local) Close() error { return nil }

func (l *Local) paths() shim.Paths {
	return shim.Paths{Root: l.cfg.Root, Run: l.cfg.Run, CRIU: l.cfg.CRIU, Bridge: l.cfg.Bridge, Subnet: l.cfg.Subnet}
}

// spawn finds or starts the shim of a group of containers.
func (l *Local) spawn(ctx context.Context, group string) (*shim.Client, error) {
	return shim.Spawn(ctx, shim.SpawnOptions{Binary: l.cfg.Shim, Group: group, Paths: l.paths(),
		Log: filepath.Join(l.cfg.Run, "shims", group+".log")})
}

// Containers lists containers, newest first: those that run, or all. Damaged ones, which may run, are always among them.
func (l *Local) Containers(_ context.Context, all bool) ([]*snapshot.Container, error) {
	cs, err := l.records()
	if err != nil {
		return nil, err
	}
	var out []*snapshot.Container
	for _, c := range cs {
		if c.Status == snapshot.StatusRunning || c.Status == snapshot.StatusDamaged || all && c.Status == snapshot.StatusExited {
			out = append(out, c)
		}
	}
	return out, nil
}

// records reads all containers, newest first. A container whose process is gone and whose shim is gone too is shown,
// and recorded, as exited with a status nobody saw. Of one whose record cannot be read only the id is known.
func (l *Local) records() ([]*snapshot.Container, error) {
	read, err := shim.ListContainers(l.cfg.Root)
	if err != nil && snapshot.KindOf(err) != snapshot.KindCorrupt {
		return nil, err
	}
	cs := make([]*snapshot.Container, 0, len(read))
	for _, c := range read {
		if c.Status == snapshot.StatusRunning && !running(&c) {
			c, err = l.settle(c)
			if snapshot.KindOf(err) == snapshot.KindNotFound {
				continue // removed meanwhile
			} else if err != nil {
				return nil, err
			}
		}
		cs = append(cs, &c)
	}
	damaged, err := shim.DamagedContainers(l.cfg.Root)
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(damaged)) {
		cs = append(cs, &snapshot.Container{ID: id, Name: snapshot.ShortID(id), Status: snapshot.StatusDamaged})
	}
	slices.SortStableFunc(cs, func(a, b *snapshot.Container) int { return b.Created.Compare(a.Created) })
	return cs, nil
}

// running says whether a container's first process exists.
func running(c *snapshot.Container) bool {
	boot, err := proc.BootID()
	return err == nil && boot == c.BootID && proc.Alive(c.Pid, c.StartTime)
}

// Container finds one container by its name, its id, or the beginning of its id.
func (l *Local) Container(_ context.Context, ref string) (*snapshot.Container, error) {
	if c, err := l.byID(ref); c != nil || err != nil {
		return c, err
	}
	cs, err := l.records()
	if err != nil {
		return nil, err
	}
	var found []*snapshot.Container
	for _, c := range cs {
		if c.Status == snapshot.StatusCreating {
			continue
		}
		if c.Name == ref || c.ID == ref {
			return c, nil
		}
		if ref != "" && strings.HasPrefix(c.ID, ref) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, &snapshot.Error{Kind: snapshot.KindNotFound, Op: "container", On: ref, Err: errors.New("no such container"),
			Hint: "snapd-ctr ps -a lists them"}
	default:
		return nil, &snapshot.Error{Kind: snapshot.KindInvalid, Op: "container", On: ref,
			Err: fmt.Errorf("%d containers' ids begin so", len(found)), Hint: "give more digits, or the name"}
	}
}

// byID finds a container by its whole id, without a look at the others; nil where there is none, or it is not to be listed.
func (l *Local) byID(id string) (*snapshot.Container, error) {
	const length = 32
	if len(id) != length || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, nil
	}
	c, err := shim.ReadContainer(l.cfg.Root, id)
	if err != nil || c.Status == snapshot.StatusCreating {
		return nil, nil // the whole list says what is wrong
	}
	if c.Status == snapshot.StatusRunning && !running(&c) {
		if c, err = l.settle(c); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// runningContainer finds a container that must run.
func (l *Local) runningContainer(ctx context.Context, op, ref string) (*snapshot.Container, error) {
	c, err := l.Container(ctx, ref)
	if err != nil {
		return nil, err
	}
	if c.Status == snapshot.StatusDamaged {
		return nil, damaged(op, c)
	}
	if c.Status != snapshot.StatusRunning {
		return nil, &snapshot.Error{Kind: snapshot.KindState, Op: op, On: c.Name, Err: errors.New("the container has exited"),
			Hint: "snapd-ctr logs " + c.Name + " shows what it said last"}
	}
	return c, nil
}

// ContainerDir is the directory in which a container's own files, its log and its record lie.
func (l *Local) ContainerDir(id string) string { return shim.ContainerDir(l.cfg.Root, id) }
