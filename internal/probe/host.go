package probe

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/snapd-ctr/snapd-ctr/internal/sys"
)

// Host returns the probes of the kernel and of this process's rights, those first that others rest on.
func Host() []Probe {
	probes := []Probe{privileges(), resource()}
	probes = append(probes, namespaces()...)
	probes = append(probes,
		forTemplates(try("clone3-set-tid", "restored processes and threads get the ids that they had",
			"run with CAP_CHECKPOINT_RESTORE, and let no seccomp filter refuse clone3 (kernel 5.9)", true, sys.TryCloneSetTID)),
		try("pidfd", "signals and waits that cannot hit another process with the same id",
			"use a kernel of 5.6 or newer, and let no seccomp filter refuse pidfd_open", true, sys.TryPidfd),
		forTemplates(try("mount-api", "mounts that are prepared before they are attached",
			"use a kernel of 5.12 or newer, and run with CAP_SYS_ADMIN", true, sys.TryMountAPI)),
		try("tmpfs", "CRIU's images while a container is frozen, and tmpfs mounts of containers",
			"build the kernel with CONFIG_TMPFS", true, tryTmpfs),
		try("overlayfs", "each container has files of its own above a shared base",
			"load the module overlay (CONFIG_OVERLAY_FS)", true, tryOverlay),
		network(), nftables(), cgroups(),
		try("seccomp", "system call filters of containers",
			"build the kernel with CONFIG_SECCOMP_FILTER", false, sys.TrySeccompFilter),
		try("userfaultfd-wp-async", "tracking of written memory without stopping the container for each page",
			"use a kernel of 6.7 or newer with CONFIG_USERFAULTFD, and run with CAP_SYS_PTRACE", false, sys.TryUserfaultAsync),
		try("pagemap-scan", "finding the pages to be captured in one walk",
			"use a kernel of 6.7 or newer; without it the page map is read entry by entry", false, sys.TryPagemapScan),
		try("soft-dirty", "CRIU's own tracking of written memory, for captures in several rounds",
			"build the kernel with CONFIG_MEM_SOFT_DIRTY; userfaultfd-wp-async can do the same", false, sys.TrySoftDirty),
		try("timer-restore-ids", "restoring POSIX timers with large ids without making all smaller ones first, and timers in forks of templates",
			"use a kernel of 6.15 or newer; without it snapshots with POSIX timers are cloned by CRIU", false, sys.TryTimerRestoreIDs),
	)
	return append(probes, templates()...)
}

// Numbers of capabilities, as in linux/capability.h.
const (
	capDACOverride = 1
	capNetAdmin    = 12
	capSysPtrace   = 19
	capSysAdmin    = 21
	capSysResource = 24
)

func privileges() Probe {
	const name = "privileges"
	return try(name, "everything: namespaces, mounts, cgroups, reading the memory of processes",
		"run as root, in a container with --privileged", true, func() error {
			if uid := os.Geteuid(); uid != 0 {
				return fmt.Errorf("the user is %d, not root", uid)
			}
			caps, err := effective()
			if err != nil {
				return err
			}
			var missing []string
			for _, c := range []struct {
				bit  int
				name string
			}{{capDACOverride, "CAP_DAC_OVERRIDE"}, {capNetAdmin, "CAP_NET_ADMIN"}, {capSysPtrace, "CAP_SYS_PTRACE"}, {capSysAdmin, "CAP_SYS_ADMIN"}} {
				if caps&(1<<c.bit) == 0 {
					missing = append(missing, c.name)
				}
			}
			if len(missing) > 0 {
				return fmt.Errorf("%s missing", strings.Join(missing, ", "))
			}
			return nil
		})
}

func resource() Probe {
	return try("cap-sys-resource", "capturing processes of another user than CRIU's own, and limits above the hard ones",
		"run with CAP_SYS_RESOURCE; without it run the container's processes as root", false, func() error {
			caps, err := effective()
			if err == nil && caps&(1<<capSysResource) == 0 {
				err = fmt.Errorf("CAP_SYS_RESOURCE is not among the effective capabilities (%x)", caps)
			}
			return err
		})
}

// effective returns the effective capabilities of this thread.
func effective() (uint64, error) {
	b, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, fmt.Errorf("/proc/thread-self/status has no CapEff")
}

func namespaces() []Probe {
	var ps []Probe
	for _, n := range []struct {
		name     string
		flag     uintptr
		need     string
		required bool
		config   string
	}{
		{"pid", syscall.CLONE_NEWPID, "clones have the process ids of the original", true, "CONFIG_PID_NS"},
		{"mnt", syscall.CLONE_NEWNS, "clones have the paths of the original", true, "CONFIG_NAMESPACES"},
		{"net", syscall.CLONE_NEWNET, "clones listen on the ports of the original", true, "CONFIG_NET_NS"},
		{"ipc", syscall.CLONE_NEWIPC, "clones have shared memory of their own", true, "CONFIG_IPC_NS"},
		{"uts", syscall.CLONE_NEWUTS, "clones have a host name of their own", true, "CONFIG_UTS_NS"},
		{"cgroup", syscall.CLONE_NEWCGROUP, "containers that look at their own cgroup", false, "CONFIG_CGROUPS"},
		{"time", syscall.CLONE_NEWTIME, "clocks of restored processes go on where they stopped", false, "CONFIG_TIME_NS"},
	} {
		p := try("namespace-"+n.name, n.need,
			fmt.Sprintf("build the kernel with %s, run with CAP_SYS_ADMIN and let no seccomp filter refuse unshare", n.config),
			n.required, func() error { return sys.InNewNamespaces(n.flag, nil) })
		p.Template = n.name == "time"
		ps = append(ps, p)
	}
	return ps
}
