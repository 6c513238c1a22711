// Package shim is the conversation between snapd-ctr and the shim, the process that is the parent of containers.
//
// One shim serves one container that was run, or all clones of one snapshot. It holds what must live as long as its
// containers and must vanish with them: it has a mount namespace of its own, in which their root file systems are
// mounted, and the descriptors of their network namespaces. It leaves no mount on the host.
//
// A client connects to the shim's unix socket and sends one request, a line of JSON; descriptors that a request needs
// travel with its first byte. The shim answers with lines of JSON, the last of which has done set. A client that goes
// away, or closes its sending half, cancels its request: what was half made is undone before the answer.
//
// A shim ends by itself a while after its last container has exited: the container's record says everything. Asked to end
// (SIGTERM), it kills its containers and clears them away. When it is killed its containers live on with nobody to read
// their output; [Sweep] clears them away.
package shim

import (
	"encoding/json"
	"time"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// ProtocolVersion is sent with every request. A shim answers a version that it does not speak with an error.
const ProtocolVersion = 2

// Request is one request. Op decides which other fields mean something.
type Request struct {
	Version int    `json:"version"`
	Op      Op     `json:"op"`
	ID      string `json:"id,omitempty"`    // container
	Force   bool   `json:"force,omitempty"` // delete: also a container that runs

	Start *StartRequest `json:"start,omitempty"`
	Clone *CloneRequest `json:"clone,omitempty"` // build-template: what a clone would be made of
	Exec  *ExecRequest  `json:"exec,omitempty"`
}

// Op names what a request asks for.
type Op string

// The operations of a shim.
const (
	OpPing   Op = "ping"   // answer at once
	OpStart  Op = "start"  // create and start the container whose directory is prepared
	OpClone  Op = "clone"  // restore the container whose directory is prepared from a snapshot
	OpExec   Op = "exec"   // run a program in a container; 3 descriptors, or 1 for a terminal
	OpWait   Op = "wait"   // answer when the container has exited
	OpSettle Op = "settle" // answer when all memory of the container is its own, and needs the shim no more
	OpDelete Op = "delete" // delete a container and its files

	OpBuildTemplate  Op = "build-template"  // build the snapshot's template unless it is there, and keep it until it is removed
	OpTemplates      Op = "templates"       // list the templates that are there
	OpRemoveTemplate Op = "remove-template" // end the template of the snapshot ID, whose clones live on
)

// Paths tells a shim where things are.
type Paths struct {
	Root string `json:"root"` // persistent state
	Run  string `json:"run"`  // run-time state
	CRIU string `json:"criu"` // the criu binary

	Bridge string `json:"bridge"` // name of the bridge for containers with network mode "bridge"
	Subnet string `json:"subnet"` // its subnet, "10.88.0.0/16"
}

// StartRequest starts the container ID: Record has everything but what the shim finds out; the OCI runtime spec lies as
// config.json in the container's directory, with paths of mount sources already made absolute.
type StartRequest struct {
	Record snapshot.Container `json:"record"`
	Lower  []string           `json:"lower"` // overlay lower directories, topmost first
}

// CloneRequest restores a snapshot into the container ID.
type CloneRequest struct {
	Record     snapshot.Container `json:"record"`
	ConfigFile string             `json:"config_file"` // the snapshot's config, which the shim reads once for all clones
	Lower      []string           `json:"lower"`       // overlay lower directories, topmost first; the snapshot's own files are the first
	Images     string             `json:"images"`      // directory with CRIU's images, shared with other clones, read-only
	Contents   map[string]string  `json:"contents"`    // mount key -> directory with the captured content
	Engine     string             `json:"engine"`      // snapshot.EngineCRIU, EngineTemplate or EngineAuto

	Config  snapshot.Config `json:"-"` // what ConfigFile says
	Arrived time.Time       `json:"-"` // when the shim had received the request
}

// ExecRequest runs a program.
type ExecRequest struct {
	Args    []string `json:"args"`
	Env     []string `json:"env"`
	Workdir string   `json:"workdir"`
	User    string   `json:"user"`
	TTY     bool     `json:"tty"` // the one descriptor sent is a unix socket on which the shim sends the terminal's master
}

// Reply is one line of an answer.
type Reply struct {
	Done  bool             `json:"done"`
	Error *Failure         `json:"error,omitempty"`
	Pid   int              `json:"pid,omitempty"`    // ping: of the shim; exec: of the program, in a line of its own
	Exit  *int             `json:"exit,omitempty"`   // exec, wait; start: in place of a program that could not be started
	Value json.RawMessage  `json:"value,omitempty"`  // start, clone: the container's record
	Phase []snapshot.Phase `json:"phases,omitempty"` // clone: where the time went

	Templates []snapshot.Template `json:"templates,omitempty"` // build-template: the one; templates: all
	Fresh     bool                `json:"fresh,omitempty"`     // build-template: it was not there before
}

// Failure is a [snapshot.Error] on the wire.
type Failure struct {
	Kind    snapshot.Kind `json:"kind"`
	Op      string        `json:"op"`
	On      string        `json:"on"`
	Message string        `json:"message"`
	Hint    string        `json:"hint"`
	Log     string        `json:"log"`
}
