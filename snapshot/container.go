package snapshot

import (
	"net/netip"
	"time"
)

// Status is where a container is in its life.
type Status string

// The statuses of a container.
const (
	StatusCreating Status = "creating" // being made; not listed
	StatusRunning  Status = "running"
	StatusExited   Status = "exited"
	StatusDamaged  Status = "damaged" // its record cannot be read: nothing but its id is known
)

// Container is the record of one of our containers. Its shim writes it, atomically, whenever it changes; everybody
// else reads it. It lies in the container's directory as container.json.
type Container struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Status  Status    `json:"status"`
	Created time.Time `json:"created"`

	// Pid is the container's init as the host sees it, StartTime the field of the same name in /proc/PID/stat
	// (clock ticks since boot) and BootID the host's boot: the three together name a process for good.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
	BootID    string `json:"boot_id,omitempty"`

	// ExitStatus is the exit code of init, or 128 plus the signal that ended it. It is meaningful when Status is
	// StatusExited and ExitKnown is true; a container whose shim was killed exits with a status nobody saw.
	ExitStatus int       `json:"exit_status"`
	ExitKnown  bool      `json:"exit_known"`
	Finished   time.Time `json:"finished,omitzero"`

	Image    string `json:"image,omitempty"`    // what run was given: a reference, a path
	Snapshot string `json:"snapshot,omitempty"` // the id of the snapshot it is a clone of
	Engine   string `json:"engine,omitempty"`   // the engine that cloned it: "criu", "template"
	// EngineWhy says why the template engine did not make a clone for which that was left open.
	EngineWhy string `json:"engine_why,omitempty"`
	// CloneMS is the time from the clone request's arrival at the shim until every process of the clone was running.
	CloneMS float64 `json:"clone_ms,omitempty"`
	Phases  []Phase `json:"phases,omitempty"` // where that time went

	Hostname string   `json:"hostname"`
	Network  Network  `json:"network"`
	Base     Base     `json:"base"`      // what lies beneath the container's own files
	Cgroup   string   `json:"cgroup"`    // path below each cgroup hierarchy, starting with "/"
	ShimAddr string   `json:"shim_addr"` // path of the unix socket of the shim that is its parent
	ShimPid  int      `json:"shim_pid"`
	Args     []string `json:"args"`
	Limits   Limits   `json:"limits"`
	// AutoRemove has the container deleted once it has exited.
	AutoRemove bool `json:"auto_remove,omitempty"`
	// LogMaxBytes is how long its log becomes before a new one is begun; the one before is kept. Zero means no limit.
	LogMaxBytes int64    `json:"log_max_bytes,omitempty"`
	Volumes     []string `json:"volumes,omitempty"` // SOURCE:TARGET[:ro]
}

// Network is how a container is attached.
type Network struct {
	Mode    string     `json:"mode"` // "bridge", "host" or "none"
	Bridge  string     `json:"bridge,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	Bits    int        `json:"bits,omitempty"` // prefix length of the bridge's subnet
	Gateway netip.Addr `json:"gateway,omitzero"`
	MAC     string     `json:"mac,omitempty"`
	// Aliases are addresses that processes bound themselves to before a snapshot and that the clone still answers
	// on, next to its own address.
	Aliases []netip.Addr `json:"aliases,omitempty"`
}

// Limits are the resource limits of a container's cgroup. Zero means no limit.
type Limits struct {
	MemoryBytes int64   `json:"memory_bytes,omitempty"`
	CPUs        float64 `json:"cpus,omitempty"` // 1.5 is one and a half processors
	Pids        int64   `json:"pids,omitempty"`
}

// Base is what lies beneath a container's own files: the lower layers of its overlay.
type Base struct {
	// Dir is a directory on this host at the very bottom. It belongs to the user who named it, is used read-only and
	// must not change while containers or snapshots stand on it. Empty when the base is made of layers only.
	Dir string `json:"dir,omitempty"`
	// Layers are digests of layer blobs in the store (OCI layer tars), bottom first, above Dir.
	Layers []string `json:"layers,omitempty"`
}
