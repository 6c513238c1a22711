package pager

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// wrong says what the pager would put where it does not belong; trusting takes what is in doubt as well.
func (k *kernel) wrong(trusting bool) error {
	var got [modelPages]byte
	var unknown [modelPages]bool
	for _, s := range k.owed.missing {
		for at := s.start; at < s.end; at += pageSize {
			got[at/pageSize], unknown[at/pageSize] = s.data[at-s.start], s.unknown
		}
	}
	for i, p := range k.pages {
		if unknown[i] && !trusting {
			continue
		}
		inherited := k.name != "" && (!p.served || p.present) // a copy that fails
		if want := p.id; got[i] != want && !inherited && !p.either || p.present && got[i] != 0 && !inherited {
			return fmt.Errorf("%spage %d: %+v is served as %d", k.name, i, p, got[i])
		}
	}
	return nil
}

// live has the process live for some steps, and its children; after any of them the pager may settle, and a page may be
// touched, which ends the life if the page is in doubt.
func (k *kernel) live(steps int, trusting bool) error {
	for range steps {
		k.step()
		for _, c := range k.born {
			if len(c.threads[0].events) == 0 && k.rnd.IntN(5) == 0 {
				c.act(0) // its events are read when it is served
			}
		}
		if k.changing() || k.rnd.IntN(6) > 0 {
			continue
		}
		serves := func(at uint64) (bool, error) { return k.pages[at/pageSize].served, nil }
		if _, err := k.owed.settle(serves); err != nil {
			return err
		}
		if err := k.wrong(trusting); err != nil {
			return err
		}
		born := k.born
		k.born = nil
		for _, c := range born {
			c.owed.bear()
			if err := c.live(40, trusting); err != nil && !errors.Is(err, errDoubt) {
				k.log = c.log
				return err
			}
		}
		if at := k.rnd.IntN(modelPages); k.pages[at].served {
			for _, s := range k.owed.missing.cut(addr(at), addr(at+1)) {
				if s.unknown {
					return errDoubt
				}
			}
			k.pages[at].present, k.pages[at].id = true, 0
		}
	}
	return nil
}

// TestOrder has a model of the kernel change memory and report that in every order that is possible: what is known after
// a process has been settled is right, or in doubt. What is in doubt is wrong now and then, so that the model can tell.
func TestOrder(t *testing.T) {
	lives := setting("PAGER_LIVES", 1000)
	for threads := 1; threads <= 5; threads++ {
		var doubts, mistakes int
		for seed := range uint64(lives) {
			k := newKernel(seed, threads)
			if err := k.live(150, false); errors.Is(err, errDoubt) {
				doubts++
			} else if err != nil {
				t.Fatalf("%d threads, seed %d: %v\n%s", threads, seed, err, strings.Join(k.log[max(0, len(k.log)-60):], "\n"))
			}
			if err := newKernel(seed, threads).live(150, true); err != nil && !errors.Is(err, errDoubt) {
				mistakes++
			}
		}
		t.Logf("%d threads: %d of %d lives end by a doubt; with doubts ignored, %d with a mistake", threads, doubts, lives, mistakes)
		if doubts > lives/2 || mistakes == 0 {
			t.Errorf("%d threads: %d of %d lives end by a doubt, %d with a mistake without", threads, doubts, lives, mistakes)
		}
	}
}
