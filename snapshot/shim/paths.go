package shim

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/snapd-ctr/snapd-ctr/snapshot"
)

// maxGroup keeps a group's socket below the kernel's limit of 107 bytes when it is named by its directory's descriptor.
const maxGroup = 80

// Socket is the address of the shim of a group: the id of a container that was run, or of a snapshot that was cloned.
func (p Paths) Socket(group string) string {
	return filepath.Join(p.Run, "shims", group+".sock")
}

// Libcontainer is the directory in which the shims keep libcontainer's state, a directory for each running container.
func (p Paths) Libcontainer() string { return filepath.Join(p.Run, "libcontainer") }

// Leases is the directory in which the bridge keeps its address leases.
func (p Paths) Leases() string { return filepath.Join(p.Run, "network") }

// lockOf names the file whose lock decides who may start or end the shim with this socket.
func lockOf(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".lock" }

// logOf names the log that may lie beside a socket.
func logOf(socket string) string { return strings.TrimSuffix(socket, ".sock") + ".log" }

func checkGroup(group string) error {
	if group == "" || group == "." || group == ".." || len(group) > maxGroup || strings.ContainsAny(group, "/\x00") {
		return &snapshot.Error{Kind: snapshot.KindInvalid, Op: "start shim", On: group, Err: errors.New("not a valid group")}
	}
	return nil
}
