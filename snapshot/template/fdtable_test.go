package template

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"

	"github.com/snapd-ctr/snapd-ctr/snapshot/template/recipe"
)

// fakeKernel makes calls as far as they are about descriptors. Every call that opens something makes a new object.
type fakeKernel struct {
	open map[int]fakeFile
	next int
}

type fakeFile struct {
	object  int
	cloexec bool
}

func (k *fakeKernel) lowest(from int) int {
	for ; ; from++ {
		if _, taken := k.open[from]; !taken {
			return from
		}
	}
}

func (k *fakeKernel) create(flags uint64) int {
	n := k.lowest(0)
	k.open[n] = fakeFile{k.next, flags&syscall.O_CLOEXEC != 0}
	k.next++
	return n
}

func (k *fakeKernel) call(call recipe.Call, a [6]uint64, mem []byte) int64 {
	fd := int(int32(a[0]))
	f, ok := k.open[fd]
	switch call {
	case recipe.Eventfd2:
		return int64(k.create(a[1]))
	case recipe.Openat:
		return int64(k.create(a[2]))
	case recipe.Pipe2:
		at := mem[a[0]-uint64(replayBase):]
		binary.LittleEndian.PutUint32(at, uint32(k.create(a[1])))
		binary.LittleEndian.PutUint32(at[4:], uint32(k.create(a[1])))
		return 0
	}
	if !ok {
		return -int64(syscall.EBADF)
	}
	switch to := int(int32(a[1])); {
	case call == recipe.Dup3 && fd == to:
		return -int64(syscall.EINVAL)
	case call == recipe.Dup3:
		k.open[to] = fakeFile{f.object, a[2] == syscall.O_CLOEXEC}
		return int64(to)
	case call == recipe.Close:
		delete(k.open, fd)
	case call == recipe.Fcntl && to == fDupfdCloexec:
		n := k.lowest(int(a[2]))
		k.open[n] = fakeFile{f.object, true}
		return int64(n)
	case call == recipe.Fcntl && to == fSetfd:
		k.open[fd] = fakeFile{f.object, a[2] == fdCloexec}
	default:
		return -int64(syscall.ENOSYS)
	}
	return 0
}

// run makes the calls of a recipe and returns what failed.
func (k *fakeKernel) run(r *recipe.Recipe) error {
	n := r.Len()
	at := r.Store()
	mem := r.Data().Memory()
	le := binary.LittleEndian
	word := func(a uint64) uint64 { return le.Uint64(mem[a-uint64(replayBase):]) }
	for i := range n {
		op := uint64(at) + uint64(i*72)
		head := word(op)
		var a [6]uint64
		for j := range a {
			if a[j] = word(op + 8 + uint64(8*j)); head>>48>>j&1 == 1 {
				a[j] = word(a[j])
			}
		}
		result := k.call(recipe.Call(uint32(head)), a, mem)
		if out := word(op + 56); out != 0 {
			le.PutUint64(mem[out-uint64(replayBase):], uint64(result))
		}
		if flags := uint16(head >> 32); flags&2 != 0 && result != int64(word(op+64)) || flags&2 == 0 && result < 0 {
			return fmt.Errorf("call %d, %s: %d, want %d", i, r.What(i), result, int64(word(op+64)))
		}
	}
	return nil
}

// randomDescriptors has up to high descriptors of fewer files.
func randomDescriptors(rnd *rand.Rand, high int) *descriptors {
	data := recipe.NewData(replayBase)
	d := &descriptors{c: &compiler{high: high, data: data}, r: data.New(), table: newTable(high),
		byID: make(map[uint32][]*fdinfo.FdinfoEntry), words: make(map[string]recipe.Addr)}
	numbers := rnd.Perm(high)[:1+rnd.IntN(high)]
	slices.Sort(numbers)
	for _, n := range numbers {
		id := uint32(len(d.ids) + 1)
		if len(d.ids) > 0 && rnd.IntN(3) == 0 {
			id = d.ids[rnd.IntN(len(d.ids))]
		} else {
			d.ids = append(d.ids, id)
		}
		d.byID[id] = append(d.byID[id], &fdinfo.FdinfoEntry{Fd: new(uint32(n)), Flags: new(uint32(rnd.IntN(2))), Id: new(id)})
	}
	return d
}

func TestDescriptorsLandOnTheirNumbers(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		high := 1 + rnd.IntN(12)
		d := randomDescriptors(rnd, high)
		object := make(map[uint32]int) // by id
		made := 0
		for left := slices.Clone(d.ids); len(left) > 0; {
			id, flags := left[0], uint32(rnd.IntN(2)*syscall.O_CLOEXEC)
			left = left[1:]
			switch what := rnd.IntN(4); {
			case what == 0 && len(left) > 0: // a pair, in any order, and one of its members once more
				k := rnd.IntN(len(left))
				other := left[k]
				left = slices.Delete(left, k, k+1)
				a, b := d.pair(id, "pair", recipe.Pipe2, 0, recipe.Arg{}, recipe.Int(flags))
				object[id], object[other] = made, made+1
				if rnd.IntN(2) == 0 {
					a, b = b, a
					object[id], object[other] = made+1, made
				}
				made += 2
				d.place(a, id, flags)
				d.place(b, other, flags)
			case what == 1: // half of a pair
				a, b := d.pair(id, "half", recipe.Pipe2, 0, recipe.Arg{}, recipe.Int(flags))
				object[id] = made
				made += 2
				d.place(a, id, flags)
				d.drop(b)
			case what == 2: // with a helper
				h := d.aside(d.make(id, "helper", recipe.Eventfd2, recipe.Int(0), recipe.Int(0)))
				object[id] = made + 1
				made += 2
				d.place(d.make(id, "make", recipe.Eventfd2, recipe.Int(0), recipe.Int(flags)), id, flags)
				d.drop(h)
			default:
				object[id] = made
				made++
				d.place(d.make(id, "make", recipe.Eventfd2, recipe.Int(0), recipe.Int(flags)), id, flags)
			}
		}
		d.check()

		k := &fakeKernel{open: make(map[int]fakeFile)}
		for range rnd.IntN(4) { // what is open above is nobody's business
			k.open[high+rnd.IntN(6)] = fakeFile{object: -1}
		}
		above := len(k.open)
		if err := k.run(d.r); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for id, fds := range d.byID {
			for _, e := range fds {
				n := int(e.GetFd())
				want := fakeFile{object[id], e.GetFlags()&fdCloexec != 0}
				if got, ok := k.open[n]; !ok || got != want {
					t.Fatalf("seed %d: descriptor %d is %v (%v), want %v", seed, n, got, ok, want)
				}
				delete(k.open, n)
			}
		}
		if len(k.open) != above {
			t.Fatalf("seed %d: left open: %v", seed, k.open)
		}
	}
}

func TestWrongPredictionFails(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		d := randomDescriptors(rnd, 8)
		for _, id := range d.ids {
			d.place(d.make(id, "make", recipe.Eventfd2, recipe.Int(0), recipe.Int(0)), id, 0)
		}
		d.check()
		k := &fakeKernel{open: map[int]fakeFile{0: {object: -1}}}
		if err := k.run(d.r); err == nil {
			t.Fatalf("seed %d: descriptor 0 was open, and nobody noticed", seed)
		}
	}
}
