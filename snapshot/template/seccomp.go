package template

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"

	"github.com/snapd-ctr/snapd-ctr/snapshot/criu"
	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

const (
	seccompSetModeFilter = 1
	seccompTsync         = 1
	seccompKept          = 2 | 4 // SECCOMP_FILTER_FLAG_LOG and _SPEC_ALLOW
	filterSize           = 8     // of one struct sock_filter
)

// filters adds the installation of the process's seccomp filters, in all of its threads at once. It is the last thing
// but for giving up capabilities: what comes after it is subject to the filters.
func (c *compiler) filters(r *recipe.Recipe, t *criu.Task) {
	all, err := c.images.Filters()
	if err != nil {
		c.refuse("seccomp filters: %v", err)
		return
	}
	leader, err := chainOf(all, t.Core.GetThreadCore())
	if err != nil {
		c.refuse("thread 1: %v", err)
		return
	}
	shared := len(leader) > 0 && leader[0].GetFlags()&seccompTsync != 0 // the images then have them with the first thread only
	for i, thread := range t.Threads[1:] {
		if shared {
			break
		}
		chain, err := chainOf(all, thread.GetThreadCore())
		if err == nil && !slices.EqualFunc(chain, leader, func(a, b *seccomp.SeccompFilter) bool { return bytes.Equal(a.GetFilter(), b.GetFilter()) }) {
			err = errors.New("its seccomp filters are not those of the first thread")
		}
		if err != nil {
			c.refuse("thread %d: %v", t.Tree.GetThreads()[i+1], err)
			return
		}
	}
	for _, f := range leader {
		filter := shrink(f.GetFilter())
		code := r.Data().Bytes(filter)
		prog := r.Data().Put([2]uint64{uint64(len(filter) / filterSize), uint64(code)})
		flags := f.GetFlags() & seccompKept
		if len(t.Threads) > 1 {
			flags |= seccompTsync
		}
		r.Call("seccomp filter", recipe.Seccomp, recipe.Int(seccompSetModeFilter), recipe.Int(flags), recipe.At(prog)).Want(0)
	}
}

// chainOf returns the filters of a thread, in the order of their installation: the images name the oldest, which names the
// one that was installed on it.
func chainOf(all []*seccomp.SeccompFilter, th *criu_core.ThreadCoreEntry) ([]*seccomp.SeccompFilter, error) {
	switch th.GetSeccompMode() {
	case criu_core.SeccompMode_disabled:
		return nil, nil
	case criu_core.SeccompMode_strict:
		return nil, errors.New("seccomp in its strict mode")
	}
	var chain []*seccomp.SeccompFilter
	for i := th.GetSeccompFilter(); ; i = all[i].GetPrev() {
		if int(i) >= len(all) || len(chain) > len(all) {
			return nil, fmt.Errorf("the images lack its seccomp filter %d", i)
		}
		chain = append(chain, all[i])
		if all[i].Prev == nil {
			return chain, nil
		}
	}
}

const (
	seccompAllow, seccompLog = 0x7fff0000, 0x7ffc0000
	auditArch                = 0xc000003e // x86-64
)

// checkFilters refuses filters that would not let the clone do what is left to be done once they are there: what follows
// them in the last recipe, and what the stub does itself. CRIU has the kernel suspend filters for that, which only a
// tracer can.
func (c *compiler) checkFilters(finish *recipe.Recipe, p *process, where home) {
	all, err := c.images.Filters()
	if err != nil {
		return // refused already
	}
	chain, err := chainOf(all, p.Core.GetThreadCore())
	if err != nil || len(chain) == 0 {
		return
	}
	for i, f := range chain {
		for j := i + 1; j < finish.Len(); j++ {
			call, args := finish.At(j)
			c.checkFilter(f, call, args, where)
		}
		to, gate := uint64(c.givenFD(givenReport)), uint64(c.gateEnd())
		if p.number > 0 {
			to, gate = uint64(c.birthsEnd()), uint64(c.gate())
			c.checkFilter(f, recipe.Read, [6]uint64{gate, uint64(where.scratch), uint64(len(pack(report{})))}, where)
		}
		if len(c.tree) > 1 {
			c.checkFilter(f, recipe.Close, [6]uint64{gate}, where)
		}
		// From here on as stub.c has it.
		c.checkFilter(f, recipe.Write, [6]uint64{to, uint64(where.scratch), uint64(len(pack(report{})))}, where)
		c.checkFilter(f, recipe.Close, [6]uint64{to}, where)
		c.checkFilter(f, recipe.Futex, [6]uint64{uint64(where.scratch), 129, 1<<31 - 1}, where)
		c.checkFilter(f, recipe.Munmap, [6]uint64{uint64(where.scratch), pageSize}, where)
		c.checkFilter(f, recipe.RtSigreturn, [6]uint64{}, where)
		if len(p.Threads) > 1 {
			c.checkFilter(f, recipe.Futex, [6]uint64{uint64(where.scratch), 128}, where)
		}
	}
}

func (c *compiler) checkFilter(f *seccomp.SeccompFilter, call recipe.Call, args [6]uint64, where home) {
	verdict, err := judge(f.GetFilter(), seccompData{Nr: uint32(call), Arch: auditArch, InstructionPointer: uint64(where.at), Args: args})
	switch action := verdict & 0xffff0000; {
	case err != nil:
		c.refuseOnce("a seccomp filter: %v", err)
	case action != seccompAllow && action != seccompLog:
		c.refuseOnce("a seccomp filter that forbids system call %d, which is needed after it", call)
	}
}
