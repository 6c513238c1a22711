// Package api is what snapd-ctr can do, as one interface: the command line calls it, and whether the work is done in
// the same process ([Local]) or by a service on the other end of a socket is not its business.
//
// Errors are [*snapshot.Error] wherever the caller can do something about them: the kind decides the exit code, the
// hint tells the user what to do next.
package api

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// Service is the whole of snapd-ctr.
//
// A ref to a container is its name, its id, or a unique beginning of its id. A ref to a snapshot is its name, its id
// ("sha256:…", or the hexadecimal digits alone), or a unique beginning of them.
type Service interface {
	Run(ctx context.Context, r RunRequest) (*snapshot.Container, error)
	Snapshot(ctx context.Context, r SnapshotRequest) (*SnapshotResult, error)
	// Clone makes r.Count containers. It returns those that run even when others failed; the error is then of kind
	// partial.
	Clone(ctx context.Context, r CloneRequest) ([]*snapshot.Container, error)

	// BuildTemplate builds the snapshot's template, unless it is there, and keeps it until RemoveTemplate, also without
	// clones. fresh says that it was not there before.
	BuildTemplate(ctx context.Context, ref string) (t *Template, fresh bool, err error)
	// Templates lists the templates that are there. Those that are known are returned with an error, too.
	Templates(ctx context.Context) ([]*Template, error)
	// RemoveTemplate ends the snapshot's template. Its clones live on, and the next clone builds another.
	RemoveTemplate(ctx context.Context, ref string) error

	// Fork makes r.Count clones of a container that runs, as Clone does, all of the same instant. The container goes on.
	Fork(ctx context.Context, r ForkRequest) ([]*snapshot.Container, error)

	Containers(ctx context.Context, all bool) ([]*snapshot.Container, error)
	Container(ctx context.Context, ref string) (*snapshot.Container, error)
	// Exec runs a program in a running container and returns its exit status: its exit code, or 128 plus the signal
	// that ended it.
	Exec(ctx context.Context, ref string, r ExecRequest) (status int, err error)
	// Logs copies what the container wrote to w. With r.Follow it goes on until the container exits or ctx ends.
	Logs(ctx context.Context, ref string, r LogsRequest) error
	// Stop sends SIGTERM, waits for grace, and then kills.
	Stop(ctx context.Context, ref string, grace time.Duration) error
	Kill(ctx context.Context, ref string, signal string) error
	// Remove deletes an exited container and its files; with force a running one is killed first.
	Remove(ctx context.Context, ref string, force bool) error
	// Usage says what a running container's processes use of memory.
	Usage(ctx context.Context, ref string) (*Usage, error)
	// Wait returns the container's exit status once it has exited.
	Wait(ctx context.Context, ref string) (status int, err error)

	Snapshots(ctx context.Context) ([]*snapshot.Snapshot, error)
	InspectSnapshot(ctx context.Context, ref string) (*Inspection, error)
	DiffSnapshots(ctx context.Context, a, b string) (*Difference, error)
	// VerifySnapshot reads every blob of the snapshot and checks it against its digest, and the images for sense.
	VerifySnapshot(ctx context.Context, ref string) error
	RemoveSnapshot(ctx context.Context, ref string) error
	TagSnapshot(ctx context.Context, ref, name string) error
	ExportSnapshot(ctx context.Context, ref string, w io.Writer, format ArchiveFormat) error
	// ImportSnapshot reads an archive of either format, which it recognises by itself.
	ImportSnapshot(ctx context.Context, archive io.Reader, r ImportRequest) (*snapshot.Snapshot, error)
	// GC deletes blobs and caches that no snapshot, container or running operation needs.
	GC(ctx context.Context, dryRun bool) (*GCResult, error)
	// Fsck checks the store and what containers left on the host. With repair it mends what can be mended.
	Fsck(ctx context.Context, repair bool) ([]Problem, error)
	Close() error
}

// RunRequest asks for a new container. Exactly one of Image, Rootfs and Bundle is set.
type RunRequest struct {
	Name     string // empty: made from the id
	Image    string // OCI layout directory, OCI or docker archive, root file system tar, or a registry reference
	Rootfs   string // a directory to be used, read-only, beneath the container's own files
	Bundle   string // an OCI bundle: config.json and its rootfs
	Args     []string
	Env      []string
	Workdir  string
	User     string // UID[:GID] or NAME[:GROUP] of the container's /etc/passwd
	Hostname string
	Volumes  []string // SOURCE:TARGET[:ro]
	Limits   snapshot.Limits
	Network  string // "bridge" (default), "host", "none"
	Insecure bool   // registry over plain HTTP
	Remove   bool   // remove the container once it has exited
}

// SnapshotRequest asks for a snapshot of a container.
type SnapshotRequest struct {
	Container string // ref of one of ours
	Runtime   string // or: "docker:ID", "podman:ID", "containerd:[NAMESPACE/]ID", "runc:ID"
	Name      string
	Replace   bool   // move the name when it is taken
	Stop      bool   // the container ends with the snapshot; it ends only once the snapshot is safe in the store
	Ready     string // http://[HOST]:PORT/PATH that must answer 2xx first; an empty host is the container's address
	Warm      int    // requests to send to Ready before the capture
	Timeout   time.Duration
	Progress  func(Progress) // called from one goroutine at a time; may be nil
}

// Progress is where an operation stands.
type Progress struct {
	Phase string
	Done  int64 // of Total; both 0 where there is nothing to count
	Total int64
}

// SnapshotResult is what a capture made.
type SnapshotResult struct {
	Snapshot *snapshot.Snapshot `json:"snapshot"`
	FrozenMS float64            `json:"frozen_ms"` // how long no process of the container ran
	TotalMS  float64            `json:"total_ms"`
	Phases   []snapshot.Phase   `json:"phases"`
	Stopped  bool               `json:"stopped"`
}

// CloneRequest asks for clones of a snapshot.
type CloneRequest struct {
	Snapshot string
	Name     string // of the clone; with Count > 1 a prefix: NAME-1, NAME-2, …; empty: made from the id
	Count    int
	Parallel int              // how many at once; 0: twice as many as processors
	Engine   string           // one of the engines; empty: EngineAuto
	Limits   *snapshot.Limits // nil: those of the snapshot
	Hostname string           // empty: the clone's name
}

// ForkRequest asks for clones of a running container. Fields of the same name are those of [CloneRequest].
type ForkRequest struct {
	Container string // ref of one of ours
	Name      string
	Count     int
	Parallel  int
	Engine    string
	Limits    *snapshot.Limits
	Progress  func(Progress) // of the capture; may be nil
}

// ExecRequest asks for a program to be run in a container.
type ExecRequest struct {
	Args    []string
	Env     []string // added to the container's own
	Workdir string
	User    string
	TTY     bool // give it a terminal; Stdin must then be one, which the caller has made raw
	Stdin   *os.File
	Stdout  *os.File
	Stderr  *os.File
}

// LogsRequest says which part of a log is wanted, and where it goes.
type LogsRequest struct {
	Follow     bool
	Tail       int // lines from the end; negative: all
	Timestamps bool
	Stdout     io.Writer
	Stderr     io.Writer
}

// Inspection is a snapshot seen from inside, read from CRIU's images.
type Inspection struct {
	Snapshot  *snapshot.Snapshot `json:"snapshot"`
	Processes []ProcessView      `json:"processes"`
}

// ProcessView is one process of a snapshot.
type ProcessView struct {
	snapshot.Process
	Args     []string  `json:"args"`
	Mappings []Mapping `json:"mappings"`
	Files    []File    `json:"files"`
}

// Mapping is one memory mapping.
type Mapping struct {
	Start   uint64 `json:"start"`
	End     uint64 `json:"end"`
	Prot    string `json:"prot"` // "rwxp", as /proc/PID/maps has it
	Kind    string `json:"kind"` // "anon", "file", "stack", "vdso", "shared", …
	Name    string `json:"name,omitempty"`
	Present int64  `json:"present_bytes"` // stored for this mapping
}

// File is one open descriptor.
type File struct {
	FD   int    `json:"fd"`
	Kind string `json:"kind"` // "regular", "pipe", "tcp", "unix", "epoll", …
	Name string `json:"name,omitempty"`
}

// Difference is what two snapshots do not share.
type Difference struct {
	A           string   `json:"a"`
	B           string   `json:"b"`
	PagesShared int64    `json:"pages_shared"` // at the same address of the same process, with the same content
	PagesOnlyA  int64    `json:"pages_only_a"`
	PagesOnlyB  int64    `json:"pages_only_b"`
	PagesDiffer int64    `json:"pages_differ"`
	Files       []Change `json:"files"`
	Processes   []Change `json:"processes"`
}

// Change is one thing that differs: Sign is "+", "-" or "~".
type Change struct {
	Sign string `json:"sign"`
	What string `json:"what"`
}

// ArchiveFormat names a file format for a snapshot.
type ArchiveFormat string

// The archive formats.
const (
	ArchiveOCI    ArchiveFormat = "oci"    // an OCI image layout in a tar: everything, ours
	ArchivePodman ArchiveFormat = "podman" // the checkpoint archive of podman and CRI-O, which checkpointctl reads
)

// ImportRequest says how an archive is taken in.
type ImportRequest struct {
	Name string // empty: the name that the archive gives it
	// Base is an image, or a directory, that a podman archive stands on: such an archive holds only the container's own
	// files. Empty: the image that the archive names, if it was pulled here before.
	Base string
	// Trust accepts an archive whose clones are given paths of this host: volumes.
	Trust bool
}

// GCResult is what a garbage collection deleted, or would.
type GCResult struct {
	Blobs  int      `json:"blobs"`
	Caches int      `json:"caches"`
	Bytes  int64    `json:"bytes"`
	Paths  []string `json:"paths"`
}

// Problem is something that fsck found.
type Problem struct {
	Where    string `json:"where"`
	What     string `json:"what"`
	Repaired bool   `json:"repaired"`
	Remedy   string `json:"remedy,omitempty"`
}
