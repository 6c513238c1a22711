// Package criu runs an unmodified CRIU and reads and rewrites the images it makes.
//
// A [Tool] is a criu binary. [Tool.Dump] freezes a process tree and writes its images, then waits for the caller's
// verdict: [Dump.Finish] or [Dump.Rollback]. [Tool.Restore] makes a tree again as a child of the calling process.
// Both start one criu process and speak its own protocol with it over a socket; when that process dies, or when the
// caller's context ends, what was half done is undone.
//
// [Open] reads images, and can change what of them cannot be so in clones; [ElideZeros] makes them smaller.
//
// All of it needs root.
package criu
