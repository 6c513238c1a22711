// Package sys holds typed wrappers around the Linux system calls that this module uses. It alone imports
// golang.org/x/sys/unix; one file a concern. Wrappers retry EINTR and name the call and its object in errors.
package sys
