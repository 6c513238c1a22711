package sandbox

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// leases is a bridge's directory while its lock is held: one file an address, which holds the container's id, and
// the file "next" with the address at which the next search starts. The file "spare", if it is there, was a lease.
type leases struct {
	dir  string
	net  netip.Prefix
	lock *sys.FileLock
}

func openLeases(dir string, subnet netip.Prefix) (*leases, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := sys.LockFile(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	return &leases{dir, subnet.Masked(), lock}, nil
}

func (l *leases) Close() error { return l.lock.Close() }

// taken returns the addresses that are leased.
func (l *leases) taken() (map[netip.Addr]bool, error) {
	d, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	taken := make(map[netip.Addr]bool, len(names))
	for _, name := range names {
		if addr, err := netip.ParseAddr(name); err == nil {
			taken[addr] = true
		}
	}
	return taken, nil
}

// take leases an address to id: the first free one after the one leased last, so that an address rests before it is
// used again.
func (l *leases) take(id string) (netip.Addr, error) {
	return l.next(func(file string) error { return l.create(file, id) })
}

// swap takes an address for the id to, and gives up that of the id from. It makes and removes no file, which is what
// costs most of a lease. Who dies in between leaves the old address to the new id.
func (l *leases) swap(old netip.Addr, from, to string) (netip.Addr, error) {
	lease := filepath.Join(l.dir, old.String())
	if holder, err := fetch(lease); err != nil || holder != from {
		return netip.Addr{}, errors.Join(fmt.Errorf("address %s is not leased to %s", old, from), err)
	}
	if err := overwrite(lease, to); err != nil {
		return netip.Addr{}, err
	}
	return l.next(func(file string) error {
		if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
			return cmp.Or(err, fs.ErrExist)
		}
		return os.Rename(lease, file) // we have the lock: nobody else makes it meanwhile
	})
}

// next tries to lease one address after the other, from the one after that which was leased last. An address is taken where
// lease, which is handed its file, says fs.ErrExist.
func (l *leases) next(lease func(file string) error) (netip.Addr, error) {
	gateway, last := gatewayOf(l.net), lastOf(l.net)
	addr := l.cursor()
	for range capacity(l.net) {
		if addr = addr.Next(); addr.Compare(last) >= 0 || addr.Compare(gateway) <= 0 {
			addr = gateway.Next()
		}
		err := lease(filepath.Join(l.dir, addr.String()))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = l.moveCursor(addr)
		}
		return addr, err
	}
	return netip.Addr{}, &snapshot.Error{Kind: snapshot.KindState, Op: "lease address", On: l.net.String(),
		Err: fmt.Errorf("all %d addresses are taken", capacity(l.net)), Hint: "remove containers, or configure a larger subnet"}
}

// cursor returns the address leased last, or the gateway's.
func (l *leases) cursor() netip.Addr {
	says, err := fetch(filepath.Join(l.dir, "next"))
	if err == nil {
		if addr, err := netip.ParseAddr(strings.TrimSpace(says)); err == nil && l.net.Contains(addr) {
			return addr
		}
	}
	return gatewayOf(l.net)
}

// create records a lease. Files are neither replaced nor cut short: file systems make that wait for the disk. Nor are they
// made and removed where it can be helped: ext4 looks at each inode freed in the last seconds before it takes a new one.
// Who dies in between leaves a lease of nobody, which the next one to free leases takes away.
func (l *leases) create(file, id string) error {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return cmp.Or(err, fs.ErrExist)
	}
	switch err := overwrite(l.spare(), id); {
	case err == nil:
		return os.Rename(l.spare(), file) // we have the lock: nobody else makes it meanwhile
	case errors.Is(err, fs.ErrNotExist):
		return store(file, id, syscall.O_CREAT|syscall.O_EXCL)
	default:
		return err
	}
}

// discard ends a lease. Its file is kept for the next one, if there is no other.
func (l *leases) discard(file string) error {
	if _, err := os.Lstat(l.spare()); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(file, l.spare())
	}
	return os.Remove(file)
}

func (l *leases) spare() string { return filepath.Join(l.dir, "spare") }

// overwrite records that a lease is another's.
func overwrite(file, id string) error {
	if err := store(file, id, 0); err != nil {
		return err
	}
	return os.Truncate(file, int64(len(id)))
}

func (l *leases) moveCursor(addr netip.Addr) error {
	const longest = len("255.255.255.255\n")
	return store(filepath.Join(l.dir, "next"), fmt.Sprintf("%-*s", longest, addr), syscall.O_CREAT)
}

// free ends the leases of all ids that gone says so of, and returns those ids and how many leases are left.
func (l *leases) free(gone func(id string) bool) (freed []string, left int, err error) {
	taken, err := l.taken()
	if err != nil {
		return nil, 0, err
	}
	for addr := range taken {
		file := filepath.Join(l.dir, addr.String())
		id, err := os.ReadFile(file)
		if err != nil {
			return freed, left, err
		}
		if len(id) > 0 && !gone(string(id)) {
			left++
			continue
		}
		if err := l.discard(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, left, err
		}
		if len(id) > 0 {
			freed = append(freed, string(id))
		}
	}
	return freed, left, nil
}

// give ends the lease of one address if it is id's, and says whether it was the last of all.
func (l *leases) give(addr netip.Addr, id string) (last bool, err error) {
	file := filepath.Join(l.dir, addr.String())
	holder, err := fetch(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case holder == id:
		if err := l.discard(file); err != nil {
			return false, err
		}
	}
	return l.none()
}

// none says whether no address is leased. It reads no more of the directory than it takes to find one.
func (l *leases) none() (bool, error) {
	fd, err := syscall.Open(l.dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false, &os.PathError{Op: "open", Path: l.dir, Err: err}
	}
	defer func() { _ = syscall.Close(fd) }()
	buffer := make([]byte, 256) // room for what else is there, and an address
	for {
		n, err := syscall.ReadDirent(fd, buffer)
		if err != nil {
			return false, &os.PathError{Op: "getdents", Path: l.dir, Err: err}
		}
		if n == 0 {
			return true, nil
		}
		_, _, names := syscall.ParseDirent(buffer[:n], -1, nil)
		for _, name := range names {
			if _, err := netip.ParseAddr(name); err == nil {
				return false, nil
			}
		}
	}
}

// gatewayOf returns the first address of the subnet after the network's own.
func gatewayOf(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }

// lastOf returns the subnet's last address, which is for broadcasts.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(b)
}

// Leases lists the ids of containers that hold an address of the bridge.
func (b Bridge) Leases() ([]string, error) {
	entries, err := os.ReadDir(b.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if _, err := netip.ParseAddr(e.Name()); err != nil {
			continue
		}
		id, err := os.ReadFile(filepath.Join(b.Dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // given back meanwhile
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, string(id))
	}
	return ids, nil
}

// Capacity returns how many containers the bridge's subnet has addresses for.
func (b Bridge) Capacity() int {
	if b.Check() != nil {
		return 0
	}
	return capacity(b.Subnet)
}

// capacity leaves out the network's own address, the gateway's, and the one for broadcasts.
func capacity(subnet netip.Prefix) int { return 1<<(32-subnet.Bits()) - 3 }
