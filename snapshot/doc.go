// Package snapshot holds the nouns of snapd-ctr and its pure state machines.
//
// A container is a running set of processes with namespaces, cgroup and root filesystem. A snapshot is immutable and
// content-addressed: its id is the digest of its manifest, and names point at ids. Capture makes a snapshot of a
// container; clone makes a container of a snapshot, and an engine is the way in which it is done.
//
//	container ──capture──► snapshot ──clone──► containers
//
// Everything here is data and decisions. The package does no I/O and imports nothing of this module but internal
// packages, so that every other package can speak these words.
package snapshot
