// Package recipe builds lists of system calls for the stub of a template to make: everything about a process that can be
// worked out once for a snapshot is worked out in Go, and what is left for a clone is to make the calls, one after the
// other. A recipe knows nothing of processes; it is a list of calls, and the memory that their arguments point into.
//
// Recipes and their data lie in the template at addresses that are known beforehand, so pointers need no relocation. What
// differs from clone to clone is loaded from memory at the time of the call (see [Load]).
package recipe
