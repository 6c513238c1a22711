package api

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/proc"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
	"github.com/snapd-ctr/snapd-ctr/snapshot/sandbox"
)

// Usage is what the processes of a container use of memory now.
type Usage struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Engine    string `json:"engine,omitempty"`
	Processes int    `json:"processes"`
	Threads   int    `json:"threads"`
	// PrivateBytes are mapped by one process alone: what a clone costs beside its tables. SharedBytes others map as well:
	// the template, siblings, whoever has the same file mapped; counted once for each process.
	PrivateBytes   int64 `json:"private_bytes"`
	SharedBytes    int64 `json:"shared_bytes"`
	PageTableBytes int64 `json:"page_table_bytes"`
}

// Usage looks at the processes of a running container. Those that end meanwhile do not count.
func (l *Local) Usage(ctx context.Context, ref string) (*Usage, error) {
	c, err := l.runningContainer(ctx, "stats", ref)
	if err != nil {
		return nil, err
	}
	pids, err := sandbox.OpenCgroup(c.Cgroup).Pids()
	if err != nil {
		return nil, err
	}
	u := &Usage{ID: c.ID, Name: c.Name, Engine: c.Engine}
	for _, pid := range pids {
		m, err := proc.ReadRollup(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return nil, &snapshot.Error{Kind: snapshot.KindFailed, Op: "stats", On: c.Name, Err: err}
		}
		s, err := proc.ReadStatus(pid)
		if err != nil {
			continue
		}
		u.Processes++
		u.Threads += s.Threads
		u.PrivateBytes += m.Private
		u.SharedBytes += m.RSS - m.Private
		u.PageTableBytes += s.PageTables
	}
	return u, nil
}
