package template

import "github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"

// fdtable is what is known beforehand of a clone's descriptors below a number, while its recipe runs: the kernel gives
// every new descriptor the lowest number that is free. At and above that number nothing is known, but that it is in part
// taken.
type fdtable struct {
	slots []slot
}

// slot is one number.
type slot struct {
	taken bool
	temp  *handle // what holds the number only for now
}

// handle is a descriptor in a recipe: its number, or where the number is stored once the recipe has got so far.
type handle struct {
	n  int         // below 0: not known
	at recipe.Addr // where it is stored, if n is not known
}

// arg is the descriptor as an argument of a call.
func (h *handle) arg() recipe.Arg {
	if h.n < 0 {
		return recipe.Load(h.at)
	}
	return recipe.Int(h.n)
}

func newTable(size int) *fdtable { return &fdtable{slots: make([]slot, size)} }

// lowest gives h the number that the kernel gives the next descriptor. It is not known if everything is taken.
func (t *fdtable) lowest(h *handle) {
	for n := range t.slots {
		if !t.slots[n].taken {
			h.n = n
			t.slots[n] = slot{true, h}
			return
		}
	}
	h.n = -1
}

// settle says that a number has what it is to have in the end.
func (t *fdtable) settle(n int) { t.slots[n] = slot{taken: true} }

// free says that a descriptor is closed.
func (t *fdtable) free(n int) {
	if n >= 0 && n < len(t.slots) {
		t.slots[n] = slot{}
	}
}

// occupant returns what holds a number for now, if that is not h.
func (t *fdtable) occupant(n int, h *handle) *handle {
	if o := t.slots[n].temp; o != h {
		return o
	}
	return nil
}
