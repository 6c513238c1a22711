package snapshot

import (
	"encoding/json"
	"net/netip"
	"time"
)

// ConfigVersion is the version of [Config] that this code writes.
const ConfigVersion = 1

// Config is the record of one snapshot: the config blob of its manifest. It holds everything a clone needs to know
// that is not in CRIU's images, and what `snapshots inspect` prints. docs/store-format.md describes it.
type Config struct {
	Version      int       `json:"version"`
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"` // GOARCH
	Kernel       string    `json:"kernel"`       // uname -r of the capturing host
	CRIU         string    `json:"criu"`         // version, "4.2.1"

	Source    Source          `json:"source"`
	Args      []string        `json:"args"` // of init
	Limits    Limits          `json:"limits"`
	Network   Network         `json:"network"`   // of the container when it was captured
	Listeners []Listener      `json:"listeners"` // sockets that listen, in file order
	ClosedTCP int             `json:"closed_tcp"`
	Base      Base            `json:"base"`
	Mounts    []Mount         `json:"mounts"`
	Stdio     [3]string       `json:"stdio"`             // external resource of descriptor 0, 1, 2 of init ("pipe:[123]", "file[1b:4d2]", "tty[8800:17]"), or ""
	NetnsKey  string          `json:"netns_key"`         // inherit-fd key of the network namespace, "" when it is the host's
	Spec      json.RawMessage `json:"spec,omitempty"`    // OCI runtime spec of the container
	Volumes   []string        `json:"volumes,omitempty"` // SOURCE:TARGET[:ro], shared by all clones

	Processes []Process `json:"processes"`
	Memory    Memory    `json:"memory"`
	Findings  []Finding `json:"findings,omitempty"` // what a clone will see that differs from the original
	Engines   []Verdict `json:"engines"`
	Phases    []Phase   `json:"phases"` // how long each step of the capture took
}

// Source says which container a snapshot was taken of.
type Source struct {
	Runtime  string `json:"runtime"` // "own", "runc", "docker", "containerd", "podman"
	ID       string `json:"id"`
	Name     string `json:"name,omitempty"`
	Image    string `json:"image,omitempty"`
	Hostname string `json:"hostname"`
	Snapshot string `json:"snapshot,omitempty"` // the snapshot which the container was a clone of
}

// MountKind says who makes a mount again in a clone, and of what.
type MountKind string

// The kinds of mount.
const (
	MountRoot   MountKind = "root"   // the root file system; the sandbox's overlay
	MountNative MountKind = "native" // CRIU makes it again by itself (proc, sysfs, devpts, mqueue, bind of one of them)
	MountTmpfs  MountKind = "tmpfs"  // a fresh tmpfs of the clone's own with the captured content
	MountBind   MountKind = "bind"   // a path of the host, shared: a volume
	MountFile   MountKind = "file"   // a private copy of a captured file or directory (resolv.conf, hosts, …)
	MountNull   MountKind = "null"   // the host's /dev/null over a masked file
	MountCgroup MountKind = "cgroup" // the clone's own directory of one cgroup hierarchy
)

// Mount is one mount of a container and how a clone gets it. The order of a slice of mounts is that of mountinfo.
type Mount struct {
	Path    string    `json:"path"` // inside the container
	FSType  string    `json:"fstype"`
	Kind    MountKind `json:"kind"`
	Key     string    `json:"key,omitempty"`     // name of the CRIU external mount; empty for root and native
	Source  string    `json:"source,omitempty"`  // bind: the host path; cgroup: the controller's hierarchy ("memory")
	Sub     string    `json:"sub,omitempty"`     // path below the source's own root (mountinfo's root field) where it matters
	Options string    `json:"options,omitempty"` // tmpfs, and native with a file system of its own: super block options, "mode=755,size=65536k"
	Flags   []string  `json:"flags,omitempty"`   // per-mount options of mountinfo: "ro", "nosuid", …
	Content string    `json:"content,omitempty"` // digest of the tar blob with the content (tmpfs, file), "" when empty

	// The engine "template" needs these. Snapshots that were taken before they were recorded have none of them.
	On   string `json:"on,omitempty"`   // path of the mount that it is mounted on: its own where it covers that; "" for the root
	From string `json:"from,omitempty"` // native: path of the mount that it is a bind of; "" with a file system of its own
	Part string `json:"part,omitempty"` // native: path of what it shows below the root of From; "" for all of it
}

// Process is one process of a snapshot.
type Process struct {
	Pid     int    `json:"pid"` // as the container sees it
	PPid    int    `json:"ppid"`
	Comm    string `json:"comm"`
	Threads int    `json:"threads"`
	UID     uint32 `json:"uid"`
	Bytes   int64  `json:"bytes"` // memory stored for it
}

// Listener is a socket that takes connections or datagrams.
type Listener struct {
	Proto   string     `json:"proto"` // "tcp" or "udp"
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
}

// Memory says what became of the pages of all processes.
type Memory struct {
	Pages     int64 `json:"pages"`      // pages that CRIU wrote, of 4096 bytes
	ZeroPages int64 `json:"zero_pages"` // of those, pages that held nothing but zeros and are not stored
	Bytes     int64 `json:"bytes"`      // stored
}

// Finding is something that a user should know about a snapshot.
type Finding struct {
	Code   string `json:"code"` // stable, for programs: "tcp-closed", "bound-to-address", "shared-volume"
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
}

// The engines.
const (
	EngineCRIU     = "criu"     // has CRIU restore a snapshot
	EngineTemplate = "template" // forks a resident process that has the snapshot's memory
	EngineAuto     = "auto"     // the template engine where it can, else CRIU
)

// Verdict says whether an engine can clone a snapshot, and if not, why.
type Verdict struct {
	Engine string   `json:"engine"`
	OK     bool     `json:"ok"`
	Why    []string `json:"why,omitempty"`
}

// Phase is one timed step of an operation.
type Phase struct {
	Name string  `json:"name"`
	MS   float64 `json:"ms"`
}

// Snapshot is a snapshot in the store.
type Snapshot struct {
	ID     string   `json:"id"`    // digest of the manifest, "sha256:…"
	Names  []string `json:"names"` // sorted
	Config Config   `json:"config"`
	Layers []Layer  `json:"layers"`
	Bytes  int64    `json:"bytes"` // of all its blobs
	// Damage says which of its blobs are missing or have another size than they should; empty when none. It is a look
	// at the file system: a blob whose content has changed shows only in a verification.
	Damage string `json:"damage,omitempty"`
}

// Layer is one blob of a snapshot, and its role.
type Layer struct {
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
	Role      string `json:"role"`           // one of the Role constants
	Name      string `json:"name,omitempty"` // pages: the image file's name; content: the mount's key
}

// The roles of layers.
const (
	RoleBase    = "base"    // an OCI layer beneath the container's own files
	RoleRootfs  = "rootfs"  // the container's own files, an OCI layer: the topmost
	RoleImages  = "images"  // a tar of CRIU's image files, all but the pages
	RolePages   = "pages"   // one of CRIU's pages files, raw
	RoleContent = "content" // a tar with the content of one mount
)

// Media types of what we store. Base and rootfs layers carry OCI's own.
const (
	ArtifactType   = "application/vnd.snapd-ctr.snapshot.v1"
	MediaConfig    = "application/vnd.snapd-ctr.snapshot.config.v1+json"
	MediaImages    = "application/vnd.snapd-ctr.snapshot.images.v1.tar"
	MediaPages     = "application/vnd.snapd-ctr.snapshot.pages.v1"
	MediaContent   = "application/vnd.snapd-ctr.snapshot.content.v1.tar"
	AnnotationRole = "dev.snapd-ctr.role"
	AnnotationName = "dev.snapd-ctr.name"
)
