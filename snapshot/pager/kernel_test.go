package pager

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

const modelPages = 48

// kernel is a model of a process whose memory is served: what its threads do to their memory, and in which order that is
// reported. A thread does not go on until all its events have been read, one after the other.
type kernel struct {
	rnd     *rand.Rand
	pages   [modelPages]modelPage
	threads []*thread
	queue   []*thread // whose first event can be read
	owed    owed
	born    []*kernel // children that are not served yet
	name    string
	log     []string
}

// modelPage is a page of the model.
type modelPage struct {
	mapped, served, present bool
	either                  bool // its content was thrown away during the fork that copied it
	id                      byte // what is missing there; 0: zeros
}

type thread struct {
	blocks   []block
	events   []func() // still to be read
	queued   bool
	child    *kernel // that is being forked
	removing map[int]bool
}

type block struct{ start, size int }

func addr(page int) uint64 { return uint64(page) * pageSize }

// newKernel returns a process whose threads have some memory each, of which everything is missing.
func newKernel(seed uint64, threads int) *kernel {
	k := &kernel{rnd: rand.New(rand.NewPCG(seed, uint64(threads)))}
	data := make([]byte, modelPages*pageSize)
	for i := range modelPages {
		data[i*pageSize] = byte(i + 1)
	}
	for i := range threads {
		t := &thread{}
		for j := range 2 {
			b := block{(j*threads + i) * 4, 4}
			t.blocks = append(t.blocks, b)
			k.owed.missing.put(segments{{start: addr(b.start), end: addr(b.start + b.size), data: data[addr(b.start):]}})
			for n := b.start; n < b.start+b.size; n++ {
				k.pages[n] = modelPage{mapped: true, served: true, id: byte(n + 1)}
			}
		}
		k.threads = append(k.threads, t)
	}
	return k
}

func (k *kernel) say(format string, args ...any) {
	k.log = append(k.log, k.name+fmt.Sprintf(format, args...))
}

// report queues an event that concerns the process and the children that are not served yet.
func (k *kernel) report(t *thread, f func(*owed), format string, args ...any) {
	t.events = append(t.events, func() {
		k.say("  read "+format, args...)
		f(&k.owed)
		for _, c := range k.born {
			f(&c.owed)
		}
	})
}

// step has one thing happen that may happen next: the pager reads an event, a thread queues one, or a thread acts.
func (k *kernel) step() {
	nr := k.rnd.IntN(len(k.threads) + 1)
	if nr < len(k.threads) {
		switch t := k.threads[nr]; {
		case t.queued:
		case len(t.events) > 0:
			k.queue, t.queued = append(k.queue, t), true
		default:
			k.act(nr)
		}
	} else if len(k.queue) > 0 {
		t := k.queue[0]
		k.queue, t.queued = k.queue[1:], false
		t.events[0]()
		t.events = t.events[1:]
	}
}

// changing says whether events are outstanding.
func (k *kernel) changing() bool {
	return slices.ContainsFunc(k.threads, func(t *thread) bool { return len(t.events) > 0 })
}

// act has a thread do something to one of its blocks.
func (k *kernel) act(nr int) {
	t := k.threads[nr]
	if len(t.blocks) == 0 {
		return
	}
	i := k.rnd.IntN(len(t.blocks))
	b := t.blocks[i]
	k.say("thread %d, %d+%d: ", nr, b.start, b.size)
	switch k.rnd.IntN(9) {
	case 0, 1, 2:
		k.move(t, i)
	case 3:
		k.grow(&t.blocks[i])
	case 4, 5:
		k.shrink(t, i)
	case 6:
		k.remove(t, b)
	case 7:
		k.mmap(t)
	case 8:
		if k.rnd.IntN(3) == 0 {
			k.fork(t)
		}
	}
}

// hole returns a random place for n pages, or -1.
func (k *kernel) hole(n int) int {
	var at []int
	for i := 0; i+n <= modelPages; i++ {
		if !slices.ContainsFunc(k.pages[i:i+n], func(p modelPage) bool { return p.mapped }) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return -1
	}
	return at[k.rnd.IntN(len(at))]
}

// served says whether all of a block is served.
func (k *kernel) served(b block) bool {
	return !slices.ContainsFunc(k.pages[b.start:b.start+b.size], func(p modelPage) bool { return !p.served })
}

// unmap takes pages away, with an event for each run that was served.
func (k *kernel) unmap(t *thread, start, size int) {
	for i := start; i < start+size; i++ {
		end := i
		for end < start+size && k.pages[end].served {
			end++
		}
		if from, to := addr(i), addr(end); end > i {
			k.report(t, func(o *owed) { o.unmapped(from, to) }, "unmap %d-%d", i, end)
			i = end
		}
	}
	clear(k.pages[start : start+size])
}

// move is mremap: elsewhere, larger or smaller, sometimes over another block of the thread, sometimes leaving empty
// memory behind.
func (k *kernel) move(t *thread, i int) {
	b := t.blocks[i]
	size := b.size
	switch k.rnd.IntN(4) {
	case 0:
		size += 1 + k.rnd.IntN(3)
	case 1:
		size -= k.rnd.IntN(size)
	}
	to := k.hole(size)
	over := k.rnd.IntN(len(t.blocks))
	onto := over != i && t.blocks[over].size >= size && k.rnd.IntN(3) == 0
	if onto {
		to = t.blocks[over].start
	}
	if to < 0 || !k.served(b) {
		return
	}
	k.say("move %d+%d to %d+%d", b.start, b.size, to, size)
	if onto {
		k.unmap(t, to, size)
	}
	if size < b.size {
		k.unmap(t, b.start+size, b.size-size)
		b.size = size
	}
	for n := to; n < to+size; n++ {
		k.pages[n] = modelPage{mapped: true, served: true}
	}
	copy(k.pages[to:], k.pages[b.start:b.start+b.size])
	k.report(t, func(o *owed) { o.moved(addr(b.start), addr(b.start+b.size), addr(to)) }, "move %d-%d to %d", b.start, b.start+b.size, to)
	if onto {
		t.blocks[over] = block{to + size, t.blocks[over].size - size}
	}
	t.blocks[i] = block{to, size}
	if k.rnd.IntN(4) == 0 {
		for n := b.start; n < b.start+b.size; n++ {
			k.pages[n] = modelPage{mapped: true, served: true}
		}
		t.blocks = append(t.blocks, b)
	} else {
		k.unmap(t, b.start, b.size)
	}
	t.blocks = slices.DeleteFunc(t.blocks, func(b block) bool { return b.size == 0 })
}

// grow is mremap in place, which is not reported.
func (k *kernel) grow(b *block) {
	for range 3 {
		end := b.start + b.size
		if end == modelPages || k.pages[end].mapped {
			return
		}
		k.pages[end] = modelPage{mapped: true, served: k.pages[end-1].served}
		b.size++
	}
	k.say("grows to %d", b.start+b.size)
}

// shrink is munmap of one end.
func (k *kernel) shrink(t *thread, i int) {
	b := &t.blocks[i]
	n, start := 1+k.rnd.IntN(b.size), b.start
	if k.rnd.IntN(2) == 0 {
		b.start += n
	} else {
		start += b.size - n
	}
	k.say("unmap %d+%d", start, n)
	k.unmap(t, start, n)
	if b.size -= n; b.size == 0 {
		t.blocks = slices.Delete(t.blocks, i, i+1)
	}
}

// remove is MADV_DONTNEED, which is done after its event has been read.
func (k *kernel) remove(t *thread, b block) {
	start := b.start + k.rnd.IntN(b.size)
	b = block{start, 1 + k.rnd.IntN(b.start+b.size-start)}
	if !k.served(b) {
		return
	}
	k.say("remove %d+%d", b.start, b.size)
	t.removing = make(map[int]bool)
	for n := b.start; n < b.start+b.size; n++ {
		t.removing[n] = true
	}
	t.events = append(t.events, func() {
		k.say("  read remove %d+%d", b.start, b.size)
		k.owed.removed(addr(b.start), addr(b.start+b.size))
		for n := range t.removing {
			k.pages[n].present, k.pages[n].id = false, 0
			for _, other := range k.threads {
				if other.child != nil {
					other.child.pages[n].either = true
				}
			}
		}
		t.removing = nil
	})
}

// mmap makes memory that is not served.
func (k *kernel) mmap(t *thread) {
	n := 1 + k.rnd.IntN(3)
	at := k.hole(n)
	if at < 0 {
		return
	}
	k.say("new %d+%d", at, n)
	for i := at; i < at+n; i++ {
		k.pages[i] = modelPage{mapped: true}
	}
	t.blocks = append(t.blocks, block{at, n})
}

// fork makes a child whose only thread has the memory of this one.
func (k *kernel) fork(t *thread) {
	k.say("fork")
	t.child = &kernel{rnd: k.rnd, pages: k.pages, log: k.log, name: k.name + "child: ", threads: []*thread{{blocks: slices.Clone(t.blocks)}}}
	for _, other := range k.threads {
		for n := range other.removing {
			t.child.pages[n].either = true
		}
	}
	t.events = append(t.events, func() {
		k.say("  read fork")
		t.child.owed = k.owed.forked()
		k.born = append(k.born, t.child)
		t.child = nil
	})
}
