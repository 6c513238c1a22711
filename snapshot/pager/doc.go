// Package pager gives restored processes their memory while they already run.
//
// CRIU restores a task with its memory registered at a userfaultfd and hands that to the pager. A page that the task
// touches is put there at once; meanwhile the rest is filled in the background, first what earlier clones of the same
// snapshot touched in their first moments (the working set). When nothing is missing any more the userfaultfd is
// closed, and the memory is ordinary memory.
//
//	CRIU ──userfaultfd──► Session ──► space ── faults ──► pages of the snapshot, mapped once for all clones
//	                                        └─ fill  ──►
//
// Memory that nobody serves reads as zeros. So a task must not outlive its pager while pages are missing: the pager's
// process is its parent, and a clone is given SIGKILL as its parent-death signal.
//
// The protocol is that of CRIU's lazy-pages daemon (CRIU 4.2, criu/uffd.c).
package pager
