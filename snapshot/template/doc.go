// Package template is the engine "template": a snapshot's memory is kept in one resident process, the template, and every
// clone is a fork of it, with threads, descriptors, namespaces and credentials made anew.
//
// What a clone takes is worked out once for a snapshot, from CRIU's images, as lists of system calls (package recipe). A
// small program without a C library, the stub, lives in the template and makes them. A snapshot that has something in it for
// which there is no recipe is left to the engine "criu"; the compiler that writes the recipes is also what finds that out,
// so the two cannot disagree.
package template
